"""Stages: what may be one, what tools may look like, and what a fingerprint notices."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from pydantic import BaseModel, Field

import fslm_core
from fslm_core.errors import PromptError, SchemaError, StageError, UnknownNameError
from fslm_core.stage import SLM, Decoding, Scored, Stage, Tool, by_name, files, tool

Label = Literal["a", "b", "c"]


class Service(BaseModel):
    slots: list[str]


class In(BaseModel):
    text: str
    labels: list[Label] = ["a", "b"]
    only: Label = "a"
    service: Service = Service(slots=["x", "y"])

    @property
    def allowed(self) -> set[str]:
        return {"c"}


class Out(BaseModel):
    label: Label
    slot: Annotated[str, Field(max_length=9)] | None = None


def stage(**change: Any) -> Stage[In, Out]:
    arguments: dict[str, Any] = {"input": In, "output": Out, "prompt": "{{ text }}", "model": SLM("base"), **change}
    return Stage(arguments.pop("name", "a.b"), **arguments)


@pytest.mark.parametrize(
    ("change", "what"),
    [
        *(({"name": name}, "dotted lower-case") for name in ("", "A", "a..b", ".a", "a.", "a b", "é", "a/b", 3)),
        ({"input": dict}, "input is not a pydantic model"),
        ({"output": Out(label="a")}, "output is not a pydantic model"),
        ({"prompt": None}, "needs a prompt and a model"),
        ({"model": None}, "needs a prompt and a model"),
        ({"tool": Tool(lambda x: x, "1")}, "has no prompt, model"),
        ({"narrow": {"nothing": "labels"}}, "a field the output does not have"),
    ],
)
def test_a_stage_that_contradicts_itself_is_refused(change: dict[str, Any], what: str) -> None:
    with pytest.raises(StageError, match=what):
        stage(**change)


@pytest.mark.parametrize(
    "change",
    [
        {"max_tokens": 0},
        {"temperature": -1.0},
        {"temperature": float("nan")},
        {"top_p": 0.0},
        {"top_p": 1.5},
        {"top_k": -1},
        {"attempts": 0},
        {"attempts": 2},
        {"on_overflow": "cut"},
    ],
)
def test_decoding_within_its_bounds(change: dict[str, Any]) -> None:
    with pytest.raises(StageError):
        Decoding(**change)


def test_narrowing_follows_fields_and_properties() -> None:
    def labels(path: str) -> Any:
        return stage(narrow={"label": path}).narrowed(In(text="t")).tree["properties"]["label"]

    assert labels("labels") == {"enum": ["a", "b"]}
    assert labels("only") == {"enum": ["a"]}
    assert labels("allowed") == {"enum": ["c"]}
    slots = stage(narrow={"slot": "service.slots"}).narrowed(In(text="t")).tree["properties"]["slot"]
    assert slots == {"anyOf": [{"enum": ["x", "y"]}, {"type": "null"}]}
    assert stage().narrowed(In(text="t")) is stage().schema


@pytest.mark.parametrize("path", ["nothing", "service.nothing", "__class__", "service.__dict__", "text"])
def test_narrowing_that_leads_nowhere_is_an_error(path: str) -> None:
    with pytest.raises(SchemaError):
        stage(narrow={"label": path}).narrowed(In(text="t"))


def test_the_bound_on_tokens_is_the_schemas_or_the_decodings() -> None:
    assert stage().max_tokens == stage().schema.max_bytes
    assert stage(decoding=Decoding(max_tokens=5)).max_tokens == 5


def test_a_template_is_read_from_its_file(tmp_path: Path) -> None:
    path = tmp_path / "prompt.jinja"
    path.write_text("Sag: {{ text }} ü", encoding="utf-8")
    assert stage(prompt=path).render(In(text="x")).text("user") == "Sag: x ü"
    for broken in (tmp_path / "nothing.jinja", tmp_path):
        with pytest.raises(PromptError, match="cannot be read"):
            _ = stage(prompt=broken).template
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(PromptError, match="cannot be read"):
        _ = stage(prompt=path).template


def test_a_fingerprint_notices_all_that_decides_what_is_written() -> None:
    class Noted(BaseModel):
        """Words that change nothing."""

        label: Annotated[Label, Field(description="which")]
        slot: Annotated[str, Field(max_length=9, title="S")] | None

    class Other(BaseModel):
        label: Label

    def print_(made: Stage[Any, Any], checkpoint: str = "c", adapter: str | None = "a", backend: str = "torch") -> str:
        return made.fingerprint(checkpoint=checkpoint, adapter=adapter, backend=backend)

    base = print_(stage())
    assert base == print_(stage()) == print_(stage(output=Noted)) == print_(stage(description="other"))
    others = [
        print_(stage(), checkpoint="d"),
        print_(stage(), adapter=None),
        print_(stage(), backend="openai"),
        print_(stage(name="a.c")),
        print_(stage(prompt="{{ text }}!")),
        print_(stage(output=Other)),
        print_(stage(input=Service, prompt="{{ slots }}")),
        print_(stage(decoding=Decoding(max_tokens=3))),
        print_(stage(narrow={"label": "labels"})),
    ]
    assert len({base, *others}) == len(others) + 1


def test_variants_are_chosen_by_name_and_never_in_silence() -> None:
    made = stage(variants={"gpu": SLM("big", tuned=True)})
    assert made.variant("gpu") == (SLM("big", tuned=True), "gpu")
    assert made.variant("tpu") == made.variant(None) == (SLM("base"), None)
    assert SLM("base").untuned
    assert not SLM("base", tuned=True).untuned
    assert not SLM("base", adapter=Path("x")).untuned


# -- tools -------------------------------------------------------------------------------------------------------------


def test_a_tool_is_a_stage_made_of_a_function() -> None:
    @tool("a.tool", version="2", pure=True)
    def made(message: In) -> Out:
        """Say a.

        More words.
        """
        return Out(label="a")

    assert (made.name, made.input, made.output, made.description) == ("a.tool", In, Out, "Say a.")
    assert made.tool is not None
    assert (made.tool.version, made.tool.pure) == ("2", True)
    assert made.fingerprint(checkpoint=None, adapter=None, backend="x") == made.fingerprint(
        checkpoint="c", adapter=None, backend="y"
    )
    with pytest.raises(PromptError, match="no prompt"):
        _ = made.template
    with pytest.raises(StageError, match="no model"):
        made.variant(None)


def test_a_scored_tool_says_its_output_inside() -> None:
    @tool("a.tool", version="1")
    def made(message: In) -> Scored[Out]:
        return Scored(Out(label="a"), {"label": 0.5})

    assert made.output is Out


def _nothing() -> Out:
    return Out(label="a")


def _two(a: In, b: In) -> Out:
    return Out(label="a")


def _bare(a):  # type: ignore[no-untyped-def]
    return a


def _silent(a: In):  # type: ignore[no-untyped-def]
    return a


def _unresolved(a: In) -> Nowhere:  # type: ignore[name-defined]  # noqa: F821
    return a


def _plain(a: int) -> int:
    return a


@pytest.mark.parametrize("function", [_nothing, _two, _bare, _silent, _unresolved, _plain])
def test_a_function_that_is_no_tool_is_refused(function: Any) -> None:
    with pytest.raises(StageError):
        tool("a.tool", version="1")(function)


def test_stages_by_name() -> None:
    one = stage()
    assert by_name([one], "a.b") is one
    with pytest.raises(UnknownNameError, match=r"no stage named 'a\.c'"):
        by_name([one], "a.c")


def test_the_files_of_a_package_lie_in_a_folder() -> None:
    assert files("fslm_core") == Path(fslm_core.__file__).parent
