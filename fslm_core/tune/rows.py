"""The rows of a tuning: read, checked, divided, and looked through for rows that are on two sides."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from ..data import Rejected, Target, read_rows
from ..data.near import Clusters, join_near, near_form, same_form, similarity
from ..data.split import divide
from ..errors import TrainError
from ..evaluate import read_cases
from ..evaluate.control import text_of
from ..evaluate.fields import Json, Mark
from ..evaluate.gold import Case
from ..folders import sha256_of
from ..message import digest
from ..schema import canonical, dumps
from ..stack import Stack
from ..store import marks_of
from ..train.rows import Problems
from .recipe import Data

Side = Literal["train", "select", "dev"]


@dataclass
class Item:
    """A row. Its ``steps`` are filled in as they become known.

    Attributes:
        place: its file and line, for people.
        text: of its input, for comparing.
        given: the steps whose messages the row itself brought.
    """

    place: str
    line: int
    raw: dict[str, Any]
    text: str
    side: Side = "train"
    given: frozenset[str] = frozenset()


@dataclass
class Rows:
    """All rows of a tuning; ``sha256`` is that of their files, ``dropped`` how many repeated another word for word."""

    items: list[Item] = field(default_factory=list)
    dropped: int = 0
    sha256: str = ""

    def of(self, *sides: Side) -> list[Item]:
        """The rows on these sides."""
        return [item for item in self.items if item.side in sides]


def gather(stack: Stack[Any, Any], data: Data, seed: int) -> Rows:
    """Read all rows, and give each its side.

    Raises:
        TrainError: rows that do not fit the stack or say nothing, held-out rows that are among the training rows, or
            a side without a row.
        DataError: a file cannot be read.
    """
    problems = Problems()
    train = _read(stack, data.train, problems)
    dev = [] if data.dev is None else _read(stack, data.dev, problems)
    problems.refuse()
    kept, held = _without_repeats(train), _without_repeats(dev)
    found = Rows([*kept, *held], len(train) + len(dev) - len(kept) - len(held))
    files = [path for path in (data.train, data.dev) if path is not None]
    found.sha256 = digest(*(sha256_of(path) for path in files))
    clusters = _clusters(found.items, data)
    if held:
        _refuse_leaks(kept, held, clusters, data)
        for item in held:
            item.side = "dev"
    _divide(found.items, clusters, len(kept), {} if held else {"dev": data.dev_fraction}, data, seed)
    for side in ("train", "select", "dev"):
        if not found.of(side):
            raise TrainError(
                f"there is no row to {'train on' if side == 'train' else f'put on the side {side}'}",
                where=str(data.train),
                found=f"{len(found.items)} rows",
                hint="give more rows, or set data.dev_fraction and data.select_fraction",
            )
    return found


def cases_of(stack: Stack[Any, Any], items: Sequence[Item]) -> list[Case]:
    """The rows as they are now, each with what its steps should say as far as that is known."""
    return read_cases(stack, [item.raw for item in items], [item.line for item in items]).cases


# -- reading ---------------------------------------------------------------------------------------------------------


def _read(stack: Stack[Any, Any], path: Path, problems: Problems) -> list[Item]:
    rejected: list[Rejected] = []
    rows = list(read_rows(path, Target.of(stack), rejected=rejected.append))
    private = bool(marks_of(stack))  # then nothing is quoted
    for row in rejected:
        problems.add(path, row.line, f"{row.field}: {'it does not fit' if private else row.text}")
    raws = [{**row.extra, "input": row.input, "output": row.output} for row in rows]
    read = read_cases(stack, raws, [row.line for row in rows])
    for misfit in read.misfits:
        problems.add(path, misfit.line, misfit.text)
    notes = {(note.line, note.text.partition(":")[0]): note.text for note in read.notes}
    by_line = {row.line: raw for row, raw in zip(rows, raws, strict=True)}
    items = []
    for case in read.cases:
        raw = by_line[case.line]
        steps = dict(raw.get("steps") or {})
        _check(case, steps, notes, path, problems)
        item = Item(f"{path.name}, line {case.line}", case.line, {**raw, "steps": steps}, text_of(case.input))
        item.given = frozenset(steps)
        items.append(item)
    return items


def _check(
    case: Case, steps: Mapping[str, Any], notes: Mapping[tuple[int, str], str], path: Path, problems: Problems
) -> None:
    """Note messages that fit no schema, and targets that say nothing."""
    if empty(case.gold):
        problems.add(path, case.line, "output: it is empty")
    for name, message in steps.items():
        if (note := notes.get((case.line, f"step {name}"))) is not None or case.steps[name] is Mark.UNKNOWN:
            problems.add(path, case.line, note or f"step {name}: it does not fit")
        elif message is not None and empty(message):
            problems.add(path, case.line, f"step {name}: it is empty")


def empty(value: Any) -> bool:
    """Whether a message says nothing: it has no text but blank ones. Null, a number and an empty list say something.

    >>> empty({"answer": "  "}), empty({}), empty({"city": None}), empty({"items": []})
    (True, True, False, False)
    """
    if isinstance(value, Mapping):
        return all(map(empty, value.values()))
    return isinstance(value, str) and not value.strip()


def _without_repeats(items: Iterable[Item]) -> list[Item]:
    """The rows without those that repeat another word for word."""
    first: dict[str, Item] = {}
    for item in items:
        first.setdefault(dumps({part: item.raw[part] for part in ("input", "output", "steps")}), item)
    return list(first.values())


# -- sides -----------------------------------------------------------------------------------------------------------


def _clusters(items: Sequence[Item], data: Data) -> Clusters:
    clusters = Clusters(len(items))
    if data.group is not None:
        if not any(data.group in item.raw for item in items):
            raise TrainError(
                "data.group names a column that no row has",
                where="recipe, data.group",
                found=data.group,
                expected=", ".join(sorted({name for item in items for name in item.raw})),
                hint="name a column of the rows, or leave it out",
            )
        clusters.join_equal(_group(item, data.group) for item in items)
    clusters.join_equal(same_form(item.text) for item in items)
    if data.near < 1:
        join_near(clusters, [near_form(item.text) for item in items], data.near)
    return clusters


def _group(item: Item, column: str) -> str | None:
    value = item.raw.get(column)
    return None if value is None else dumps(value)


def _refuse_leaks(train: Sequence[Item], dev: Sequence[Item], clusters: Clusters, data: Data) -> None:
    """Make sure that no held-out row has its like among the training rows.

    Raises:
        TrainError: with the first pair.
    """
    beside: defaultdict[int, list[Item]] = defaultdict(list)
    for place, item in enumerate(train):
        beside[clusters.of(place)].append(item)
    pairs: list[tuple[Item, Item, str]] = []
    for place, item in enumerate(dev, start=len(train)):
        for other in beside[clusters.of(place)]:
            if why := _alike(item, other, data):
                pairs.append((item, other, why))
                break
    if pairs:
        held, other, why = pairs[0]
        raise TrainError(
            f"{len(pairs)} held-out row{'s have' if len(pairs) > 1 else ' has'} a like among the training rows",
            where=f"{held.place}, and {other.place}",
            found=why,
            expected="no row of data.dev in data.train, nor one like it",
            hint="take these rows out of data.train, or leave data.dev out and let the rows be divided",
        )


def _alike(one: Item, other: Item, data: Data) -> str | None:
    """Why two rows must not be on two sides; None where they may."""
    if same_form(one.text) == same_form(other.text):
        return "the same input"
    if data.group is not None and _group(one, data.group) == _group(other, data.group) is not None:
        return f"the same {data.group}"
    share = similarity(near_form(one.text), near_form(other.text))
    return f"inputs that have {share:.0%} in common" if share >= data.near and data.near < 1 else None


def _divide(
    items: Sequence[Item], clusters: Clusters, count: int, shares: Mapping[str, float], data: Data, seed: int
) -> None:
    """Give the first ``count`` rows their sides; whole clusters, so that no row has its like on another side."""
    members: defaultdict[int, list[int]] = defaultdict(list)
    for place in range(count):
        members[clusters.of(place)].append(place)
    held = sum(shares.values())
    select = data.select_fraction * (1 - held)
    wanted = {"train": 1 - held - select, "select": select, **shares}
    positive = {name: share for name, share in wanted.items() if share > 0}
    sides = divide(list(members.values()), [[]] * count, positive, seed=seed)
    for name in positive:  # few and large clusters may leave a side without any
        spare = [places for places in members.values() if sides[places[0]] == "train"]
        if name not in sides and len(spare) > 1:
            for place in min(spare, key=len):
                sides[place] = name
    for item, side in zip(items, sides, strict=False):
        item.side = "train" if side == "train" else "select" if side == "select" else "dev"


def identity(case: Case) -> str:
    """What a row is about, for the keys of what is kept of it."""
    return canonical(case.input)


__all__ = ["Item", "Json", "Rows", "Side", "cases_of", "empty", "gather", "identity"]
