"""A stack as a graph: what is in it, as Mermaid text, SVG and PNG, whatever the shapes and the names are."""

from __future__ import annotations

import json
import random
import re
import struct
from collections.abc import Iterator
from typing import Annotated, Any, Literal
from xml.etree import ElementTree

import pytest
from pydantic import BaseModel, Field

from fslm_core import SLM, Route, Stack, Stage, Step, tool
from fslm_core.errors import CheckError
from fslm_core.explain.graph import Flow, Graph, graph_of, type_text
from fslm_core.explain.layout import Laid, lay_out
from fslm_core.explain.mermaid import mermaid
from fslm_core.explain.picture import picture, png, svg
from fslm_core.stack import INPUT, Arrow, Place, Result, Shape, Supplier, Target

SVG = "{http://www.w3.org/2000/svg}"
EVIL = '"a"]; b --> c %% <b>&amp; $x^2$ \x1b[31m \u202e \ufffe 1. - `'


class Letter(BaseModel):
    text: str = Field(max_length=50)


class Kind(BaseModel):
    kind: Literal["complaint", "praise", "other"]


class Reply(BaseModel):
    reply: str = Field(max_length=50)


class Size(BaseModel):
    words: int


class Sent(BaseModel):
    reply: str | None
    words: int


@tool("letters.kind", version="1")
def kind(letter: Letter) -> Kind:
    return Kind(kind="other")


@tool("letters.sorry", version="2")
def sorry(letter: Letter) -> Reply:
    return Reply(reply="Sorry.")


@tool("letters.size", version="1")
def size(letter: Letter) -> Size:
    return Size(words=1)


thanks = Stage("letters.thanks", input=Letter, output=Reply, prompt="{{ text }}", model=SLM(base="smollm2-135m"))


def letters() -> Stack[Any, Any]:
    shape = Route(
        "letters.answer",
        router=kind,
        cases={"complaint": Step(sorry), "praise": Step(thanks, name="thanks", when="input.text != ''")},
        default=Step(sorry, name="other", on_error="skip"),
        output=Answered,
    )
    return Stack("letters", input=Letter, output=Sent, steps=[shape, size])


class Answered(BaseModel):
    reply: str | None


class Twice(Shape[Any, Any]):
    """A kind that nothing here knows of: its step runs again on what it said."""

    kind = "twice"
    decisions = ("again",)

    def facts(self) -> dict[str, Any]:
        return {"most": 2, "until": None, "by": {"length": [1, 2]}}

    def arrows(self) -> Iterator[Arrow]:
        step = self.steps[0].name
        yield Arrow(step, "again", "at most 2")
        yield Arrow("again", step)
        yield Arrow(step, step, EVIL)

    def targets(self) -> Iterator[Target]:
        first = Supplier(self.input)
        yield Target.of_step(self.steps[0], {INPUT: first, "last": first}, prefers="last")
        yield from list(super().targets())[1:]

    async def run(self, place: Place) -> Result[Any]:
        raise NotImplementedError


def deep(levels: int, breadth: int = 1) -> Stack[Any, Any]:
    shape: Stack[Any, Any] = Stack("deep.core", input=Letter, output=Size, steps=[size])
    for level in range(1, levels):
        beside = [Step(size, name=f"size{n}") for n in range(breadth)]
        shape = Stack(
            f"deep.level{level}",
            input=Letter,
            output=Size,
            steps=[*beside, Step(shape, name="inner")],
            bind={"words": "inner.words"},
        )
    return shape


def test_types_are_told_in_a_few_words() -> None:
    short = Annotated[str, Field(max_length=3)]
    assert type_text(dict[str, list[short]]) == "dict[str, list[str]]"
    assert type_text(tuple[int, ...]) == "tuple[int, …]"
    assert type_text(Letter | None) == "Letter | None"
    assert type_text(Literal["a", None, 3]) == "'a' | None | 3"
    assert type_text(Any) == "Any"


def test_what_stands_in_a_stack_and_what_leads_where() -> None:
    found = graph_of(letters())
    assert [(part.name, part.sort) for part in found.parts] == [
        ("input", "input"),
        ("answer", "shape"),
        ("size", "tool"),
        ("output", "output"),
    ]
    assert [(f.source, f.target, f.lines) for f in found.flows] == [
        ("input", "answer", ("text: str",)),
        ("input", "size", ("text: str",)),
        ("answer", "output", ("reply: str | None",)),
        ("size", "output", ("words: int",)),
    ]
    route = found.parts[1].inner
    assert route is not None and route.facts == ("by: kind.kind",)
    parts = {part.name: part for part in route.parts}
    assert parts["choice"].sort == "decision" and parts["thanks"].sort == "slm"
    assert parts["thanks"].lines == ("letters.thanks", "smollm2-135m (untuned)", "when input.text != ''")
    assert parts["other"].lines == ("letters.sorry", "tool, version 2", "on error: skip")
    assert parts["thanks"].path == "answer.thanks"
    said = {(f.source, f.target): f.labels for f in route.flows if f.labels}
    assert said == {
        ("kind", "choice"): ("",),
        ("choice", "sorry"): ('"complaint"',),
        ("choice", "thanks"): ('"praise"',),
        ("choice", "other"): ("any other",),
    }


