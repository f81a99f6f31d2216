"""The control without a language model: what a linear classifier and a look-up make of the same rows.

A stack that does not beat it is not worth its price. Each label is predicted by a linear SVM on TF-IDF of words and
characters of the input's text. A text that is copied from the input is looked up: every stretch of the input that
is, or is shaped like, a value seen in training is a candidate, and the candidate that was most often right in training
is taken. Everything else gets its commonest training value.
"""

from __future__ import annotations

import re
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pydantic import BaseModel

from ..schema import dumps, plain_data
from .fields import FieldSpec, Json, label_of

_COPIED = 0.8
"""A text field is taken to be copied if this share of its training values stands in the input."""
_LONGEST = 12
"""Tokens: longer values are not looked for."""
_TOKEN = re.compile(r"\w+|[^\w\s]")
_RUNS = (("9", re.compile(r"\d+")), ("A", re.compile(r"[A-Z]+")), ("a", re.compile(r"[^\W\d_A-Z]+")))


def text_of(input: BaseModel) -> str:
    """All texts and numbers of an input, a line each."""
    return "\n".join(str(leaf) for leaf in _leaves(plain_data(input)))


def _leaves(data: Any) -> Iterator[Any]:
    if isinstance(data, Mapping | list):
        for value in data.values() if isinstance(data, Mapping) else data:
            yield from _leaves(value)
    elif data is not None:
        yield data


class LinearControl:
    """Fitted on training rows, predicts whole messages.

    Args:
        texts: the inputs' texts.
        gold: the messages that belong to them.
        specs: the fields to predict.

    Attributes:
        seconds: the time that fitting took.
        ways: how each field is predicted: ``linear``, ``look-up`` or ``commonest value``.
    """

    def __init__(self, texts: Sequence[str], gold: Sequence[Json], specs: Sequence[FieldSpec]) -> None:
        from sklearn.feature_extraction.text import TfidfVectorizer
        from sklearn.pipeline import make_union

        began = time.perf_counter()
        self._specs = tuple(specs)
        self._features = make_union(
            TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, token_pattern=r"(?u)\b\w+\b|[^\w\s]"),
            TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 5), sublinear_tf=True),
        )
        matrix = self._features.fit_transform([text or " - " for text in texts])
        values = {spec.name: [spec.of(message) for message in gold] for spec in specs}
        self._linear = {spec.name: _Linear(matrix, values[spec.name]) for spec in self._specs if spec.kind == "label"}
        self._copied = {
            spec.name: _Copied(matrix, texts, values[spec.name], self._gates(spec, values))
            for spec in self._specs
            if spec.kind == "text" and is_copied(texts, values[spec.name])
        }
        self._usual = {
            spec.name: commonest(values[spec.name])
            for spec in self._specs
            if spec.name not in self._linear and spec.name not in self._copied
        }
        self.seconds = time.perf_counter() - began
        self.ways = {
            spec.name: "linear"
            if spec.name in self._linear
            else "look-up"
            if spec.name in self._copied
            else "commonest value"
            for spec in self._specs
        }

    def _gates(self, spec: FieldSpec, values: Mapping[str, Sequence[Any]]) -> tuple[str, Sequence[Any]] | None:
        """A label that is null exactly where the text is, and so says when and of which kind there is one."""
        empty = [value is None for value in values[spec.name]]
        for other in self._specs:
            if other.kind == "label" and any(empty) and [v is None for v in values[other.name]] == empty:
                return other.name, values[other.name]
        return None

    def predict(self, texts: Sequence[str]) -> list[Json]:
        """A message for each text."""
        if not texts:
            return []
        matrix = self._features.transform([text or " - " for text in texts])
        columns: dict[str, Sequence[Any]] = {name: model.predict(matrix) for name, model in self._linear.items()}
        columns |= {name: model.predict(matrix, texts, columns) for name, model in self._copied.items()}
        columns |= {name: [value] * len(texts) for name, value in self._usual.items()}
        return [_nested({spec.name: columns[spec.name][i] for spec in self._specs}) for i in range(len(texts))]


def is_copied(texts: Sequence[str], values: Sequence[Any]) -> bool:
    """Whether the texts of a field are copied from the input, by and large."""
    present = [value in text for text, value in zip(texts, values, strict=True) if isinstance(value, str) and value]
    return bool(present) and sum(present) / len(present) >= _COPIED


def commonest(values: Sequence[Any]) -> Any:
    """The value that occurs most often, the first of several."""
    ((text, _),) = Counter(map(dumps, values)).most_common(1)
    return next(value for value in values if dumps(value) == text)


