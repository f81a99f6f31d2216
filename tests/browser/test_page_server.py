"""The page's server through real sockets, without a browser: who may ask it, and what it says."""

from __future__ import annotations

import http.client
import re
import socket
import time
from collections.abc import Iterator
from html import unescape
from pathlib import Path
from urllib.parse import urlencode, urlsplit

import pytest

from fslm_core.errors import SystemRefusedError, UsageError
from fslm_core.page import trends
from fslm_core.page.guard import COOKIE
from fslm_core.page.serving import check_place, listen

from .post import Office, run_all, serving

KEY = "a key nobody guesses"


class Answer:
    """What a server said."""

    def __init__(self, response: http.client.HTTPResponse) -> None:
        self.status = response.status
        self.headers = {name.lower(): value for name, value in response.getheaders()}
        self.text = response.read().decode()


def ask(address: str, path: str, *, form: dict[str, str] | None = None, method: str = "", **headers: str) -> Answer:
    """Ask a server for something; underscores in the names of headers are dashes."""
    connection = http.client.HTTPConnection(urlsplit(address).netloc, timeout=60)
    body = None if form is None else urlencode(form)
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    if form is not None:
        given.setdefault("content-type", "application/x-www-form-urlencoded")
    try:
        connection.request(method or ("GET" if form is None else "POST"), path, body, given)
        return Answer(connection.getresponse())
    finally:
        connection.close()


def run_some(folder: Path, *texts: str) -> list[str]:
    """Ids of runs."""
    return run_all(folder, *(("post", {"text": text}) for text in texts))


@pytest.fixture
def runs(tmp_path: Path) -> list[str]:
    return run_some(tmp_path, "Thank you", "The kettle A-1047 leaks")


@pytest.fixture
def office(tmp_path: Path, runs: list[str]) -> Iterator[Office]:
    with serving(tmp_path) as office:
        yield office


def token_of(office: Office, run: str) -> str:
    found = re.search(r'name="token" value="([^"]+)"', ask(office.address, f"/runs/{run}").text)
    assert found is not None
    return found[1]


# -- who may ask ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["evil.example", "evil.example:8600", "127.0.0.1.evil.example", "", "[::1"])
def test_a_name_that_is_not_its_own_is_refused(office: Office, name: str) -> None:
    answer = ask(office.address, "/", host=name)
    assert answer.status in (400, 421) and "post" not in answer.text


@pytest.mark.parametrize("name", ["localhost", "127.0.0.1", "[::1]", "localhost:9999"])
def test_its_own_names_are_taken(office: Office, name: str) -> None:
    assert ask(office.address, "/", host=name).status == 200


def test_browsers_are_told_to_load_nothing_from_elsewhere(office: Office, runs: list[str]) -> None:
    for path in ("/", f"/runs/{runs[0]}", "/static/page.css", "/nothing", "/diff"):
        headers = ask(office.address, path).headers
        assert "default-src 'self'" in headers["content-security-policy"]
        assert "unsafe" not in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff" and "server" not in headers
    assert ask(office.address, "/").headers["cache-control"] == "no-store"
    page = ask(office.address, f"/runs/{runs[1]}").text
    assert not re.search(r"<script(?! src=\"/static/)| style=| on\w+=|https?://", page)


def test_a_form_of_another_site_changes_nothing(office: Office, runs: list[str]) -> None:
    form = {"step": "kind", "do": "right"}
    path, token = f"/runs/{runs[0]}/label", token_of(office, runs[0])
    refused = [
        ask(office.address, path, form=form),
        ask(office.address, path, form={**form, "token": "guessed"}),
        ask(office.address, path, form={**form, "token": token}, origin="https://evil.example"),
        ask(office.address, path, form={**form, "token": token}, sec_fetch_site="cross-site"),
        ask(office.address, f"/runs/{runs[0]}/replay", form={**form, "do": "again"}),
    ]
    assert [answer.status for answer in refused] == [400, 400, 403, 403, 400]
    assert office.desk.store.labels() == [] and len(office.desk.store.runs()) == 2
    assert ask(office.address, path, form={**form, "token": token}, origin=office.address).status == 303
    assert office.desk.store.labels()[0].right


def test_what_only_shows_cannot_be_made_to_change(tmp_path: Path, runs: list[str]) -> None:
    with serving(tmp_path, readonly="nothing can be changed here: --read-only") as office:
        page = ask(office.address, f"/runs/{runs[0]}").text
        assert "--read-only" in page and "<textarea" not in page and 'value="right"' not in page
        form = {"step": "kind", "do": "right", "token": office.desk.token}
        answer = ask(office.address, f"/runs/{runs[0]}/label", form=form)
        assert answer.status == 503 and "--read-only" in answer.text