def test_a_condition_on_what_gives_no_field_is_a_flow_of_its_own() -> None:
    stack = Stack(
        "letters", input=Letter, output=Size, steps=[kind, Step(size, when="kind.kind == 'other'", name="size")]
    )
    with pytest.raises(CheckError):  # nothing is drawn of what could not run
        graph_of(stack)

    class Maybe(BaseModel):
        words: int | None

    drawn = graph_of(
        Stack("letters", input=Letter, output=Maybe, steps=[kind, Step(size, when="kind.kind == 'other'")])
    )
    assert Flow("kind", "size", when=True) in drawn.flows
    assert '-.->|"when"|' in mermaid(drawn)


def test_a_kind_that_nobody_knows_is_drawn_by_what_it_says_of_itself() -> None:
    twice = Twice("demo.twice", input=Letter, output=Letter, steps=[echo])
    stack = Stack("demo", input=Letter, output=Letter, steps=[twice], bind={"text": "twice.text"})
    inner = graph_of(stack).parts[1].inner
    assert inner is not None and inner.facts == ("most: 2", 'by: {"length": [1, 2]}')
    assert {part.name: part.sort for part in inner.parts} == {
        "input": "input",
        "last": "supply",
        "again": "decision",
        "echo": "tool",
        "output": "output",
    }
    for text in (mermaid(graph_of(stack)), "".join(_texts(svg(graph_of(stack))))):
        assert "twice demo.twice" in text and "at most 2" in text


@tool("demo.echo", version="1")
def echo(letter: Letter) -> Letter:
    return letter


def test_the_data_is_json_and_the_same_each_time() -> None:
    one, two = (graph_of(letters()).to_dict() for _ in range(2))
    assert one == two == json.loads(json.dumps(one))
    assert one["parts"][1]["inner"]["flows"][0]["fields"] == [{"from": "text", "to": "text", "type": "str"}]


# -- Mermaid ---------------------------------------------------------------------------------------------------------

GOLDEN = """\
flowchart TB
  subgraph n1["stack letters"]
    direction TB
    n2(["input<br/>Letter"]):::port
    subgraph n3["answer: route letters.answer"]
      direction TB
      n4["by: kind.kind"]:::note
      n5(["input<br/>Letter"]):::port
      n6{{"choice"}}:::decision
      n7[["kind<br/>letters.kind<br/>tool, version 1"]]:::tool
      n8[["sorry<br/>letters.sorry<br/>tool, version 2"]]:::tool
      n9["thanks<br/>letters.thanks<br/>smollm2-135m (untuned)<br/>when input.text != ''"]:::slm
      n10[["other<br/>letters.sorry<br/>tool, version 2<br/>on error: skip"]]:::tool
      n11(["output<br/>Answered"]):::port
    end
    n12[["size<br/>letters.size<br/>tool, version 1"]]:::tool
    n13(["output<br/>Sent"]):::port
  end
  n5 -->|"text: str"| n7
  n5 -->|"text: str"| n8
  n5 -->|"text: str"| n9
  n5 -->|"text: str"| n10
  n8 -->|"reply: str | None"| n11
  n9 -->|"reply: str | None"| n11
  n10 -->|"reply: str | None"| n11
  n7 ==> n6
  n6 ==>|"&quot;complaint&quot;"| n8
  n6 ==>|"&quot;praise&quot;"| n9
  n6 ==>|"any other"| n10
  n2 -->|"text: str"| n5
  n2 -->|"text: str"| n12
  n11 -->|"reply: str | None"| n13
  n12 -->|"words: int"| n13
  classDef box fill:#f3f6f9,stroke:#8a949e,color:#1f2328
  classDef note fill:#ffffff,stroke:#8a949e,stroke-dasharray:3 3,color:#59636e
  classDef port fill:#eef1f4,stroke:#8a949e,color:#1f2328
  classDef slm fill:#dbe9fb,stroke:#3f74c8,color:#1f2328
  classDef tool fill:#dcf1ec,stroke:#2f8f83,color:#1f2328
  classDef decision fill:#fbe7d3,stroke:#c8762c,color:#1f2328
  class n1,n3 box
"""


def test_mermaid_says_the_same_each_time() -> None:
    assert mermaid(graph_of(letters())) == GOLDEN


def test_no_name_becomes_mermaid_or_html() -> None:
    text = mermaid(graph_of(evil()))
    labels = [line for line in text.splitlines() if "31m" in line]
    assert labels
    for line in labels:
        assert line.count('"') == 2, line  # those of the label itself
        inside = line.split('"')[1].replace("<br/>", "")
        assert not set(inside) & set("<>#`$%\\\\") and "\x1b" not in inside
        assert not set(re.sub("&[a-z]+;", "", inside)) & set("&;")


