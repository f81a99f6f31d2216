"""What the templates of a new plugin are told: every name they use, as plain data."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from packaging.version import Version

from .. import __version__
from ..schema import tree_of
from ..wording import counted
from .kinds import Labels, Slot
from .naming import Names
from .plan import Plan, Written, example_of, run_of
from .source import WIDTH, Model, import_line, messages_source
from .text import quoted, width_of

_SHORT = 90
"""Columns: data on one line are no wider, whatever stands before them."""


@dataclass(frozen=True)
class About:
    """What the author decides beside the plan."""

    base: str = "smollm2-135m"
    author: str | None = None
    email: str | None = None
    licence: str = "Apache-2.0"


def answers_of(plan: Plan, names: Names, about: About) -> dict[str, Any]:
    """All names that the templates use, as plain data."""
    stages = [_stage(stage, plan) for stage in plan.stages]
    tools = [("guess", "Guessing"), ("decide", "Deciding")] if plan.what == "tool" else []
    variables = [stage["name"] for stage in stages] + [name for name, _ in tools]
    core = ["SLM", "Stack", "Stage", "files", "hookimpl"] + ["Scored", "Step", "tool"] * bool(tools)
    core += ["Step"] * any(s.when for s in plan.stages) + ["Decoding"] * any(s.max_tokens for s in plan.stages)
    kit = ["StackContract", "StageContract"] + ["ToolContract"] * bool(tools)
    used = [m.name for m in plan.models]
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    doc = "What passes between the stages." if plan.draft is None else _drafted_doc(plan)
    return {
        "what": plan.what,
        "name": names.name,
        "module": names.module,
        "distribution": names.distribution,
        "file": names.name.replace("-", "_"),
        "summary": plan.summary,
        "summary_md": _in_table(plan.summary),
        "description_py": quoted(plan.summary),
        "description_toml": json.dumps(plan.summary, ensure_ascii=False),
        "core_range": core_range(),
        "python": python,
        "python_tag": f"py{python.replace('.', '')}",
        "author_toml": _author(names, about),
        "author_md": _in_table(about.author or f"the authors of {names.distribution}"),
        "licence": about.licence,
        "licence_hub": about.licence.lower() if about.licence in ("Apache-2.0", "MIT") else "other",
        "base_py": quoted(about.base),
        "base_md": about.base.replace("`", "'"),
        "base_yaml": json.dumps(_hub_name(about.base)),
        "input": plan.input.name,
        "output": plan.output.name,
        "stages": stages,
        "stage_names": ", ".join(f"`{names.name}.{name}`" for name in variables),
        "stage_list": f"[{', '.join(variables)}]",
        "steps_py": _step_list(plan),
        "steps": list(_steps(plan)),
        "tools": [{"name": name, "test": test} for name, test in tools],
        "bind_py": literal(dict(plan.bind), "    ") if plan.bind else "",
        "warnings_py": _warnings(plan),
        "messages": messages_source(plan.models, doc).rstrip("\n"),
        "core_imports": import_line(core, "fslm_core"),
        "message_imports": import_line(used, ".messages"),
        "kit_imports": import_line(kit, "fslm_core.testing"),
        "plugin_imports": import_line([*variables, "stack"], names.module),
        "snapshots": [{"name": name, "text": text} for name, text in _snapshots(plan, names)],
        **_examples(plan),
        **_rows(plan, names),
        **_classifier(plan),
        **_pace(plan),
    }


def _pace(plan: Plan) -> dict[str, int]:
    """How long and in which batches to train: few rows are seen more often, and a few at a time."""
    rows = plan.draft.rows if plan.draft else 1000
    return {"epochs": 6 if rows < 200 else 3, "batch_rows": 4 if rows < 200 else 8 if rows < 1000 else 16}


def core_range() -> str:
    """The versions of fslm-core that a new plugin says it needs: from this one's minor version to the next that may
    break it.

    >>> core_range()[0]
    '>'
    """
    try:
        now = Version(version("fslm-core"))
    except PackageNotFoundError:
        now = Version(__version__)
    following = f"{now.major + 1}" if now.major else f"0.{now.minor + 1}"
    return f">={now.major}.{now.minor},<{following}"


def _stage(stage: Written, plan: Plan) -> dict[str, Any]:
    several = len(plan.stages) > 1
    return {
        "name": stage.name,
        "doc_py": quoted(stage.doc),
        "input": stage.input.name,
        "output": stage.output.name,
        "prompt": stage.prompt.rstrip("\n"),
        "max_tokens": stage.max_tokens,
        "example_input": _json(example_of(stage.input)),
        "example_output": _json(example_of(stage.output)),
        "rows": f"rows/{stage.name}.jsonl" if several else "../data/train.jsonl",
        "rows_from": "python train/rows.py" if several else "fslm data prepare (see README.md)",
    }


def _warnings(plan: Plan) -> str:
    meant = ["untuned"] + ["is cut and fails"] * any(stage.max_tokens for stage in plan.stages)
    return f"({', '.join(map(quoted, meant))}{',' * (len(meant) == 1)})"


def _steps(plan: Plan) -> Iterator[dict[str, str]]:
    def row(name: str, reads: Model, writes: Model, runs: str) -> dict[str, str]:
        return {
            "name": name,
            "reads": ", ".join(slot.name for slot in reads.fields),
            "writes": ", ".join(slot.name for slot in writes.fields),
            "runs": runs,
        }

    if plan.what == "tool":
        yield row("guess", plan.input, plan.models[1], "always; a classifier")
    for stage in plan.stages:
        yield row(stage.name, stage.input, stage.output, f"`{_in_table(stage.when)}`" if stage.when else "always")
    if plan.what == "tool":
        yield row("decide", plan.models[-1], plan.output, "always; a rule")


def _step_list(plan: Plan) -> str:
    steps = [f"Step({s.name}, when={quoted(s.when)})" if s.when else s.name for s in plan.stages]
    line = f"[{', '.join(steps)}]"
    return (
        line if width_of(line) <= _SHORT else "\n".join(["[", *(f"        {_step(s)}," for s in plan.stages), "    ]"])
    )


def _step(stage: Written) -> str:
    """A step in a list, however many labels its condition names."""
    if stage.when is None:
        return stage.name
    when = f"            when={quoted(stage.when)},"
    long = "  # noqa: E501" * (width_of(when) > WIDTH)
    return "\n".join(["Step(", f"            {stage.name},", when + long, "        )"])


def _examples(plan: Plan) -> dict[str, Any]:
    given, said, output = run_of(plan)
    made = {
        "example_input": _json(given),
        "example_input_py": literal(given),
        "example_output_py": literal(output),
        "replies_py": literal(said),
        "skipped": bool(plan.skipped),
    }
    if plan.skipped:
        head = plan.stages[0].output.slots[0].name
        made["skipped_reply"] = _json({head: plan.skipped[0]})
        made["skipped_message"] = _json(
            dict.fromkeys(slot.name for slot in plan.output.fields) | {head: plan.skipped[0]}
        )
    return made


def _rows(plan: Plan, names: Names) -> dict[str, Any]:
    first, last = plan.stages[0], plan.stages[-1]
    file = plan.draft.path.name if plan.draft else None
    shown = _in_table(file).replace("`", "'") if file else None
    return {
        "data_file": shown,
        "data_rows": counted(plan.draft.rows, "row") if plan.draft else "",
        "data_md": f"`{shown}`" if shown else "unknown",
        "rows_md": f"{plan.draft.rows:,}" if plan.draft else "unknown",
        "prepare_command": shlex.join(preparing(plan, names, file or "rows.csv", "data")),
        "train_commands": training(plan),
        "first_fields_py": literal([slot.name for slot in first.output.fields]),
        "second_fields_py": literal([slot.name for slot in last.output.fields]),
        "skipped_py": literal(list(plan.skipped)),
    }


def training(plan: Plan) -> list[str]:
    """The commands that train it, from its own folder."""
    training = [f"fslm train train/{stage.name}.toml" for stage in plan.stages]
    if len(plan.stages) > 1:
        return ["python train/rows.py", *training]
    return ["python train/classifier.py data/train.jsonl", *training] if plan.what == "tool" else training


def _classifier(plan: Plan) -> dict[str, Any]:
    """Names that only the classifier's templates use; others never ask for them."""
    label, text = plan.label, plan.text
    if label is None or text is None or not isinstance(label.kind, Labels):
        return {}
    alias = label.kind.alias
    return {
        "label": label.name,
        "label_alias": alias,
        "answer_py": f"tuple[{alias}, float]",
        "several": len(label.kind.values) > 1,
        "guess_field": plan.models[1].slots[0].name,
        "text": text.name,
        "text_py": _text(text),
    }