class _Linear:
    """A linear SVM over labels; a constant where training knows one label alone."""

    def __init__(self, matrix: Any, values: Sequence[Any]) -> None:
        from sklearn.svm import LinearSVC

        self._values = {label_of(value): value for value in values}
        self._model = None
        if len(self._values) > 1:
            self._model = LinearSVC(C=1.0, random_state=0).fit(matrix, [label_of(value) for value in values])

    def predict(self, matrix: Any) -> list[Any]:
        if self._model is None:
            (value,) = self._values.values()
            return [value] * matrix.shape[0]
        return [self._values[str(label)] for label in self._model.predict(matrix)]


class _Copied:
    """Looks for a value in the input.

    Candidates are judged for each kind of text by itself, where a label (the gate) says the kind; else a linear
    classifier says whether there is a value at all.
    """

    def __init__(
        self, matrix: Any, texts: Sequence[str], values: Sequence[Any], gate: tuple[str, Sequence[Any]] | None
    ) -> None:
        self._gate = gate[0] if gate else None
        self._present = None if gate else _Linear(matrix, [value is not None for value in values])
        kinds = [label_of(v) for v in gate[1]] if gate else ["any"] * len(values)
        self._known: dict[str, set[str]] = defaultdict(set)
        self._shapes: dict[str, set[str]] = defaultdict(set)
        for kind, value in zip(kinds, values, strict=True):
            if isinstance(value, str):
                self._known[kind].add(value)
                self._shapes[kind].add(shape(value))
        self._right: Counter[tuple[str, str]] = Counter()
        self._seen: Counter[tuple[str, str]] = Counter()
        for kind, text, value in zip(kinds, texts, values, strict=True):
            if isinstance(value, str):
                self._learn(kind, text, value)

    def _learn(self, kind: str, text: str, value: str) -> None:
        """Count how often a shape in a text is the value; each occurrence of a shape once."""
        for piece in spans(text):
            if (form := shape(piece)) in self._shapes[kind]:
                self._seen[kind, form] += 1
                self._right[kind, form] += piece == value

    def predict(self, matrix: Any, texts: Sequence[str], columns: Mapping[str, Sequence[Any]]) -> list[str | None]:
        if self._gate is None:
            assert self._present is not None
            kinds = ["any" if there else None for there in self._present.predict(matrix)]
        else:
            kinds = [None if label is None else label_of(label) for label in columns[self._gate]]
        return [None if kind is None else self._best(kind, text) for kind, text in zip(kinds, texts, strict=True)]

    def _best(self, kind: str, text: str) -> str | None:
        """The candidate most often right in training, the longest of several; values seen in training go first."""
        found = [
            (piece in self._known[kind], self._trust(kind, piece), len(piece), piece)
            for piece in spans(text)
            if piece in self._known[kind] or shape(piece) in self._shapes[kind]
        ]
        return max(found)[-1] if found else None

    def _trust(self, kind: str, piece: str) -> float:
        key = (kind, shape(piece))
        return self._right[key] / self._seen[key] if self._seen[key] else 0.0


def shape(text: str) -> str:
    """What a value looks like: runs of digits, capitals and other letters, each as one character.

    >>> shape("VLH-13,004.95"), shape("María Fernanda")
    ('A-9,9.9', 'Aa Aa')
    """
    out, place = [], 0
    while place < len(text):
        for sign, run in _RUNS:
            if found := run.match(text, place):
                out.append(sign)
                place = found.end()
                break
        else:
            out.append(text[place])
            place += 1
    return "".join(out)


def spans(text: str) -> Iterator[str]:
    """Every stretch of a text that begins and ends with a whole word or sign and has up to 12 of them.

    >>> list(spans("id #5"))
    ['id', 'id #', 'id #5', '#', '#5', '5']
    """
    tokens = [(found.start(), found.end()) for found in _TOKEN.finditer(text)]
    for first, (start, _) in enumerate(tokens):
        for _, end in tokens[first : first + _LONGEST]:
            yield text[start:end]


def _nested(flat: Mapping[str, Any]) -> Json:
    """Dotted names as objects within objects."""
    made: Json = {}
    for name, value in flat.items():
        *above, last = name.split(".")
        place = made
        for part in above:
            place = place.setdefault(part, {})
        place[last] = value
    return made


__all__ = ["LinearControl", "commonest", "is_copied", "shape", "spans", "text_of"]