def test_a_key_is_asked_for(tmp_path: Path, runs: list[str]) -> None:
    with serving(tmp_path, key=KEY) as office:
        for path in ("/", f"/runs/{runs[0]}", "/live", "/diff"):
            answer = ask(office.address, path)
            assert (answer.status, answer.headers.get("location")) == (303, "/key") and runs[0] not in answer.text
        assert ask(office.address, f"/runs/{runs[0]}/label", form={"do": "right"}).status == 401
        assert ask(office.address, "/", authorization=f"Bearer {KEY}").status == 200
        assert ask(office.address, "/", authorization="Bearer wrong").status == 303
        assert ask(office.address, "/", cookie=f"{COOKIE}={KEY}").status == 303
        assert ask(office.address, "/key", form={"key": "wrong"}).status == 401
        assert ask(office.address, "/static/page.css").status == 200
        entered = ask(office.address, "/key", form={"key": KEY})
        cookie = entered.headers["set-cookie"]
        assert entered.status == 303 and "httponly" in cookie.lower() and "samesite=strict" in cookie.lower()
        assert KEY not in cookie
        assert ask(office.address, "/", cookie=cookie.partition(";")[0]).status == 200


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "example.org"])
def test_beyond_loopback_a_key_is_needed(host: str) -> None:
    with pytest.raises(UsageError, match="other machines could read"):
        check_place(host, None)
    check_place(host, KEY)


def test_a_short_key_is_refused() -> None:
    with pytest.raises(UsageError, match="too short") as refused:
        check_place("127.0.0.1", "1234")
    assert "1234" not in str(refused.value)


def test_what_is_accepted_sends_small_packets_at_once() -> None:
    with listen("127.0.0.1", 0) as made, socket.create_connection(made.getsockname()):
        accepted, _ = made.accept()
        with accepted:
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_a_port_in_use_is_told() -> None:
    with listen("127.0.0.1", 0) as first, pytest.raises(SystemRefusedError, match="cannot listen") as refused:
        listen("127.0.0.1", first.getsockname()[1])
    assert "--port 0" in str(refused.value.hint)


# -- what it says ---------------------------------------------------------------------------------------------------


def test_what_is_not_there_is_told(office: Office, runs: list[str]) -> None:
    same = runs[0][: next(n for n, (a, b) in enumerate(zip(*runs, strict=True)) if a != b)]
    unknown, ambiguous = ask(office.address, "/runs/zzz"), ask(office.address, f"/runs/{same}")
    assert unknown.status == 404 and "zzz" in unknown.text
    assert ambiguous.status == 404 and "several runs begin with" in ambiguous.text
    assert ask(office.address, "/nothing/at/all").status == 404
    assert ask(office.address, "/static/../app.py").status == 404
    assert ask(office.address, "/runs/%00%ff").status == 404
    assert ask(office.address, "/blame").status == 404
    assert ask(office.address, "/", form={"a": "b"}).status == 405
    assert ask(office.address, "/?status=odd").status == 400 and ask(office.address, "/?since=odd").status == 400
    assert ask(office.address, "/?before=zzz").status == 404
    assert ask(office.address, "/diff?run=last").status == 400
    assert "there is nothing to search for" in ask(office.address, "/?q=%22").text


def test_a_short_id_leads_to_the_run(office: Office, runs: list[str]) -> None:
    for name in ("last", runs[1][:-1]):
        assert ask(office.address, f"/runs/{name}").headers["location"] == f"/runs/{runs[1]}"


def test_a_list_is_read_on(tmp_path: Path) -> None:
    runs = run_some(tmp_path, *(f"Thank you {n}" for n in range(53)))
    with serving(tmp_path) as office:
        first = ask(office.address, "/").text
        older = re.search(r'href="([^"]+)" rel="next"', first)
        assert older is not None and first.count("<tr data-row") == 50
        second = ask(office.address, unescape(older[1])).text
        assert [run in second for run in runs[:4]] == [True, True, True, False] and second.count("<tr data-row") == 3
        assert ask(office.address, "/?stack=other").text.count("<tr data-row") == 0
        found = ask(office.address, "/?q=thank").text
        older = re.search(r'href="([^"]+)" rel="next"', found)
        shown = re.findall(r'href="/runs/(\w+)#step-input"', found)
        assert older is not None
        shown += re.findall(r'href="/runs/(\w+)#step-input"', ask(office.address, unescape(older[1])).text)
        assert len(shown) == len(set(shown))


def test_a_run_of_thousands_of_steps_opens_a_page_at_a_time(tmp_path: Path) -> None:
    (run,) = run_all(tmp_path, ("post.hall", {"words": [f"word {n}" for n in range(2000)]}))
    with serving(tmp_path) as office:
        first, last = ask(office.address, f"/runs/{run}"), ask(office.address, f"/runs/{run}?page=999999")
    assert first.text.count("<article") == 51 and "page 1 of 41" in first.text
    assert "page 41 of 41" in last.text and "WORD 1999" in last.text and 'id="step-output"' in last.text
    assert len(first.text) < 1_000_000


def test_the_stream_ends_with_the_run_and_with_the_server(tmp_path: Path, runs: list[str]) -> None:
    with serving(tmp_path) as office:
        assert "event: ended" in ask(office.address, f"/runs/{runs[0]}/live").text
        assert "event: ended" in ask(office.address, "/runs/none/live").text
        connection = http.client.HTTPConnection(urlsplit(office.address).netloc, timeout=60)
        connection.request("GET", "/live")
        response = connection.getresponse()
        assert response.readline() == b"retry: 2000\n"
        began = time.monotonic()
    assert b"event: ended" in response.read()
    assert time.monotonic() - began < 60
    connection.close()