def evil() -> Stack[Any, Any]:
    shape = Route(
        "letters.answer", by="input.text", cases={EVIL: sorry}, default=Step(sorry, name="other"), description=EVIL
    )
    return Stack("letters", input=Letter, output=Reply, steps=[shape], description=EVIL)


# -- pictures --------------------------------------------------------------------------------------------------------


def _texts(source: str) -> Iterator[str]:
    for element in ElementTree.fromstring(source.encode()).iter(f"{SVG}text"):
        yield element.text or ""


def test_svg_is_xml_that_holds_every_name_and_type() -> None:
    said = list(_texts(svg(graph_of(letters()))))
    for wanted in ("stack letters", "answer", "by: kind.kind", '"complaint"', "any other", "reply: str | None"):
        assert wanted in said
    assert said.count("text: str") == 6


def test_svg_holds_any_name_and_asks_for_nothing_from_outside() -> None:
    source = svg(graph_of(evil()))
    root = ElementTree.fromstring(source.encode())
    tags = {element.tag.removeprefix(SVG) for element in root.iter()}
    assert tags <= {"svg", "title", "rect", "path", "polygon", "text"}
    assert not any(name.startswith("on") or "href" in name for element in root.iter() for name in element.attrib)
    assert "\x1b" not in source and "\u202e" not in source and "[31m" in "".join(_texts(source))


@pytest.mark.torch  # where matplotlib comes along
def test_png_is_a_png_of_the_pictures_size() -> None:
    graph = graph_of(evil())
    image = png(graph)
    seen = picture(graph)
    assert image[:8] == b"\x89PNG\r\n\x1a\n"
    width, height = struct.unpack(">II", image[16:24])
    assert abs(width - 2 * seen.width) <= 2 and abs(height - 2 * seen.height) <= 2
    assert image == png(graph)


@pytest.mark.parametrize("stack", [letters(), deep(4, 5), deep(6), deep(2, 12)], ids=["route", "25", "deep", "broad"])
def test_nothing_in_a_picture_covers_another(stack: Stack[Any, Any]) -> None:
    laid = lay_out(graph_of(stack), (stack.name,))
    _stands_well(laid)


def test_whatever_leads_where_is_laid_out() -> None:
    dice = random.Random(7)
    for _ in range(60):
        names = [f"s{n}" for n in range(dice.randrange(1, 9))]
        base = graph_of(deep(2, len(names)))
        parts = [p for p in base.parts if p.name not in ("inner",)]
        ends = [part.name for part in parts]
        flows = {
            (a, b): Flow(a, b, labels=("x" * dice.randrange(1, 30),))
            for a, b in ((dice.choice(ends), dice.choice(ends)) for _ in range(dice.randrange(20)))
        }
        _stands_well(lay_out(Graph("stack", "s", "", "", (), tuple(parts), tuple(flows.values())), ("s",)))


def _stands_well(laid: Laid) -> None:
    """Parts and texts are within the picture and cover no other part; each wire joins the parts it should."""
    areas = [(p.x, p.y, p.x + p.width, p.y + p.height) for p in laid.parts]
    for number, one in enumerate(areas):
        assert one[0] >= 0 and one[1] >= 0 and one[2] <= laid.width + 0.01 and one[3] <= laid.height + 0.01
        for other in areas[number + 1 :]:
            assert one[2] <= other[0] or other[2] <= one[0] or one[3] <= other[1] or other[3] <= one[1]
    places = {p.part.name: area for p, area in zip(laid.parts, areas, strict=True)}
    for wire in laid.wires:
        for end, name in ((wire.points[0], wire.flow.source), (wire.points[-1], wire.flow.target)):
            left, top, right, bottom = places[name]
            assert left - 0.01 <= end[0] <= right + 0.01 and top - 0.01 <= end[1] <= bottom + 0.01
        if wire.at is not None:
            for left, top, right, bottom in areas:
                assert not (left < wire.at[0] < right and top < wire.at[1] < bottom)
    for placed in laid.parts:
        if placed.inner is not None:
            _stands_well(placed.inner)


class State(BaseModel):
    turns: int = 0


class Turn(BaseModel):
    text: str
    turns: int


def test_a_session_is_read_from_and_written_to() -> None:
    @tool("demo.turn", version="1")
    def turn(given: Turn) -> Turn:
        return given

    stack = Stack(
        "demo",
        input=Letter,
        output=Reply,
        session=State,
        writes="turn",
        steps=[Step(turn, bind={"turns": "session.turns", "text": "input.text"})],
        bind={"reply": "turn.text"},
    )
    found = {(f.source, f.target): f.lines for f in graph_of(stack).flows}
    assert found["session", "turn"] == ("turns: int",) and found["turn", "session"] == ("turns: int",)
    _stands_well(lay_out(graph_of(stack), ("demo",)))
