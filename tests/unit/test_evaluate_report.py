"""The report as pages and files: whole, closed to the outside, and obeying nothing that data say."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, Literal

import pytest
from pydantic import BaseModel

from fslm_core import Stack, tool
from fslm_core.errors import UsageError
from fslm_core.evaluate import Report, evaluate, write_report
from fslm_core.evaluate.plots import REST, plots, top_labels
from fslm_core.evaluate.render import ranged, signed
from fslm_core.evaluate.results import Confusion, Figure, Interval

pytestmark = pytest.mark.torch

EVIL = "<script>alert('x')</script>|`![p](http://evil.example/p.png)` $\\frac{1}{2}$ \x1b[31m\u202e {{ 7*7 }}"
Label = Literal["<b>&amp;", "$x^2$", "a|b", "日本語", "plain"]


class Said(BaseModel):
    text: str


class Answer(BaseModel):
    label: Label | None
    note: str | None


@tool("evil.answer", version="1", pure=True)
def answer(message: Said) -> Answer:
    """Answers with a label by the text's length, and the text."""
    labels: tuple[Label, ...] = ("<b>&amp;", "$x^2$", "a|b", "日本語", "plain")
    return Answer(label=labels[len(message.text) % 5], note=message.text)


evil = Stack("evil", input=Said, output=Answer, steps=[answer], description=EVIL)
ROWS: list[dict[str, Any]] = [
    {"input": {"text": EVIL + "x" * n}, "output": {"label": label, "note": EVIL}, "who": EVIL}
    for n, label in enumerate(("<b>&amp;", "$x^2$", "a|b", "日本語", "plain", None))
]


@pytest.fixture(scope="module")
def report() -> Report:
    rows = [*ROWS, {"input": {"text": 1}, "output": EVIL}]
    return evaluate(evil, rows, train=ROWS, by=["who"], resamples=100, content="full", fail_under={"exact": 0.9})


