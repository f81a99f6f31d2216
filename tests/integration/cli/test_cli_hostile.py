"""What reaches the terminal from names, descriptions, settings, files and traces is text: nothing in it is obeyed."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ...campaigns.fuzz.traces import whole_trace
from .conftest import Result, install

Fslm = Callable[..., Result]
EVIL = "\x1b[31mred\x1b[0m \x1b]8;;http://x\x1b\\link\x1b]8;;\x1b\\ [bold]b[/bold] \u202eback \x9b5m \u200b\r\b\x07end"

PLUGIN = f"""
import logging
from pydantic import BaseModel, Field
from fslm_core import SLM, Stack, Stage, hookimpl, tool
from fslm_core.checkpoints import Checkpoint, Folder
from pathlib import Path

EVIL = {EVIL!r}

class Said(BaseModel):
    text: str

class Out(BaseModel):
    text: str

Out.__name__ = "Out" + EVIL

@tool("evil.say", version=EVIL, description=EVIL)
def say(message: Said) -> Out:
    logging.getLogger("fslm").warning("heard %s", message.text)
    if "boom" in message.text:
        raise ValueError(message.text)
    return Out(text=message.text)

@hookimpl
def fslm_stages():
    return [say]

@hookimpl
def fslm_stacks():
    return [Stack("evil", input=Said, output=Out, steps=[say], bind={{"text": "say.text"}}, description=EVIL)]

@hookimpl
def fslm_checkpoints():
    return [Checkpoint("evil.base", Folder(Path("/nowhere" + EVIL)), licence=EVIL, languages=(EVIL,), title=EVIL)]
