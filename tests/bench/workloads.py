"""What is run: a stack, and labelled rows for it. No row is in the repository; ``--data`` says where the sets lie."""

from __future__ import annotations

import importlib.util
import json
import random
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

from fslm_core import PluginHost, Stack
from fslm_core.settings import Settings

from . import ROOT
from .problems import BenchError

Json = dict[str, Any]


@dataclass(frozen=True)
class Row:
    """One labelled input."""

    input: Json
    output: Json


@dataclass(frozen=True)
class Rows:
    """A workload's rows.

    Attributes:
        quality: what scores are taken on, from a development split.
        timing: other rows, each text once, whose labels nobody looks at.
    """

    quality: tuple[Row, ...]
    timing: tuple[Row, ...]

    def slices(self, sizes: Sequence[int]) -> list[tuple[Json, ...]]:
        """Inputs for several measurements, no text in two of them.

        Raises:
            BenchError: there are too few rows.
        """
        if sum(sizes) > len(self.timing):
            raise BenchError(
                f"{sum(sizes)} unique texts are wanted, {len(self.timing)} are there: ask for fewer --rows or --rounds"
            )
        found, start = [], 0
        for size in sizes:
            found.append(tuple(row.input for row in self.timing[start : start + size]))
            start += size
        return found


@dataclass(frozen=True)
class Workload:
    """A stack and where its rows come from.

    Attributes:
        split: reads the development and the training rows under ``--data``.
        score: how good an output (None where a run failed) is beside its label, 0 to 1.
        peers: whether other engines run it, too.
    """

    name: str
    stack: Callable[[], Stack[Any, Any]]
    split: Callable[[Path], tuple[list[Row], list[Row]]] = field(repr=False)
    score: Callable[[Json, Json | None, Stack[Any, Any]], float] = field(repr=False)
    peers: bool = True

    def rows(self, data: Path, quality: int, seed: int = 0) -> Rows:
        """Draw the rows by a fixed seed; development rows that are not scored are timed first, then training rows.

        Raises:
            BenchError: the set is not there.
        """
        dev, train = self.split(data)
        chance = random.Random(seed)
        dev, train = _unique(dev, set()), list(train)
        chance.shuffle(dev)
        chance.shuffle(train)
        chosen = dev[:quality]
        seen = {_text(row) for row in chosen}
        return Rows(tuple(chosen), tuple(_unique([*dev[quality:], *train], seen)))


def exact(gold: Json, said: Json | None, stack: Stack[Any, Any]) -> float:
    """1 where the whole output equals its label.

    >>> exact({"a": 1}, {"a": 1}, None), exact({"a": 1}, None, None)
    (1.0, 0.0)
    """
    from fslm_core.evaluate.fields import same

    return float(said is not None and all(same(gold[name], said.get(name)) for name in gold))


def by_field(gold: Json, said: Json | None, stack: Stack[Any, Any]) -> float:
    """The mean over the output's fields: whether it is right, and for free text the F1 of shared tokens."""
    from fslm_core.evaluate.fields import Mark, fields_of, same, token_f1

    fields = [spec for spec in fields_of(stack.output) if spec.of(gold) is not Mark.UNKNOWN]
    if said is None or not fields:
        return 0.0
    pairs = [(spec, spec.of(gold), spec.of(said)) for spec in fields]
    return sum(token_f1(g, s) if spec.kind == "text" else float(same(g, s)) for spec, g, s in pairs) / len(pairs)


def _text(row: Row) -> str:
    return json.dumps(row.input, sort_keys=True)


def _unique(rows: Iterable[Row], seen: set[str]) -> list[Row]:
    kept = []
    for row in rows:
        if (text := _text(row)) not in seen:
            seen.add(text)
            kept.append(row)
    return kept


# -- the stacks -------------------------------------------------------------------------------------------------------


def installed(name: str) -> Stack[Any, Any]:
    """The installed stack of that name.

    Raises:
        BenchError: its plugin is not installed, or cannot be loaded.
    """
    host = PluginHost(Settings())
    if name not in host.stacks:
        raise BenchError(f"the stack {name!r} is not installed: python -m pip install ./plugins/fslm-{name}")
    return host.stacks[name]


def single() -> Stack[Any, Any]:
    """The control: support's whole ticket from one adapter, in one stage."""
    stack: Stack[Any, Any] = _module("one_stage", ROOT / "plugins/fslm-support/train/control").single
    return stack


def _module(name: str, folder: Path) -> ModuleType:
    """A program beside a plugin, loaded by its path, with the modules beside it."""
    spec = importlib.util.spec_from_file_location(f"bench_{folder.name}_{name}", folder / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(folder))
    try:
        sys.modules[spec.name] = module
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(folder))
    return module


# -- the rows ---------------------------------------------------------------------------------------------------------

TICKET = ("category", "intent", "entity_type", "entity_value")


def bitext(data: Path) -> tuple[list[Row], list[Row]]:
    """The rows of bitext_support: ``dev.jsonl`` and ``train.jsonl``."""

    def read(name: str) -> list[Row]:
        found = [json.loads(line) for line in _lines(data, "bitext_support", name)]
        return [Row({"text": row["text"]}, {key: row[key] for key in TICKET}) for row in found]

    return read("dev.jsonl"), read("train.jsonl")


def call_notes(data: Path) -> tuple[list[Row], list[Row]]:
    """The dialogues of sgd with the notes that their annotation amounts to, as the plugin's program prepares them."""
    program = ROOT / "plugins/fslm-notes/train/prepare.py"
    _lines(data, "sgd", "dev.jsonl")
    with tempfile.TemporaryDirectory() as out:
        command = [sys.executable, program, "--data", _folder(data, "sgd"), "--out", out]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        return _prepared(Path(out) / "dev.jsonl"), _prepared(Path(out) / "note.train.jsonl")


def _prepared(file: Path) -> list[Row]:
    found = map(json.loads, file.read_text(encoding="utf-8").splitlines())
    return [Row(row["input"], row["output"]) for row in found]


def _folder(data: Path, name: str) -> Path:
    return data / name if (data / name).is_dir() else data


def _lines(data: Path, folder: str, name: str) -> list[str]:
    file = _folder(data, folder) / name
    try:
        return file.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise BenchError(f"no rows: {file} ({error.strerror}); --data names the folder that holds {folder}/") from None


WORKLOADS: Mapping[str, Workload] = {
    work.name: work
    for work in (
        Workload("support", lambda: installed("support"), bitext, exact),
        Workload("notes", lambda: installed("notes"), call_notes, by_field),
        Workload("control", single, bitext, exact, peers=False),
    )
}
"""``control`` is support in one stage, so that the price of stacking is known."""

__all__ = ["WORKLOADS", "Json", "Row", "Rows", "Workload", "by_field", "exact", "installed", "single"]
