"""The page in a real browser: nothing is asked of anybody else, text stays text, keys, labels, replays, live runs."""

from __future__ import annotations

import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ..unit.history import NOON
from .conftest import NARROW, WIDE, Watched
from .drifted import LATER, address, at, changed, told
from .post import GATE, HOSTILE, Office, blame_json, replay, run_all

if TYPE_CHECKING:
    from playwright.sync_api import Page

Serve = Callable[..., Office]
Tab = Callable[..., Watched]
LETTER = "The kettle A-1047 leaks, and I need a new one today."
SHOWN = HOSTILE.replace("\x1b", "\\x1b").replace("\u202e", "\\u202e")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A trace of five runs, the last of them a letter of complaint."""
    run_all(
        tmp_path,
        ("post", {"text": "Thank you for the quick delivery."}),
        ("post.hall", {"words": [f"word {n}" for n in range(60)]}),
        ("post", {"text": "Where is order A-2210?"}),
        ("post", {"text": HOSTILE}),
        ("post", {"text": LETTER}),
    )
    return tmp_path


@pytest.fixture
def office(folder: Path, serve: Serve) -> Office:
    return serve(folder)


@pytest.fixture
def blamed(tmp_path: Path) -> Path:
    """What is to blame for the wrong answers to ten letters; their runs are in the trace, and older than all others."""
    path = tmp_path / "blame.json"
    path.write_text(blame_json(tmp_path), "utf-8")
    return path


def newest(office: Office, stack: str = "post") -> str:
    return office.desk.store.runs(1, stack=stack)[0].id


def sane(page: Page) -> None:
    """Nothing hostile ran, and nothing of the page reaches beyond the window."""
    assert page.evaluate("window.hurt") is None
    assert page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")


# -- reading --------------------------------------------------------------------------------------------------------


def test_a_run_is_a_flow_of_cards(office: Office, tab: Tab) -> None:
    page = tab(office.address).page
    page.goto("/")
    page.get_by_role("link", name=newest(office)).click()
    cards = page.locator("article.card")
    assert [card.split("\n")[0] for card in cards.locator("header").all_inner_texts()] == [
        "Input", "1 kind", "2 order", "3 reply", "Output",
    ]  # fmt: skip
    kind = page.locator("#step-kind")
    assert "complaint" in kind.inner_text() and "0.740" in kind.inner_text()
    assert kind.locator("mark").inner_text() == LETTER
    assert kind.locator(".forced").first.is_visible() and "post.kind" in kind.inner_text()
    assert page.get_by_role("navigation", name="Steps").get_by_role("link").count() == 3
    sane(page)


def test_a_token_tells_how_probable_it_was(office: Office, tab: Tab) -> None:
    page = tab(office.address).page
    page.goto(f"/runs/{newest(office)}")
    group = page.get_by_role("group", name="What kind wrote, token by token")
    told = page.locator("#step-kind [data-told]")
    group.locator(".t", has_text="complaint").hover()
    assert "probability 0.740" in told.inner_text()
    group.focus()
    page.keyboard.press("Home")
    assert "token 1," in told.inner_text() and "forced by the grammar" in told.inner_text()
    page.keyboard.press("ArrowRight")
    assert "token 2," in told.inner_text()
    page.keyboard.press("End")
    assert "forced by the grammar" in told.inner_text()


def test_all_can_be_read_without_scripts(office: Office, tab: Tab) -> None:
    page = tab(office.address, scripts=False).page
    page.goto("/")
    page.get_by_role("link", name=newest(office)).click()
    assert page.locator("#step-kind .t[title*='“complaint”: probability 0.740']").count() == 1
    page.locator("#step-kind").get_by_role("button", name="Wrong").click()
    assert page.locator("#step-kind .badge.wrong").inner_text() == "wrong"


def test_hostile_text_is_text(office: Office, tab: Tab) -> None:
    hostile = office.desk.store.runs(2, stack="post")[1].id
    store = office.desk.store
    store.label(hostile, "reply", correction={"reply": HOSTILE}, note=HOSTILE)
    page = tab(office.address).page
    page.goto(f"/runs/{hostile}")
    assert page.locator("#step-input dd .text").first.inner_text() == SHOWN
    assert page.locator("#step-kind mark").inner_text() == SHOWN
    assert page.locator("#step-reply .tokens").inner_text().count("<script>window.hurt=1</script>") == 1
    assert SHOWN in page.locator("#step-reply .said-of-it").inner_text()
    page.locator("#step-input summary").click()
    assert "<script>" in page.locator("#step-input textarea").input_value()
    sane(page)
    page.goto("/")
    assert "<script>" in page.locator(f"#run-{hostile} .given").inner_text()
    page.goto("/?q=script")
    assert "<script>" in page.locator(".snippet").first.inner_text()
    page.goto("/?q=%3Cscript%3Ewindow.hurt%3D3%3C/script%3E")
    sane(page)
    page.goto(f"/diff?run={hostile}&run={newest(office)}")
    assert page.locator(".old", has_text="<script>").count() >= 1
    sane(page)


def test_a_search_leads_to_the_step(office: Office, tab: Tab) -> None:
    page = tab(office.address).page
    page.goto("/")
    page.keyboard.press("/")
    page.keyboard.type("kettle leaks")
    page.keyboard.press("Enter")
    page.get_by_role("link", name="input").first.click()
    page.wait_for_url(f"**/runs/{newest(office)}#step-input")
    assert page.locator("#step-input").evaluate("card => card.classList.contains('here')")


def test_filters_are_in_the_address(office: Office, tab: Tab) -> None:
    page = tab(office.address).page
    page.goto("/")
    page.get_by_label("Stack").select_option("post.hall")
    page.get_by_role("button", name="Filter").click()
    assert "stack=post.hall" in page.url and page.locator("tr[data-row]").count() == 1
    page.get_by_role("link", name="clear").click()
    assert page.locator("tr[data-row]").count() == 5


def test_steps_of_a_shape_stand_below_it_a_page_at_a_time(office: Office, tab: Tab) -> None:
    page = tab(office.address).page
    page.goto(f"/runs/{newest(office, 'post.hall')}")
    assert page.locator("article.d1").count() == 49
    page.get_by_role("link", name="Later steps").click()
    assert "WORD 59" in page.inner_text("main") and page.locator("#step-output").count() == 1


@pytest.mark.torch
def test_what_drifted_since_a_reference_is_told(tmp_path: Path, serve: Serve, tab: Tab) -> None:
    changed(tmp_path)
    office = serve(tmp_path)
    found = told(office.desk.store)
    watched = tab(office.address)
    page = watched.page
    page.goto("/stats?stack=desk")
    assert page.get_by_role("heading", name="Drift").count() == 0
    page.get_by_label("from", exact=True).fill(at(NOON))
    page.get_by_label("until", exact=True).fill(at(LATER))
    page.get_by_role("button", name="Show").click()
    drift = page.get_by_role("region", name="Drift")
    assert "40 runs from" in drift.inner_text()
    assert f"Of {len(found.tests)} comparisons {len(found.drifting)} differ" in drift.inner_text()
    differs = page.get_by_role("region", name="What differs")
    assert differs.get_by_role("rowheader").all_inner_texts() == [test.step for test in found.drifting]
    label = differs.locator("tr", has_text="labels")
    assert (
        "0.500" in label.inner_text()
        and "▲ <script>window.hurt=1</script>\\x1b[31m 0.250 → 0.750" in label.inner_text()
    )
    rest = len(found.tests) - len(found.drifting)
    page.get_by_text(f"the other {rest} comparisons").click()
    assert page.get_by_role("region", name="The other comparisons").get_by_role("rowheader").count() == rest
    assert page.get_by_label("from", exact=True).input_value() == at(NOON)
    assert "40 succeeded" in page.inner_text("main"), "what is counted begins where the reference ends"
    sane(page)
    page.get_by_label("until", exact=True).fill("soon")
    page.get_by_role("button", name="Show").click()
    assert "that is no moment" in page.get_by_role("alert").inner_text()
    assert page.get_by_label("until", exact=True).input_value() == "soon" and "80 succeeded" in page.inner_text("main")
    watched.said = [said for said in watched.said if "400" not in said]  # Chromium's note of the status


# -- keys, labels, replays ------------------------------------------------------------------------------------------


def test_keys_move_open_and_label(office: Office, tab: Tab) -> None:
    page = tab(office.address).page
    page.goto("/")
    page.keyboard.press("j")
    page.keyboard.press("j")
    page.keyboard.press("k")
    page.keyboard.press("Enter")
    page.wait_for_url(f"**/runs/{newest(office)}")
    page.keyboard.press("j")  # the input
    page.keyboard.press("j")
    page.keyboard.press("w")
    page.locator("#step-kind .badge.wrong").wait_for()
    assert page.evaluate("document.activeElement.id") == "step-kind"
    page.keyboard.press("r")
    page.locator("#step-kind .badge.right").wait_for()
    assert [(label.step, label.right) for label in office.desk.store.labels()] == [("kind", True)]
    page.keyboard.press("?")
    assert page.get_by_role("dialog", name="Keys").is_visible()
    page.keyboard.press("Escape")
    page.locator("#step-kind").get_by_role("button", name="Take back").click()
    page.locator("#step-kind .badge.right").wait_for(state="detached")
    assert office.desk.store.labels() == []


def test_everything_can_be_reached_by_tab(office: Office, tab: Tab) -> None:
    page = tab(office.address).page
    page.goto(f"/runs/{newest(office)}")
    reached: list[str] = []
    while "Compare" not in reached:  # the last of all
        page.keyboard.press("Tab")
        found = page.evaluate(
            "(() => { const at = document.activeElement, style = getComputedStyle(at);"
            " return [at.textContent.trim().slice(0, 20) || at.id, style.outlineStyle !== 'none']; })()"
        )
        assert found[1], f"nobody sees that {found[0]} is focused"
        reached.append(found[0])
    assert {"Skip to content", "Runs", "q", "kind", "Right", "Wrong", "Do again from here", "Edit"} <= set(reached)


def test_an_edit_is_replayed_in_place(office: Office, tab: Tab) -> None:
    page, first = tab(office.address).page, newest(office)
    page.goto(f"/runs/{first}#step-kind")
    page.keyboard.press("e")
    page.keyboard.press("ControlOrMeta+a")
    page.keyboard.type("praise")
    page.locator("#step-kind").get_by_role("button", name="Replay with this").click()
    page.get_by_role("link", name="compare", exact=True).wait_for()
    assert newest(office) != first and newest(office) in page.url
    assert "edited: kind" in page.locator("#step-kind").inner_text()
    assert "Thank you for your kind words." in page.locator("#step-output").inner_text()
    assert "Passed over: when kind.kind != 'praise' was false." in page.locator("#step-order").inner_text()
    page.get_by_role("link", name="compare", exact=True).click()
    assert "They part at kind: somebody edited it." in page.locator(".verdict").inner_text()
    assert page.locator("#step-kind .old").inner_text() == "complaint"
    sane(page)


def test_what_is_wrong_with_an_edit_is_told_at_the_card(office: Office, tab: Tab) -> None:
    watched, first = tab(office.address), newest(office)
    page = watched.page
    page.goto(f"/runs/{first}#step-kind")
    page.keyboard.press("e")
    page.locator("#step-kind").get_by_role("button", name="Replay with this").click()
    page.locator("#step-kind [role=alert]").wait_for()
    assert "nothing was changed" in page.locator("#step-kind").inner_text()
    assert page.locator("#step-kind textarea").first.is_visible() and newest(office) == first
    watched.said = [said for said in watched.said if "422" not in said]  # Chromium's note of the status


def test_a_correction_is_kept_with_its_note(office: Office, tab: Tab) -> None:
    page = tab(office.address).page
    page.goto(f"/runs/{newest(office)}")
    card = page.locator("#step-kind")
    card.get_by_text("Edit", exact=True).click()
    card.get_by_label("kind", exact=True).fill("question")
    card.get_by_label("note").fill("they ask for a new one")
    card.get_by_role("button", name="Save as what is right").click()
    page.locator("#step-kind .badge.wrong", has_text="corrected").wait_for()
    assert "they ask for a new one" in page.locator("#step-kind .said-of-it").inner_text()
    label = office.desk.store.labels()[0]
    assert label.correction == {"kind": "question", "urgent": True, "order": "A-1047"}


def test_two_ticked_runs_are_compared(office: Office, tab: Tab) -> None:
    page = tab(office.address).page
    page.goto("/")
    ticks = page.get_by_role("checkbox", name=re.compile("Compare run"))
    ticks.nth(0).check()
    ticks.nth(2).check()
    page.get_by_role("button", name="Compare two ticked runs").click()
    assert "They were given something else" in page.locator(".verdict").inner_text()


# -- live -----------------------------------------------------------------------------------------------------------


def test_a_run_in_progress_shows_itself(office: Office, tab: Tab) -> None:
    listed, shown = tab(office.address).page, tab(office.address).page
    listed.goto("/")
    GATE.open.clear()
    try:
        with ThreadPoolExecutor(1) as pool:
            going = pool.submit(run_all, office.folder, ("post.slow", {"text": LETTER}))
            listed.locator("tr", has_text="post.slow").wait_for()
            run = newest(office, "post.slow")
            shown.goto(f"/runs/{run}")
            shown.locator("#step-kind").wait_for()
            assert shown.locator("#head .status").inner_text() == "running"
            assert shown.locator("#pending").is_visible() and shown.locator("#step-stamp").count() == 0
            GATE.open.set()
            shown.locator("#step-stamp").wait_for()
            shown.locator("#step-output").wait_for()
            assert going.result(60) == [run]
    finally:
        GATE.open.set()
    assert shown.locator("#head .status").inner_text() == "succeeded"
    assert shown.locator("#pending").count() == 0
    listed.locator(f"#run-{run} .is-succeeded").wait_for()


# -- for everybody --------------------------------------------------------------------------------------------------


def violations(page: Page) -> list[str]:
    """What axe finds wrong by WCAG 2.2, levels A and AA; only that comes out of the browser, for the rest is large."""
    page.evaluate(files("axe_playwright_python").joinpath("axe.min.js").read_text("utf-8"))
    found: list[str] = page.evaluate(
        "axe.run(document, {resultTypes: ['violations'],"
        " runOnly: ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'wcag22aa']})"
        ".then(result => result.violations.flatMap(one => one.nodes.slice(0, 3)"
        ".map(node => `${one.id}: ${node.html.slice(0, 200)} ${node.failureSummary.slice(0, 300)}`)))"
    )
    return found


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_is_accessible(blamed: Path, folder: Path, serve: Serve, tab: Tab, scheme: str) -> None:
    office = serve(folder, blame=blamed)
    run, hall = office.desk.store.search("leaks today", step="input")[0].run, newest(office, "post.hall")
    edited = replay(folder, run, kind__kind="praise")
    office.desk.store.label(run, "kind", right=False, note="see the letter")
    watched = tab(office.address, scheme=scheme)
    page = watched.page
    compared = f"/diff?run={run}&run={edited}"
    for path in ("/", "/?q=kettle", "/?q=none", f"/runs/{run}", f"/runs/{edited}", f"/runs/{hall}?page=2", compared,
                 "/stats?stack=post", "/blame", "/runs/zzz", "/key"):  # fmt: skip
        page.goto(path)
        page.evaluate("document.querySelectorAll('details').forEach(part => { part.open = true })")
        assert violations(page) == [], path
        sane(page)
        page.set_viewport_size(NARROW)
        assert violations(page) == [], f"{path}, narrow"
        sane(page)
        page.set_viewport_size(WIDE)
    watched.said = [said for said in watched.said if "404" not in said]


@pytest.mark.torch
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_drift_is_accessible(tmp_path: Path, serve: Serve, tab: Tab, scheme: str) -> None:
    changed(tmp_path)
    office = serve(tmp_path)
    assert told(office.desk.store).drifting
    watched = tab(office.address, scheme=scheme)
    page = watched.page
    for path in (address(NOON, LATER), address(1.0, 2.0), "/stats?stack=desk&from=7d"):
        page.goto(path)
        page.evaluate("document.querySelectorAll('details').forEach(part => { part.open = true })")
        for size in (NARROW, WIDE):
            page.set_viewport_size(size)
            assert violations(page) == [], (path, size)
            sane(page)
    watched.said = [said for said in watched.said if "400" not in said]


def test_a_key_opens_the_page(folder: Path, serve: Serve, tab: Tab) -> None:
    office = serve(folder, key="a key nobody guesses")
    page = tab(office.address).page
    page.goto("/")
    page.get_by_label("Key", exact=True).fill("a key nobody guesses")
    page.get_by_role("button", name="Open").click()
    assert page.locator("tr[data-row]").count() == 5


def test_blame_leads_to_the_runs(blamed: Path, serve: Serve, tab: Tab) -> None:
    office = serve(blamed.parent, blame=blamed)
    page = tab(office.address).page
    page.goto("/blame")
    assert "6 of 10 rows are right" in page.inner_text("main")
    assert page.get_by_role("img", name="Share of the wrong answers").locator(".said").all_text_contents() == [
        "3", "0", "1", "0", "0",
    ]  # fmt: skip
    page.locator("tr", has=page.get_by_role("cell", name="kind", exact=True)).get_by_role(
        "link", name="kind"
    ).first.click()
    assert "They part at kind: somebody edited it." in page.locator(".verdict").inner_text()


def test_the_pictures_of_the_documentation(
    blamed: Path, folder: Path, serve: Serve, tab: Tab, pictures: Callable[[Page, str], None]
) -> None:
    size = {"width": 1100, "height": 780}
    office = serve(folder, blame=blamed)
    run = office.desk.store.search("leaks today", step="input")[0].run
    edited = replay(folder, run, kind__kind="praise")
    for scheme in ("light", "dark"):
        page = tab(office.address, scheme=scheme, size=size).page
        page.goto(f"/runs/{run}")
        page.locator("#step-kind .t", has_text="true").hover()
        pictures(page, f"page-run-{scheme}")
    page = tab(office.address, size=size).page
    page.goto("/")
    pictures(page, "page-runs")
    page.goto(f"/diff?run={run}&run={edited}")
    pictures(page, "page-diff")
    page.goto("/blame")
    pictures(page, "page-blame")
    page = tab(office.address, size=NARROW).page
    page.goto(f"/runs/{run}#step-kind")
    pictures(page, "page-narrow")