def _text(slot: Slot) -> str:
    return f'message.{slot.name} or ""' if slot.nullable else f"message.{slot.name}"


def _snapshots(plan: Plan, names: Names) -> Iterator[tuple[str, str]]:
    """The schemas of what each stage and the stack take and give, as the kit keeps them."""
    given = [(stage.name, stage.input, stage.output) for stage in plan.stages]
    if plan.what == "tool":
        given += [("guess", plan.input, plan.models[1]), ("decide", plan.models[-1], plan.output)]
    things = [("stage", f"{names.name}.{name}", taken, said) for name, taken, said in given]
    for kind, name, taken, said in [*things, ("stack", names.name, plan.input, plan.output)]:
        data = {kind: name, "input": tree_of(taken.made), "output": tree_of(said.made)}
        file = f"{name}.stack" if kind == "stack" else name
        yield file, json.dumps(data, indent=2, ensure_ascii=False)


def _drafted_doc(plan: Plan) -> str:
    assert plan.draft is not None
    return (
        f"What passes between the stages, drafted by `fslm new` from {counted(plan.draft.rows, 'row')}.\n\n"
        "Above each field stands what its guess rests on. Correct what you know better, then delete the comment."
    )


# -- small things ----------------------------------------------------------------------------------------------------


def _author(names: Names, about: About) -> str:
    name = json.dumps(about.author or f"The authors of {names.distribution}", ensure_ascii=False)
    return f"[{{ name = {name}{f', email = {json.dumps(about.email)}' if about.email else ''} }}]"