# -- labels and replays ---------------------------------------------------------------------------------------------


def test_a_correction_is_the_whole_message(office: Office, runs: list[str]) -> None:
    form = {"step": "kind", "do": "fix", "token": office.desk.token, "field.kind": "complaint", "note": "not praise"}
    answer = ask(office.address, f"/runs/{runs[0]}/label", form=form)
    assert answer.status == 303 and answer.headers["location"].endswith("#step-kind")
    label = office.desk.store.labels(runs[0])[0]
    assert label.correction == {"kind": "complaint", "urgent": False, "order": None} and label.note == "not praise"
    ask(office.address, f"/runs/{runs[0]}/label", form={**form, "do": "unlabel"})
    assert office.desk.store.labels() == []


def test_a_correction_that_the_step_cannot_say_is_told_in_place(office: Office, runs: list[str]) -> None:
    form = {"step": "kind", "do": "fix", "token": office.desk.token, "field.kind": "weather"}
    answer = ask(office.address, f"/runs/{runs[0]}/label", form=form)
    assert answer.status == 422 and "weather" in unescape(answer.text)
    assert office.desk.store.labels() == []


@pytest.mark.parametrize(
    ("form", "told"),
    [
        ({"step": "kind", "do": "edit"}, "nothing was changed"),
        ({"step": "none", "do": "edit", "field.kind": "x"}, "there is no step"),
        ({"step": "kind", "do": "edit", "field.kind": "weather"}, None),
        ({"step": "kind", "do": "edit", "field.urgent": "perhaps"}, None),
        ({"do": "again", "step": "none"}, "none"),
    ],
)
def test_a_replay_that_cannot_be_is_told_in_place(
    office: Office, runs: list[str], form: dict[str, str], told: str | None
) -> None:
    answer = ask(office.address, f"/runs/{runs[0]}/replay", form={**form, "token": office.desk.token})
    if told is None:  # the new run stands in the trace and says why it failed
        assert answer.status == 303
        assert "failed" in ask(office.address, answer.headers["location"]).text
    else:
        assert answer.status == 422 and told in unescape(answer.text)


def test_a_large_form_is_refused(office: Office, runs: list[str]) -> None:
    form = {"step": "kind", "field.kind": "x" * 4_100_000, "token": office.desk.token}
    assert ask(office.address, f"/runs/{runs[0]}/replay", form=form).status == 400


# -- stats ----------------------------------------------------------------------------------------------------------


def test_stats_are_those_of_the_newest_runs_unless_more_are_asked_for(
    office: Office, runs: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "These are the newest" not in ask(office.address, "/stats?stack=post").text
    monkeypatch.setattr(trends, "NEWEST", 1)
    answer = ask(office.address, "/stats?stack=post").text
    assert "1 succeeded between" in answer and "These are the newest 1;" in answer
    everything = ask(office.address, "/stats?stack=post&since=ever").text
    assert "2 succeeded between" in everything and "These are the newest" not in everything


@pytest.mark.parametrize(
    ("query", "told"),
    [
        ("from=7d", "a reference has a beginning and an end"),
        ("until=7d", "a reference has a beginning and an end"),
        ("from=soon&until=7d", "that is no moment"),
        ("from=1970-01-01T00:00:00%2B99:00&until=7d", "that is no moment"),
        pytest.param("from=1d&until=2d", "the reference ends before it begins", marks=pytest.mark.torch),
        pytest.param("from=2d&until=1d&since=7d", "the window overlap", marks=pytest.mark.torch),
        pytest.param("from=2d&until=1d&since=ever", "the window overlap", marks=pytest.mark.torch),
        pytest.param("from=2d&until=2030-01-01", "the window ends before it begins", marks=pytest.mark.torch),
    ],
)
def test_a_window_that_is_none_is_told_above_the_stats(office: Office, runs: list[str], query: str, told: str) -> None:
    answer = ask(office.address, f"/stats?stack=post&{query}")
    assert answer.status == 400 and told in unescape(answer.text) and "2 succeeded between" in answer.text


@pytest.mark.torch
def test_an_empty_window_is_named(office: Office, runs: list[str]) -> None:
    answer = ask(office.address, "/stats?stack=post&from=999999999w&until=1d").text
    assert "There is nothing to compare: no run is in the reference." in answer
    answer = ask(office.address, "/stats?stack=post&from=2d&until=1d&since=2200-01-01").text
    assert "the window ends before it begins" in answer


def test_without_what_tells_drift_the_stats_are_there(
    office: Office, runs: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fslm_core.extras.find_spec", lambda name: None)
    answer = ask(office.address, "/stats?stack=post&from=2d&until=1d")
    assert answer.status == 400 and "fslm-core[eval]" in unescape(answer.text) and "2 succeeded" in answer.text
