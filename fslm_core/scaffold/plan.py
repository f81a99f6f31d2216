"""What goes into a new plugin: its models, its stages, how they follow each other, and examples of all of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from ..data.cells import plain_text
from ..errors import UsageError
from ..schema import normalise
from . import kinds
from .draft import Draft
from .kinds import Kind, Labels, Many, Record, Slot, Text, YesNo
from .source import Model
from .text import class_name, field_name, listed

What = Literal["stage", "stack", "tool"]
WHATS: tuple[What, ...] = ("stage", "stack", "tool")
_LONG_OUTPUT = 1024
"""Bytes: an output that may be longer gets a bound on its tokens of its own."""
_MOST_TOKENS = 2048
_CLAIMED = frozenset(
    {
        *("any", "decide", "classifier", "files", "fslm_stacks", "fslm_stages", "guess", "here", "hookimpl", "input"),
        *("messages", "output", "stack", "tool"),
    }
)
"""Names that a plugin's module or stack has already; no step is called so."""
_MADE_UP = {
    "topic": "What a message is about.",
    "request": "What the writer wants, in a few words.",
    "topic request": "What a message is about, and what its writer wants.",
}
"""What the fields of the example are, each and together."""


@dataclass(frozen=True)
class Written:
    """A stage that a language model writes.

    Attributes:
        name: its step's, its folder's and its variable's.
        when: the step's condition, a Jinja expression; None runs it always.
        max_tokens: a bound of its own; None leaves it to the schema.
    """

    name: str
    doc: str
    input: Model
    output: Model
    when: str | None = None
    max_tokens: int | None = None

    @property
    def prompt(self) -> str:
        """The source of its template."""
        return prompt_of(self.name, self.input.fields)


@dataclass(frozen=True)
class Plan:
    """A plugin that is to be written.

    Attributes:
        models: those of ``messages.py``, in order.
        stages: those with a model, in order.
        label: of a tool's plugin, the field that the classifier and the model decide; None in others.
        text: of a tool's plugin, the input field that the classifier reads.
        skipped: of a stack, labels of its first step after which the second does not run.
    """

    what: What
    name: str
    summary: str
    input: Model
    output: Model
    models: tuple[Model, ...]
    stages: tuple[Written, ...]
    draft: Draft | None = None
    label: Slot | None = None
    text: Slot | None = None
    skipped: tuple[str, ...] = ()
    bind: Mapping[str, str] = field(default_factory=dict)


def plan_of(what: What, name: str, draft: Draft | None = None) -> Plan:
    """Lay out a plugin, after a draft or with the example that every new plugin begins with.

    Raises:
        UsageError: the draft has not what this kind of plugin needs.
        SchemaError: more fields than a grammar can express.
    """
    content = _Content.of(name, draft, what)
    both = sorted({slot.name for slot in content.input.slots} & {slot.name for slot in content.output})
    if both and what != "stage":
        raise UsageError(
            "a field of the output is called as one of the input",
            where="--from-data",
            found=listed(both),
            hint=f"rename it in the rows, or make one stage: fslm new stage {name} --from-data …",
        )
    return {"stage": _stage, "stack": _stack, "tool": _tool}[what](name, content)


@dataclass(frozen=True)
class _Content:
    """The fields to lay out, drafted or made up."""

    input: Model
    output: tuple[Slot, ...]
    draft: Draft | None

    @classmethod
    def of(cls, name: str, draft: Draft | None, what: What) -> _Content:
        if draft is None:
            topic = Labels(("complaint", "other", "question"), "TopicLabel")
            output = [Slot("topic", topic), Slot("request", Text(1, 80))][: 2 if what == "stack" else 1]
            return cls(Model("Message", "What somebody wrote.", (Slot("text", Text()),)), tuple(output), None)
        given = Model(class_name(name, "Input"), "What comes in.", tuple(one.slot for one in draft.input))
        return cls(given, tuple(one.slot for one in draft.output), draft)

    def taken(self) -> set[str]:
        """Names of types that the fields bring along."""
        parts = [part for slot in (*self.input.slots, *self.output) for part in kinds.parts_of(slot.kind)]
        records = {part.name for part in parts if isinstance(part, Record)}
        return {self.input.name, *records, *(part.alias for part in parts if isinstance(part, Labels))}

    def doc(self, slots: Sequence[Slot]) -> str:
        """A sentence for a model or a stage that has these fields."""
        if self.draft is None:
            return _MADE_UP[" ".join(slot.name for slot in slots)]
        shown = [slots[0].name, *(slot.name for slot in slots[1:4])][: 2 if len(slots) > 4 else 4]
        names = listed([*shown, f"{len(slots) - 2} more"] if len(slots) > 4 else shown)
        return f"{names[0].upper()}{names[1:]}, as the rows have it."


