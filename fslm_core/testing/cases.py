"""Cases of a stage or a stack in a YAML file: an input, what the model replies, what is to come of it.

::

    stage: support.intent
    cases:
      - name: a late parcel
        input: {text: "Where is order 17?", category: ORDER}
        reply: {intent: track_order}
        expect:
          message: {intent: track_order}

The YAML is plain data: only ``true`` and ``false`` are booleans, so that the label ``NO`` is a text, and dates are
texts, too; a key that stands twice is an error.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from ..errors import FslmError
from ..message import Problem
from ..plugins import PluginHost
from ..schema import dumps, plain_data
from ..stack import Stack
from ..stage import Stage
from .broken import ContractBroken, shown
from .engine import KitEngine
from .outcome import Outcome

_FILE_KEYS = ("stage", "stack", "cases")
_CASE_KEYS = ("name", "input", "reply", "expect")
_EXPECT_KINDS: dict[str, tuple[type, ...]] = {
    "message": (dict,),
    "skipped": (list, str),
    "problem": (dict, str),
    "error": (str,),
}
_EXPECT_KEYS = tuple(_EXPECT_KINDS)
_FORMS = {
    "message": "message: {FIELD: VALUE, …}, the whole output",
    "skipped": "skipped: [STEP, …]",
    "problem": "problem: {kind: schema, field: FIELD}",
    "error": "error: CODE, one of `fslm errors`",
}
_KIND_NAMES: dict[type, str] = {dict: "a mapping", list: "a list", str: "a text"}
_PROBLEM_KEYS = ("kind", "field", "text", "step")


@dataclass(frozen=True)
class Case:
    """One case, as it was read.

    Attributes:
        place: the file and the case's name, for errors.
        kind: ``stage`` or ``stack``.
        target: the name of that.
        expect: ``message``, ``skipped``, ``problem``, ``error``: one or more of them.
    """

    place: str
    name: str
    kind: str
    target: str
    input: Mapping[str, Any]
    reply: Any
    expect: Mapping[str, Any] = field(default_factory=dict)


def read_cases(path: Path) -> list[Case]:
    """Read a file of cases.

    Raises:
        ContractBroken: it is no YAML, or no file of cases; the text names the case and the key.
    """
    try:
        data = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)
    except (OSError, UnicodeError, yaml.YAMLError, RecursionError) as error:
        raise ContractBroken(
            f"the file is not YAML: {error}", where=shown(path), hint="mend the line it names"
        ) from None
    where = shown(path)
    file = _mapping(data, where, _FILE_KEYS)
    kinds = [kind for kind in ("stage", "stack") if kind in file]
    if len(kinds) != 1 or not isinstance(file[kinds[0]], str):
        raise ContractBroken(
            "a file of cases is about one stage or one stack",
            where=where,
            found=", ".join(map(str, file)) or "no key",
            expected="stage: NAME, or stack: NAME",
            hint="begin the file with it",
        )
    listed = file.get("cases")
    if not isinstance(listed, list) or not listed:
        raise ContractBroken("there are no cases", where=f"{where}, cases", hint="write a list: cases: [{name: …}]")
    kind, target = kinds[0], file[kinds[0]]
    cases = [_case(one, f"{where}, case {number}", kind, target) for number, one in enumerate(listed, start=1)]
    names = [case.name for case in cases]
    if twins := sorted({name for name in names if names.count(name) > 1}):
        raise ContractBroken("two cases have one name", where=where, found=", ".join(twins), hint="rename one of them")
    return cases


def _case(data: object, where: str, kind: str, target: str) -> Case:
    case = _mapping(data, where, _CASE_KEYS)
    name = case.get("name")
    if not isinstance(name, str) or not name.strip():
        raise ContractBroken("a case needs a name", where=f"{where}, name", found=name, hint="say what it shows")
    place = f"{where} ({name})"
    for key in ("input", "expect"):
        if not isinstance(case.get(key), dict):
            raise ContractBroken(
                f"a case needs {key}", where=f"{place}, {key}", found=case.get(key), expected="a mapping",
                hint="input: the fields of the input model; expect: message, problem, skipped or error",
            )  # fmt: skip
    return Case(
        place, name, kind, target, case["input"], case.get("reply"), _expected(case["expect"], f"{place}, expect")
    )


def _expected(data: object, where: str) -> Mapping[str, Any]:
    expect = dict(_mapping(data, where, _EXPECT_KEYS))
    if not expect:
        raise ContractBroken("nothing is expected", where=where, expected=" or ".join(_EXPECT_KEYS), hint="say what")
    for key, kinds in _EXPECT_KINDS.items():
        if key in expect and not isinstance(expect[key], kinds):
            raise ContractBroken(
                f"{key} is of another kind",
                where=f"{where}.{key}",
                found=expect[key],
                expected=" or ".join(_KIND_NAMES[kind] for kind in kinds),
                hint=f"write {_FORMS[key]}",
            )
    if isinstance(expect.get("problem"), str):
        expect["problem"] = {"kind": expect["problem"]}
    if "problem" in expect:
        _mapping(expect["problem"], f"{where}.problem", _PROBLEM_KEYS)
    if isinstance(expect.get("skipped"), str):
        expect["skipped"] = [expect["skipped"]]
    if "message" in expect and {"problem", "error"} & expect.keys():
        raise ContractBroken(
            "a run gives a message or fails, not both", where=where, found=", ".join(expect), hint="leave one out"
        )
    return expect


def _mapping(data: object, where: str, keys: Sequence[str]) -> Mapping[str, Any]:
    if not isinstance(data, dict):
        raise ContractBroken(
            "a mapping was expected",
            where=where,
            found=data,
            expected=f"keys {', '.join(keys)}",
            hint="write `key: value`",
        )
    if unknown := [key for key in data if key not in keys]:
        raise ContractBroken(
            f"the key {unknown[0]!r} means nothing here",
            where=where,
            expected=", ".join(keys),
            hint="correct or remove it",
        )
    return data


def run_case(case: Case, host: PluginHost) -> Outcome[Any]:
    """Run a case on a real engine, and compare what came of it with what was expected.

    Args:
        host: where its stage or stack comes from.

    Raises:
        ContractBroken: it is not what was expected, or the case cannot be run; the text shows the whole outcome.
    """
    try:
        target: Stage[Any, Any] | Stack[Any, Any] = (
            host.stage(case.target) if case.kind == "stage" else host.stack(case.target)
        )
        with KitEngine([target], replies=_replies(case, target), host=host) as engine:
            outcome = engine.outcome(target, case.input)
    except FslmError as error:
        raise ContractBroken(
            f"the case cannot be run: {error.what}", where=case.place, found=error.found, expected=error.expected,
            hint=error.hint,
        ) from None  # fmt: skip
    if wrong := list(_differences(case.expect, outcome)):
        told = "\n".join(f"  {line}" for line in wrong)
        raise ContractBroken(f"what came of it was not expected\n{told}\n{outcome!r}", where=case.place)
    return outcome


def _replies(case: Case, target: Stage[Any, Any] | Stack[Any, Any]) -> Any:
    if case.reply is None and isinstance(target, Stack):
        return {}
    if isinstance(target, Stack) and not isinstance(case.reply, Mapping):
        raise ContractBroken(
            "the reply of a stack's case names its steps",
            where=f"{case.place}, reply",
            found=case.reply,
            expected=f"a mapping with keys among {', '.join(step.name for step in target.steps)}",
            hint="write reply: {STEP: …}",
        )
    return case.reply


def _differences(expect: Mapping[str, Any], outcome: Outcome[Any]) -> Iterator[str]:
    """What is other than expected, a line each."""
    if "message" in expect:
        if outcome.error is not None:
            yield f"message: expected, but it failed: {outcome.error.code}"
        else:
            yield from _unlike(plain_data(outcome.output), expect["message"])
    if "skipped" in expect and sorted(outcome.skipped) != sorted(expect["skipped"]):
        yield f"skipped: {', '.join(outcome.skipped) or 'no step'}, expected {', '.join(expect['skipped']) or 'none'}"
    if "problem" in expect:
        found = [(step, p) for step, tries in outcome.attempts.items() for a in tries for p in a.problems]
        if not any(_fits(expect["problem"], step, problem) for step, problem in found):
            told = "; ".join(f"{p.kind} in {step}: {p}" for step, p in found) or "no problem"
            yield f"problem: {told}, expected {expect['problem']}"
    if "error" in expect:
        code = outcome.error.code if outcome.error is not None else "no error"
        if code != expect["error"]:
            yield f"error: {code}, expected {expect['error']}"


def _unlike(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> Iterator[str]:
    for name in {**wanted, **found}:
        if name not in found:
            yield f"message.{name}: is no field, expected {wanted[name]!r}"
        elif name not in wanted:
            yield f"message.{name}: {found[name]!r}, not named in the case"
        elif dumps(found[name]) != dumps(wanted[name]):
            yield f"message.{name}: {found[name]!r}, expected {wanted[name]!r}"


def _fits(wanted: Mapping[str, Any], step: str, problem: Problem) -> bool:
    return (
        wanted.get("kind", problem.kind) == problem.kind
        and wanted.get("field", problem.field) == problem.field
        and wanted.get("step", step) == step
        and re.search(str(wanted.get("text", "")), problem.text) is not None
    )


class _Loader(yaml.SafeLoader):  # type: ignore[misc]
    """The safe loader, for data that people type: no surprise booleans, no dates, no key twice."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        """A mapping whose keys are texts, each there once."""
        seen: set[str] = set()
        for key, _ in node.value:
            name = self.construct_object(key, deep=True)
            if not isinstance(name, str) or name in seen:
                what = f"the key {name!r} stands twice" if name in seen else f"the key {name!r} is no text"
                raise yaml.constructor.ConstructorError(None, None, what, key.start_mark)
            seen.add(name)
        made: dict[Any, Any] = super().construct_mapping(node, deep)
        return made


_Loader.yaml_implicit_resolvers = {
    letter: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith((":bool", ":timestamp"))]
    for letter, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile("^(?:true|false)$"), list("tf"))

__all__ = ["Case", "read_cases", "run_case"]
