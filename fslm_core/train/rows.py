"""Rows of training data: read, checked against the stage, split. Everything that is wrong is found before training."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from ..data import Cleaned, Rules, clean
from ..data import Row as PlainRow
from ..errors import FslmError, TrainError, shorten
from ..schema import Schema, canonical, loads, plain_data, problems_of
from ..stage import Stage
from .progress import Noted, Progress
from .recipe import Clean, Data, Recipe

_SHOWN = 5
_EXPECTED = '{"input": {…}, "output": {…}} that fit the stage\'s models'


@dataclass(frozen=True, slots=True)
class Row:
    """A checked row.

    Attributes:
        number: its line in the file, counted from 1.
        target: the output's canonical text.
        schema: the output schema as this input narrows it.
    """

    number: int
    input: BaseModel
    output: BaseModel
    target: str
    schema: Schema


@dataclass(frozen=True, slots=True)
class Rows:
    """A file of checked rows, the file's SHA-256 (hex), and how many lines repeat an earlier one."""

    path: Path
    rows: tuple[Row, ...]
    sha256: str
    duplicates: int


@dataclass(frozen=True, slots=True)
class RowSets:
    """All rows of a run: to train on, to select by, and the files they came from (the training file first).

    Attributes:
        cleaned: what went from the rows to train on; None where nothing was to go.
        chosen: names the choice among them; None where all are trained on.
    """

    train: list[Row]
    select: list[Row]
    files: tuple[Rows, ...]
    cleaned: Cleaned | None = None
    chosen: str | None = None


class Problems:
    """Counts what is wrong with rows and keeps the first few for the error's text."""

    def __init__(self) -> None:
        self.count = 0
        self.first: list[str] = []

    def add(self, path: Path, number: int, text: str) -> None:
        """Note that line ``number`` of ``path`` is wrong."""
        self.count += 1
        if len(self.first) < _SHOWN:
            self.first.append(f"{path.name}, line {number}: {shorten(text, 200)}")

    def refuse(self, where: str = "the recipe's data", expected: str = _EXPECTED) -> None:
        """Raise if there was any problem.

        Args:
            where: the rows are, for the error.
            expected: what a row should be.

        Raises:
            TrainError: with the number of problems and the first of them.
        """
        if self.count:
            raise TrainError(
                f"{self.count} row{'s' * (self.count > 1)} cannot be trained on",
                where=where,
                found=shorten("; ".join(self.first), 290),
                expected=expected,
                hint="mend or drop these rows; nothing was trained",
            )


def read_sets(recipe: Recipe, stage: Stage[Any, Any], progress: Progress) -> RowSets:
    """Read, check and split all rows of a recipe; duplicates and inputs on both sides are told.

    Raises:
        TrainError: a file cannot be read, rows do not fit the stage, or a side has none.
    """
    problems, data = Problems(), recipe.data
    files = [read_rows(path, stage, problems) for path in (data.train, data.select) if path is not None]
    problems.refuse()
    if data.select is None:
        train, select = split(files[0], data)
    else:
        train, select = (list(file.rows) for file in files)
    for file in files:
        if file.duplicates:
            progress(Noted(f"{file.path.name}: {file.duplicates} of {len(file.rows)} rows repeat an earlier one"))
    if shared := {_text(row.input) for row in train} & {_text(row.input) for row in select}:
        progress(Noted(f"{len(shared)} inputs are among training and selection rows; scores will flatter"))
    cleaned = _cleaned(train, recipe.clean) if recipe.clean is not None else None
    if cleaned is not None:
        kept = set(cleaned.kept)
        train = [row for row in train if row.number in kept]
        progress(
            Noted(
                f"{files[0].path.name}: {len(cleaned.repeats)} rows repeat an earlier one,"
                f" {len(cleaned.leaks)} give away rows to be scored by; {len(train)} stay"
            )
        )
    train, select = subset(train, data.max_rows, recipe.seed), subset(select, data.select_rows, 0)
    if not train or not select:
        raise TrainError(
            f"no rows are left to {'select by' if train else 'train on'}",
            where=str(data.train),
            hint="give more rows, or another data.fraction",
        )
    return RowSets(train, select, tuple(files), cleaned)


def _cleaned(train: Sequence[Row], rules: Clean) -> Cleaned:
    rows = [
        PlainRow(row.number, row.input.model_dump(mode="json", exclude_unset=True), plain_data(row.output))
        for row in train
    ]
    return clean(rows, Rules(**rules.model_dump()))