# -- the three kinds of plugin ---------------------------------------------------------------------------------------


def _stage(name: str, content: _Content) -> Plan:
    step, doc = step_name(content.output), content.doc(content.output)
    output = Model(class_name(step, taken=content.taken()), doc, content.output)
    stage = Written(step, doc, content.input, output, max_tokens=_max_tokens(output, content.draft))
    given = {slot.name for slot in content.input.slots}
    bind = {slot.name: f"{step}.{slot.name}" for slot in output.slots if slot.name in given}
    return Plan("stage", name, doc, content.input, output, (content.input, output), (stage,), content.draft, bind=bind)


def _stack(name: str, content: _Content) -> Plan:
    if len(content.output) < 2:
        raise UsageError(
            "a stack of two stages needs two columns of output",
            where="--from-data",
            found=_names(content.output),
            hint=f"name two with --output, or make one stage: fslm new stage {name} --from-data …",
        )
    head = next((slot for slot in content.output if isinstance(slot.kind, Labels)), content.output[0])
    rest = tuple(slot for slot in content.output if slot is not head)
    skipped, rest = _condition(head, rest, content.draft)
    first, second = step_name([head]), step_name(rest)
    second = second if second != first else "details"
    taken = content.taken()
    one = Model(class_name(first, taken=taken), content.doc([head]), (head,))
    joined, doc = (
        class_name(one.name, f"And{content.input.name}", taken),
        "An input with what the first step made of it.",
    )
    both = Model(joined, doc, bases=(one, content.input))
    other = Model(class_name(second, taken={*taken, one.name}), content.doc(rest), rest)
    output = Model(class_name(name, "Result", taken), "What the whole stack says.", bases=(other, one))
    if skipped:
        late = tuple(replace(slot, nullable=True, comment="") for slot in rest)
        output = Model(output.name, "What the whole stack says; null is what no step was asked for.", late, (one,))
    stages = (
        Written(first, one.doc, content.input, one, max_tokens=_max_tokens(one, content.draft)),
        Written(second, other.doc, both, other, _when(first, head, skipped), _max_tokens(other, content.draft)),
    )
    models, summary = (content.input, one, both, other, output), content.doc(content.output)
    return Plan("stack", name, summary, content.input, output, models, stages, content.draft, skipped=skipped)


def _condition(head: Slot, rest: tuple[Slot, ...], draft: Draft | None) -> tuple[tuple[str, ...], tuple[Slot, ...]]:
    """The labels after which nothing else is said, and the other fields as they are in the rows of all other labels."""
    if draft is None:
        return ("other",), rest
    if not isinstance(head.kind, Labels) or head.nullable:
        return (), rest
    said: dict[str, list[Mapping[str, Any]]] = {label: [] for label in head.kind.values}
    for record in draft.records:
        said[plain_text(record[head.name])].append(record)
    silent = tuple(
        label for label, rows in said.items() if rows and all(row.get(s.name) is None for row in rows for s in rest)
    )
    left = [row for label, rows in said.items() if label not in silent for row in rows]
    if not silent or not left:
        return (), rest
    return silent, tuple(replace(s, nullable=any(row.get(s.name) is None for row in left)) for s in rest)


def _when(step: str, head: Slot, skipped: Sequence[str]) -> str | None:
    labels = [_in_jinja(label) for label in skipped]
    if not labels:
        return None
    return f"{step}.{head.name} " + (f"!= {labels[0]}" if len(labels) == 1 else f"not in [{', '.join(labels)}]")