class Page(HTMLParser):
    """What a browser would see of a page."""

    VOID = frozenset({"meta", "br", "link", "img", "input", "hr"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.faults: list[str] = []
        self.text = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.faults.append(f"</{tag}> at {self.getpos()}")

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_page_is_whole_and_asks_for_nothing_from_outside(report: Report) -> None:
    html = report.to_html()
    page = Page(html)
    assert not page.faults and not page.open
    names = {tag for tag, _ in page.tags}
    assert not names & {"script", "img", "link", "iframe", "object", "embed", "form", "base", "image", "b" + "ase"}
    for tag, attributes in page.tags:
        for name, value in attributes.items():
            assert not name.startswith("on"), (tag, name)
            if name in ("href", "src", "xlink:href", "action", "data", "poster", "srcset"):
                assert (value or "").startswith("#"), (tag, name, value)
            if name == "style":
                assert not re.search(r"url\((?!#)", value or ""), (tag, value)
    policy = next(a["content"] for tag, a in page.tags if a.get("http-equiv") == "Content-Security-Policy")
    assert policy == "default-src 'none'; style-src 'unsafe-inline'"
    assert not re.search(r"@import|url\((?!#)", html)


def test_the_page_can_be_read_by_everyone(report: Report) -> None:
    page = Page(report.to_html())
    attributes = dict(tag for tag in page.tags if tag[0] == "html")["html"]
    assert attributes["lang"] == "en"
    ids = [a["id"] for _, a in page.tags if "id" in a]
    assert len(ids) == len(set(ids))
    drawings = [a for tag, a in page.tags if tag == "svg"]
    assert len(drawings) == 3 and all(a["role"] == "img" and a["aria-labelledby"] in ids for a in drawings)
    count = [tag for tag, _ in page.tags].count
    assert count("table") == count("caption") == count("thead") > 5
    assert count("figure") == count("figcaption") == 3
    assert all(a.get("scope") in ("col", "row") for tag, a in page.tags if tag == "th")
    html = report.to_html()
    assert "prefers-color-scheme: dark" in html and "width=device-width" in html and "#010203" not in html


def test_what_data_say_is_shown_as_text(report: Report) -> None:
    page = Page(report.to_html())
    assert "<script>alert('x')</script>" in page.text and "{{ 7*7 }}" in page.text and "49" not in page.text[:200]
    assert "\x1b" not in page.text and "\u202e" not in page.text and "\\x1b[31m" in page.text
    assert "<b>&amp;" in page.text and "$x^2$" in page.text and "日本語" in page.text
    markdown = report.to_markdown()
    assert "<script>" not in markdown and "![p](" not in markdown.replace("\\!", "") and "\x1b" not in markdown
    for line in markdown.splitlines():
        if line.startswith("| "):
            assert len(re.findall(r"(?<!\\)\|", line)) >= 3


def test_markdown_tables_have_as_many_cells_as_heads(report: Report) -> None:
    lines = report.to_markdown().splitlines()
    heads = [i for i, line in enumerate(lines) if line.startswith("| ---")]
    assert len(heads) > 8
    for place in heads:
        table = [lines[place - 1]]
        for line in lines[place:]:
            if not line.startswith("|"):
                break
            table.append(line)
        widths = {len(re.findall(r"(?<!\\)\|", line)) for line in table}
        assert len(widths) == 1 and len(table) > 2, table


def test_the_report_says_what_was_wrong(report: Report) -> None:
    for text in (report.to_markdown(), Page(report.to_html()).text):
        assert "missed" in text and "do not fit" in text and "line 7" in text
        assert "occur among the rows it was fitted on" in text


def test_json_reads_back_as_the_same_report(report: Report) -> None:
    again = Report.model_validate_json(report.to_json())
    assert again == report.model_copy(update={"errors": ()})
    assert again.schema_name == "fslm-eval/1"


def test_files_are_there_whole_or_not_at_all(report: Report, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "deep" / "report"
    write_report(report, folder)
    names = sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())
    assert names == [
        "errors.jsonl",
        "plots/confusion-0.svg",
        "plots/labels-0.svg",
        "plots/steps.svg",
        "report.html",
        "report.json",
        "report.md",
    ]
    lines = (folder / "errors.jsonl").read_text("utf-8").splitlines()
    assert [json.loads(line)["row"] for line in lines] == [error.row for error in report.errors]
    with pytest.raises(UsageError, match="exists"):
        write_report(report, folder)
    before = (folder / "report.json").read_bytes()
    monkeypatch.setattr(Report, "to_json", _full_disk)
    with pytest.raises(UsageError, match="cannot be written"):
        write_report(report, folder, force=True)
    with pytest.raises(UsageError, match="cannot be written"):
        write_report(report, tmp_path / "other")
    assert (folder / "report.json").read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["deep"] and len(list(folder.parent.iterdir())) == 1
    monkeypatch.undo()
    write_report(report, folder, force=True)
    assert len(list(folder.parent.iterdir())) == 1


def _full_disk(self: Report) -> str:
    raise OSError(28, "No space left on device")


def test_force_replaces_a_report_and_nothing_else(report: Report, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("precious")
    (tmp_path / "file").write_text("precious")
    for name in ("mine", "file"):
        with pytest.raises(UsageError, match="report"):
            write_report(report, tmp_path / name, force=True)
    assert (tmp_path / "mine" / "thesis.txt").read_text() == (tmp_path / "file").read_text() == "precious"


def test_rare_labels_are_taken_together() -> None:
    names = tuple(f"l{n}" for n in range(40))
    counts = tuple(tuple(40 - i if i == j else int(j == i + 1) for j in range(40)) for i in range(40))
    table = top_labels(Confusion(gold=names, predicted=names, counts=counts), 10)
    assert len(table.gold) == len(table.predicted) == 10 and table.gold[-1] == table.predicted[-1] == REST
    assert sum(map(sum, table.counts)) == sum(map(sum, counts))
    assert table.counts[0][:2] == (40, 1)
    small = Confusion(gold=("a",), predicted=("a", "(failed)"), counts=((3, 1),))
    assert top_labels(small) is small


def test_every_plot_says_in_words_what_it_shows(report: Report) -> None:
    drawn = {plot.name: plot for plot in plots(report)}
    assert "fed with gold 1.000" not in drawn["steps"].alt and "linear control" in drawn["steps"].alt
    assert "taken for" in drawn["confusion-0"].alt
    assert all(plot.svg.startswith("<svg ") and plot.file.startswith("<?xml") for plot in drawn.values())


@pytest.mark.parametrize(
    ("figure", "shown", "difference"),
    [
        (Interval(value=None, low=None, high=None, n=0), "-", "-"),
        (Figure(value=0.5, low=0.25, high=0.75, n=9), "0.500 (0.250 to 0.750)", "+0.500 (+0.250 to +0.750) *"),
        (Interval(value=-0.5, low=-0.75, high=0.0, n=9), "-0.500 (-0.750 to 0.000)", "-0.500 (-0.750 to +0.000)"),
    ],
)
def test_figures_as_text(figure: Interval, shown: str, difference: str) -> None:
    assert ranged(figure) == shown and signed(figure) == difference