"""
BROKEN = f"raise RuntimeError({EVIL!r})"


def shown(result: Result) -> str:
    """What was printed, once it is sure that a terminal finds nothing in it to obey."""
    text = result.out + result.err
    acting = [
        c for c in text if c not in "\n\u200c\u200d" and unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp")
    ]
    assert not acting, f"{acting[0]!r} in {text!r}"
    return text


@pytest.fixture
def evil(fslm: Fslm, installed: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Fslm]:
    """The command line with a plugin whose every text is hostile, and one that cannot be loaded."""
    install(installed, "evil", PLUGIN)
    install(installed, "broken", BROKEN)
    monkeypatch.setenv("FSLM_PLUGINS", "evil,broken,demo")
    monkeypatch.setenv("FSLM_OFFLINE", "1")
    yield fslm


@pytest.mark.parametrize(
    ("args", "code"),
    [
        (["list"], 0),
        (["list", "--json"], 0),
        (["plugins"], 0),
        (["plugins", "--json"], 0),
        (["models", "list"], 0),
        (["models", "list", "--json"], 0),
        (["models", "path", "evil.base"], 4),
        (["models", "verify", EVIL], None),
        (["doctor"], None),
        (["check", "evil"], 0),
        (["check", "evil", "--json"], 0),
        (["check", EVIL], 2),
        (["run", "evil", EVIL], 0),
        (["run", "evil", "boom" + EVIL], 1),
        (["run", "evil", "{" + EVIL, "--json"], 2),
        (["run", EVIL, "a"], 2),
        (["run", "evil", "a", f"--{EVIL}"], 2),
        ([EVIL], 2),
        (["trace", "show", EVIL], None),
        (["trace", "list", "--stack", EVIL], None),
        (["trace", "list", "--since", EVIL], 2),
        (["trace", "search", EVIL], None),
        (["trace", "search", "a", "--stack", EVIL, "--step", EVIL], None),
        (["trace", "search", "a", "--since", EVIL], 2),
        (["trace", "prune", "--larger-than", EVIL, "--yes"], 2),
        (["train", EVIL], 2),
        (["batch", "evil", EVIL, "--out", "o.jsonl"], 2),
    ],
    ids=lambda value: (
        " ".join(map(str, value))[:40].encode("unicode_escape").decode() if isinstance(value, list) else ""
    ),
)
def test_no_command_prints_what_a_terminal_obeys(evil: Fslm, args: list[str], code: int | None) -> None:
    result = evil(*args)
    shown(result)
    assert result.code != 70
    assert code is None or result.code == code


def test_a_traceback_shows_text(evil: Fslm, capsys: pytest.CaptureFixture[str]) -> None:
    from fslm_core.cli import main

    code = main(["--debug", "run", "evil", "boom" + EVIL])
    out, err = capsys.readouterr()
    assert "Traceback" in err and "\\x1b[31mred" in err
    shown(Result(code, out, err))


def test_a_batch_and_its_trace_show_text(evil: Fslm, environment: Path) -> None:
    (environment / "rows.jsonl").write_text(f'"{"boom"}"\n{{"text": "\\u001b[31m"}}\n\x1b[31m{{\n', encoding="utf-8")
    assert evil("batch", "evil", "rows.jsonl", "--out", "out.jsonl").code == 1
    rows = (environment / "out.jsonl").read_text("utf-8")
    assert not [c for c in rows if c != "\n" and unicodedata.category(c) in ("Cc", "Cf", "Cs")]
    assert evil("run", "evil", f"<script>alert(1)</script> {EVIL[:9]} {EVIL[-40:]}").code == 0
    found = shown(evil("trace", "search", "script"))
    assert "<script>alert(1)</script>" in found and "\\x1b[31m" in found and "\\u202e" in found
    shown(evil("trace", "search", "script", "--json"))
    for args in (["trace", "list"], ["trace", "show", "last"], ["trace", "show", "last", "--json", "--full"]):
        shown(evil(*args))


def test_settings_and_recipes_are_quoted_as_text(evil: Fslm, environment: Path) -> None:
    (environment / "fslm.toml").write_text('"\\u001b[31mkey\\u202e" = "\\u009b5m"\n', encoding="utf-8")
    assert "\\x1b[31mkey\\u202e" in shown(evil("list"))
    (environment / "fslm.toml").write_text("", encoding="utf-8")
    (environment / "r.toml").write_text('stage = "\\u001b[31m"\n"\\u202e" = 1\n', encoding="utf-8")
    assert evil("train", "r.toml").code == 2
    shown(evil("train", "r.toml"))


def test_a_foreign_trace_is_shown_on_its_own_lines(
    evil: Fslm, environment: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sqlite3

    file = environment / "foreign.db"
    file.write_bytes(whole_trace())
    connection = sqlite3.connect(file)
    for change in (
        "UPDATE runs SET stack = :evil",
        "UPDATE nodes SET stage = :evil, plugin = :evil, model = :evil, backend = :evil, skipped_by = :evil",
        "UPDATE attempts SET finish_reason = :evil, raw = :evil", "UPDATE contents SET model = :evil",
    ):  # fmt: skip
        connection.execute(change, {"evil": EVIL + "\nsecond line"})
    connection.commit()
    connection.close()
    monkeypatch.setenv("FSLM_TRACE__PATH", str(file))
    for args in (["trace", "list"], ["trace", "show"]):
        text = shown(evil(*args))
        assert "second" in text and "\\x1b[31m" in text
        assert not [line for line in text.splitlines() if line.startswith("second line")]
    assert evil("trace", "show", "--json").code == 0


def test_a_trace_with_a_program_in_it_is_not_run(
    evil: Fslm, environment: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sqlite3

    file = environment / "foreign.db"
    file.write_bytes(whole_trace())
    connection = sqlite3.connect(file)
    connection.execute("ALTER TABLE runs RENAME TO other")
    endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT * FROM other, n"
    connection.execute(f"CREATE VIEW runs AS {endless}")
    connection.commit()
    connection.close()
    monkeypatch.setenv("FSLM_TRACE__PATH", str(file))
    result = evil("trace", "list")
    assert result.code == 4 and "a program of its own" in result.err