def _in_jinja(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def _tool(name: str, content: _Content) -> Plan:
    labels = [slot for slot in content.output if isinstance(slot.kind, Labels) and not slot.nullable]
    texts = [slot for slot in content.input.slots if isinstance(slot.kind, Text | Labels)]
    if not labels or not texts:
        raise UsageError(
            "a classifier needs a text to read and a label to choose",
            where="--from-data",
            found=f"input {_names(content.input.slots)}, output {_names(content.output)}",
            expected="an output column of a few texts that repeat, and none of them empty",
            hint=f"name it with --output, or make a stage without a classifier: fslm new stage {name} --from-data …",
        )
    label = labels[0]
    draft = _without(content.draft, label)
    taken = {*content.taken(), "Guess", "Verdicts"}
    doc = content.doc([label])
    step = step_name([label])
    output = Model(class_name(step, taken=taken), doc, (label,))
    guess = Model(
        "Guess",
        "What the classifier takes a message for, and whether it is sure.",
        (Slot(_beside(label), label.kind), Slot("sure", YesNo())),
    )
    verdicts = Model(
        "Verdicts",
        "What the classifier said, and the language model where it was asked.",
        (Slot(_beside(label), label.kind), replace(label, nullable=True, comment="")),
    )
    stage = Written(step, doc, content.input, output, "not guess.sure")
    models = (content.input, guess, output, verdicts)
    bind = {label.name: f"decide.{label.name}"}
    return Plan("tool", name, doc, content.input, output, models, (stage,), draft, label, texts[0], bind=bind)


def _without(draft: Draft | None, label: Slot) -> Draft | None:
    """The draft with the label as its only output."""
    if draft is None:
        return None
    others = {one.column: "a classifier decides one label" for one in draft.output if one.slot is not label}
    kept = tuple(one for one in draft.output if one.slot is label)
    return replace(draft, output=kept, left_out={**draft.left_out, **others})


def _beside(label: Slot) -> str:
    """What the classifier's own field is called, which is not the label's."""
    return field_name("guess", {label.name, "sure"})


# -- names, prompts, bounds ------------------------------------------------------------------------------------------


def _names(slots: Sequence[Slot]) -> str:
    return listed([slot.name for slot in slots])


def step_name(slots: Sequence[Slot]) -> str:
    """What a step is called that writes these fields.

    >>> step_name([Slot("mood", Text())]), step_name([Slot("stack", Text())])
    ('mood', 'stack_step')
    """
    name = slots[0].name.lower() if len(slots) == 1 else "details"
    return f"{name}_step" if name in _CLAIMED else name


def _max_tokens(model: Model, draft: Draft | None) -> int | None:
    """A bound on the tokens of long outputs: half as much again as the longest that was seen has bytes."""
    if draft is None or normalise(model.made).max_bytes <= _LONG_OUTPUT:
        return None
    return min(_MOST_TOKENS, max(64, -(-draft.longest * 3 // 2 // 64) * 64))


def prompt_of(name: str, slots: Sequence[Slot]) -> str:
    r"""The template of a stage: the text last, above it whatever else there is, each on a line of its own.

    >>> prompt_of("mood", [Slot("text", Text())])
    '{% block system %}mood{% endblock %}\n{% block user %}{{ text }}{% endblock %}\n'
    """
    texts = [slot for slot in slots if isinstance(slot.kind, Text) and not slot.nullable]
    last = texts[0] if texts else slots[0]
    lines = [_line(slot) for slot in slots if slot is not last]
    lines.append(_shown(last.name, last.kind))
    return f"{{% block system %}}{name}{{% endblock %}}\n{{% block user %}}{''.join(lines)}{{% endblock %}}\n"


def _line(slot: Slot) -> str:
    line = f"{slot.name}: {_shown(slot.name, slot.kind)}\n"
    return f"{{% if {slot.name} is not none %}}{line}{{% endif %}}" if slot.nullable else line


def _shown(place: str, kind: Kind) -> str:
    match kind:
        case Record(_, slots):
            return ", ".join(_shown(f"{place}.{slot.name}", slot.kind) for slot in slots)
        case Many(of) if isinstance(of, Record):
            one = f"{place.rpartition('.')[2]}_item"
            return f"{{% for {one} in {place} %}}{_shown(one, of)}; {{% endfor +%}}"
        case Many():
            return f'{{{{ {place} | join(", ") }}}}'
        case _:
            return f"{{{{ {place} }}}}"


def run_of(plan: Plan) -> tuple[dict[str, Any], dict[str, dict[str, Any]], dict[str, Any]]:
    """A made-up run in which every stage is asked: the input, what each stage says, the output."""
    replies = {stage.name: example_of(stage.output) for stage in plan.stages}
    output = example_of(plan.output)
    if plan.skipped:
        (head,) = plan.stages[0].output.slots
        assert isinstance(head.kind, Labels)
        said = {head.name: next(label for label in head.kind.values if label not in plan.skipped)}
        replies[plan.stages[0].name], output = said, output | said
    return example_of(plan.input), replies, output


def example_of(model: Model) -> dict[str, Any]:
    """Made-up JSON data that fits a model."""
    made: dict[str, Any] = kinds.example_of(Record(model.name, model.fields))
    return made


__all__ = ["WHATS", "Plan", "What", "Written", "example_of", "plan_of", "prompt_of", "run_of", "step_name"]