def read_rows(path: Path, stage: Stage[Any, Any], problems: Problems | None = None) -> Rows:
    """Read a JSONL file of ``{"input": …, "output": …}`` and check each row against the stage.

    Args:
        problems: takes what is wrong, and rows with problems are left out; without it they are an error.

    Raises:
        TrainError: the file cannot be read, or holds no row at all, or one that does not fit.
    """
    mine = Problems() if problems is None else problems
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise TrainError(
            f"the data cannot be read: {error.strerror}",
            where=str(path),
            hint="name another file with --set data.train=FILE",
        ) from None
    rows: list[Row] = []
    seen: Counter[tuple[str, str]] = Counter()
    for number, line in enumerate(raw.splitlines(), start=1):
        if not line.strip():
            continue
        row = _row(line, number, stage, path, mine)
        if row is not None:
            seen[_text(row.input), row.target] += 1
            rows.append(row)
    if problems is None:
        mine.refuse(where=str(path))
    if not rows and not mine.count:
        raise TrainError(
            "the file holds no rows",
            where=str(path),
            expected='one {"input": {…}, "output": {…}} a line',
            hint="name another file with --set data.train=FILE",
        )
    return Rows(path, tuple(rows), hashlib.sha256(raw).hexdigest(), len(rows) - len(seen))


def _row(line: bytes, number: int, stage: Stage[Any, Any], path: Path, problems: Problems) -> Row | None:
    try:
        data = loads(line)
    except (ValueError, RecursionError) as error:
        problems.add(path, number, f"not JSON: {error}")
        return None
    row = checked(data, number, stage)
    if isinstance(row, str):
        problems.add(path, number, row)
        return None
    return row


def checked(data: Any, number: int, stage: Stage[Any, Any]) -> Row | str:
    """The row that JSON data is, or what is wrong with it.

    Args:
        number: its line.
    """
    if not isinstance(data, dict) or not {"input", "output"} <= data.keys():
        return "not an object with input and output"
    models: list[BaseModel] = []
    for part, kind in (("input", stage.input), ("output", stage.output)):
        try:
            models.append(kind.model_validate_json(json.dumps(data[part])))
        except ValidationError as error:
            return f"{part}: " + "; ".join(map(str, problems_of(error)))
    given, answer = models
    try:
        schema = stage.narrowed(given)
        wrong = schema.problems(plain_data(answer))
        target = canonical(answer)
    except FslmError as error:
        return error.what
    if wrong:
        return "output: " + "; ".join(map(str, wrong))
    return Row(number, given, answer, target, schema)


def split(rows: Rows, data: Data) -> tuple[list[Row], list[Row]]:
    """Hold back a fixed fraction for selection, by the hash of each row's group; returns (train, select).

    The same row lands on the same side whatever else the file holds.
    """
    train: list[Row] = []
    select: list[Row] = []
    for row in rows.rows:
        (select if _share(_group(row, data.group)) < data.fraction else train).append(row)
    return train, select


def subset(rows: Sequence[Row], most: int | None, seed: int) -> list[Row]:
    """At most ``most`` rows, chosen by hash so that a larger subset holds every smaller one; order is kept."""
    if most is None or most >= len(rows):
        return list(rows)
    ranked = sorted(range(len(rows)), key=lambda i: (_share(f"{seed}\0{_text(rows[i].input)}\0{rows[i].target}"), i))
    return [rows[i] for i in sorted(ranked[:most])]


def class_weights(rows: Sequence[Row], data: Data) -> list[float]:
    """One weight a row, mean 1: count of the row's class to the power of minus ``balance_power``.

    Raises:
        TrainError: the output has no such field.
    """
    if data.balance_by is None:
        return [1.0] * len(rows)
    names = [_value(row, data.balance_by) for row in rows]
    counts = Counter(names)
    raw = [counts[name] ** -data.balance_power for name in names]
    mean = sum(raw) / len(raw)
    return [weight / mean for weight in raw]


def _value(row: Row, field: str) -> str:
    value = plain_data(row.output)
    if field not in value:
        raise TrainError(
            "balance_by names a field the output does not have",
            where="recipe, data.balance_by",
            found=field,
            expected=", ".join(value),
            hint="name one of the output's fields",
        )
    return json.dumps(value[field])


def _group(row: Row, group: str | None) -> str:
    if group is None:
        return _text(row.input)
    data: Any = {"input": row.input.model_dump(mode="json"), "output": plain_data(row.output)}
    for part in group.split("."):
        if not isinstance(data, dict) or part not in data:
            raise TrainError(
                "data.group names a field the rows do not have",
                where="recipe, data.group",
                found=group,
                expected="a dotted path that begins with input or output",
                hint="write it as input.customer, say, or leave it out",
            )
        data = data[part]
    return json.dumps(data, sort_keys=True)


def _text(model: BaseModel) -> str:
    return model.model_dump_json()


def _share(text: str) -> float:
    """A number in [0, 1) that depends on the text alone."""
    return int.from_bytes(hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:6]) / 2**48


__all__ = [
    "Problems",
    "Row",
    "RowSets",
    "Rows",
    "checked",
    "class_weights",
    "read_rows",
    "read_sets",
    "split",
    "subset",
]