def _hub_name(base: str) -> str:
    if base == "smollm2-135m":
        return "HuggingFaceTB/SmolLM2-135M-Instruct"
    return base.removeprefix("hf:").partition("@")[0] if base.startswith("hf:") else "unknown"


def _json(data: object) -> str:
    return json.dumps(data, ensure_ascii=False)


def _in_table(text: str) -> str:
    return text.replace("|", "\\|")


def literal(data: object, indent: str = "") -> str:
    """Data as Python source, as a formatter leaves it: on one line if that is short, else a member a line.

    >>> print(literal({"a": [1, None], "b": {}}))
    {
        "a": [1, None],
        "b": {},
    }
    """
    deeper = indent + "    "
    match data:
        case dict():
            opened, closed = "{", "}"
            members = [f"{quoted(str(name))}: {literal(value, deeper)}" for name, value in data.items()]
        case list():
            opened, closed = "[", "]"
            members = [literal(value, deeper) for value in data]
        case str():
            return quoted(data)
        case _:
            return repr(data)
    line = f"{opened}{', '.join(members)}{closed}"
    values = data.values() if isinstance(data, dict) else data
    if not any(isinstance(value, dict | list) and value for value in values) and width_of(indent + line) <= _SHORT:
        return line
    return "\n".join([opened, *(f"{deeper}{member}," for member in members), indent + closed])


def preparing(plan: Plan, names: Names, file: str, out: str) -> list[str]:
    """The command that makes rows of a table, word by word."""
    pairs = [word for pair in (plan.draft.mapping if plan.draft else {}).items() for word in ("--map", "=".join(pair))]
    return ["fslm", "data", "prepare", file, "--stack", names.name, *pairs, "--out", out]


__all__ = ["About", "answers_of", "core_range", "literal", "preparing", "training"]
