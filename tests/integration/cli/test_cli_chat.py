"""``fslm chat``: turns, commands, what a pipe gets and what a terminal does."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from .conftest import HERE, Result, install, wait_for

Fslm = Callable[..., Result]
Spawn = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture(autouse=True)
def talk(installed: Path, environment: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The plugin whose stack remembers what was said; returns the machine's home."""
    install(installed, "talk", (HERE / "talk_plugin.py").read_text("utf-8"))
    monkeypatch.setenv("FSLM_PLUGINS", "talk,demo")
    return environment


def typed(*lines: str) -> bytes:
    return "".join(f"{line}\n" for line in lines).encode()


def test_replies_alone_are_on_standard_output_and_steps_beside(fslm: Fslm) -> None:
    result = fslm("chat", "talk", "--session", "ann", stdin=typed("hello", "", "  ", "again"))
    assert (result.code, result.out) == (0, "0 before hello (calm)\n1 before again (calm)\n")
    greeting, *steps, end = result.err.splitlines()
    assert greeting == "talk: session ann (new); /help lists commands, Ctrl-D ends"
    assert end == "go on with: fslm chat talk --session ann"
    assert [re.sub(r"  [\d.]+ m?s$", "", line) for line in steps] == [
        '  · answer  reply="0 before hello (calm)"',
        '  · remember  turns=["hello"]',
        '  · answer  reply="1 before again (calm)"',
        '  · remember  turns=["hello", "again"]',
    ]
    later = fslm("chat", "talk", "--session", "ann", stdin=typed("third"))
    assert later.out == "2 before third (calm)\n" and "session ann (2 turns so far)" in later.err


def test_without_an_id_each_chat_has_a_session_of_its_own(fslm: Fslm) -> None:
    told = [fslm("chat", "talk", stdin=typed("hello")).err.splitlines()[-1] for _ in range(2)]
    first, second = (line.removeprefix("go on with: fslm chat talk --session ") for line in told)
    assert first != second
    assert fslm("chat", "talk", "--session", first, stdin=typed("b")).out == "1 before b (calm)\n"
    assert "go on with" not in fslm("chat", "talk", stdin=b"").err  # nothing was said, nothing is kept


def test_commands(fslm: Fslm) -> None:
    lines = ("/state", "hello", "/state", "/steps", "/steps off", "again", "/fork bob", "third", "/trace", "/nope", "/")
    result = fslm("chat", "talk", "--session", "ann", stdin=typed(*lines, "/fork ann", "//slash", "/quit", "never"))
    assert result.code == 0
    assert result.out.splitlines() == [
        "0 before hello (calm)",
        "1 before again (calm)",
        "2 before third (calm)",
        "3 before /slash (calm)",
    ]
    for said in (
        '{\n  "turns": []\n}',
        '{\n  "turns": [\n    "hello"\n  ]\n}',
        "steps are shown; /steps on|off",
        "steps are not shown",
        "session bob, forked from ann@2",
        "1 session  ok",
        "1.1 turn  ok",
        "there is no such command as /nope",
        "/fork [ID]",
        "there is a session of that id already",
        "go on with: fslm chat talk --session bob",
    ):
        assert said in result.err, said
    assert result.err.count("· answer") == 1
    assert fslm("sessions", "show", "ann", "--json").data["version"] == 2
    assert fslm("sessions", "show", "bob", "--json").data["state"]["turns"][-1] == "/slash"


def test_a_turn_that_fails_ends_no_chat(fslm: Fslm) -> None:
    result = fslm("chat", "talk", "--session", "ann", stdin=typed("hello", "boom", "x" * 1001, "again"))
    assert (result.code, result.out) == (1, "0 before hello (calm)\n1 before again (calm)\n")
    assert "error[tool] stack talk, step answer" in result.err and "x answer  stopped" in result.err
    assert "error[input] input of stack talk" in result.err
    assert fslm("chat", "talk", "--no-steps", stdin=b"caf\xe9\nhi").out == "0 before hi (calm)\n"


def test_data_is_shown_and_never_obeyed(fslm: Fslm) -> None:
    result = fslm("chat", "talk", stdin=typed("red \x1b[31m [bold]x[/bold] \u202e back", "boom", "/state", "/trace"))
    assert "\x1b" not in result.out + result.err and "\u202e" not in result.out + result.err
    assert "red \\x1b[31m [bold]x[/bold] \\u202e back" in result.out


def test_other_fields_are_set_once(fslm: Fslm) -> None:
    result = fslm("chat", "talk", "--set", "mood=merry = 1", stdin=typed("hi"))
    assert result.out == "0 before hi (merry = 1)\n"
    assert fslm("chat", "demo.order", "--input-field", "number", "--set", "count=2", stdin=typed("7")).out == (
        '{\n  "number": "7",\n  "count": 2,\n  "note": ""\n}\n'
    )
    out = fslm("chat", "demo.order", "--set", "count=2", "--output-field", "count", stdin=typed("7")).out
    assert out == "2\n"


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("talk", "--set", "moood=x"), "that sets no field of the stack's input"),
        (("talk", "--set", "mood"), "FIELD=VALUE, with one of text, mood"),
        (("talk", "--set", f"mood={'x' * 21}"), "the value does not fit mood"),
        (("talk", "--set", "text=x", "--input-field", "text"), "the field is set already"),
        (("talk", "--input-field", "nothing"), "there is no such field to take what is typed"),
        (("talk", "--output-field", "nothing"), "--output-field: there is no such field"),
        (("demo.order",), "found: no value for count"),
        (("demo.order", "--set", "count=many"), "the value does not fit count"),
        (("demo.call",), "which field of the stack's input takes what is typed cannot be told"),
        (("demo", "--session", "ann"), "the stack has no session"),
        (("talk", "--session", "a b"), "that is no id of a session"),
        (("tlk",), "did you mean 'talk'"),
    ],
)
def test_what_cannot_be_talked_with_is_told_at_once(fslm: Fslm, args: tuple[str, ...], said: str) -> None:
    result = fslm("chat", *args, stdin=typed("hi"))
    assert (result.code, result.out) == (2, "")
    assert said in result.err


def test_a_stack_without_a_session_talks_too(fslm: Fslm) -> None:
    result = fslm("chat", "talk.plain", stdin=typed("hello", "/state", "/fork", "/trace", "/quit"))
    assert result.out == "hello\n"
    assert "it has no session: no line knows another" in result.err
    assert "the stack has no session" in result.err and "no session is kept, so there is none to fork" in result.err


def test_where_none_is_to_be_kept_it_remembers_as_long_as_it_lasts(
    talk: Path, fslm: Fslm, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FSLM_SESSIONS__KEEP", "false")
    result = fslm("chat", "talk", stdin=typed("a", "boom", "b", "/state", "/fork"))
    assert result.out == "0 before a (calm)\n1 before b (calm)\n"
    assert "talk: no session is kept" in result.err and "go on with" not in result.err
    assert not (talk / "data" / "sessions.db").exists()
    refused = fslm("chat", "talk", "--session", "ann", stdin=typed("a"))
    assert refused.code == 2 and "sessions are not kept here" in refused.err


def test_what_steps_say_of_sensitive_fields_is_shown_where_all_is_kept(
    fslm: Fslm, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "· hush  reply=" in fslm("chat", "talk.hush", stdin=typed("canary")).err
    monkeypatch.setenv("FSLM_TRACE__CONTENT", "redacted")
    result = fslm("chat", "talk.hush", stdin=typed("canary"))
    assert result.out == "I know of canary\n"
    assert "canary" not in result.err and "· hush  " in result.err


def test_ctrl_c_stops_the_turn_and_not_the_chat(spawn: Spawn, fslm: Fslm) -> None:
    process = spawn("chat", "talk", "--session", "ann")
    assert process.stdin is not None and process.stdout is not None
    process.stdin.write("wait\n")
    process.stdin.flush()
    wait_for(process, "waiting")
    process.send_signal(signal.SIGINT)
    wait_for(process, "stopped; the session is as it was")
    process.stdin.write("hello\n")
    process.stdin.close()
    assert process.stdout.read() == "0 before hello (calm)\n"
    assert process.wait(60) == 0
    rows = fslm("trace", "list", "--json").data
    assert [row["status"] for row in rows] == ["succeeded", "cancelled"]
    assert fslm("sessions", "show", "ann", "--json").data["state"] == {"turns": ["hello"]}


# -- at a terminal ---------------------------------------------------------------------------------------------------


class Terminal:
    """A terminal with ``fslm`` in it."""

    def __init__(self, *args: str, columns: int) -> None:
        import pty
        import termios

        self._main, other = pty.openpty()
        termios.tcsetwinsize(other, (40, columns))
        env = {**os.environ, "COLUMNS": str(columns), "TERM": "xterm"}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "fslm_core", *args],
            stdin=other,
            stdout=other,
            stderr=other,
            env=env,
            start_new_session=True,
            preexec_fn=_take_terminal,
        )
        os.close(other)
        self.seen = ""

    def until(self, text: str) -> None:
        """Read until the terminal showed this, after what was waited for before."""
        while text not in self.seen:
            try:
                read = os.read(self._main, 65536)
            except OSError:  # nobody is at its other end
                read = b""
            assert read, f"it ended without {text!r}: {self.seen}"
            self.seen += re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]|\r", "", read.decode("utf-8", "replace"))
        self.seen = self.seen.partition(text)[2]

    def type(self, text: str) -> None:
        os.write(self._main, text.encode())

    def interrupt_typing(self) -> None:
        """Ctrl-C once readline waits for a key: one that comes while it takes a key is seen at the next key only."""
        state = Path(f"/proc/{self.process.pid}/stat")
        while state.exists() and state.read_text().rpartition(")")[2].split()[0] != "S":
            os.sched_yield()
        self.type("\x03")

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._main)


def _take_terminal() -> None:
    import fcntl
    import termios

    signal.signal(signal.SIGINT, signal.default_int_handler)
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


@pytest.fixture
def terminal(talk: Path) -> Iterator[Callable[..., Terminal]]:
    started: list[Terminal] = []

    def start(*args: str, columns: int = 120) -> Terminal:
        started.append(Terminal(*args, columns=columns))
        return started[-1]

    yield start
    for one in started:
        one.close()


@pytest.mark.skipif(os.name != "posix", reason="a pseudo-terminal")
def test_on_a_terminal_steps_stand_beside_the_reply(terminal: Callable[..., Terminal], fslm: Fslm) -> None:
    screen = terminal("chat", "talk", "--session", "ann")
    screen.until("you> ")
    screen.type("hello\n")
    screen.until("0 before hello (calm)   ")  # the reply, and on the same line
    screen.until("· answer  reply=")
    screen.until("you> ")
    screen.type("wait\n")
    screen.until("waiting")
    screen.type("\x03")
    screen.until("stopped; the session is as it was")
    screen.until("you> ")
    screen.type("half a line")
    screen.until("half a line")
    screen.interrupt_typing()
    screen.until("(Ctrl-D or /quit ends the chat)")
    screen.until("you> ")
    screen.type("boom\n")
    screen.until("error[tool]")
    screen.until("you> ")
    screen.type("\x04")
    screen.until("go on with: fslm chat talk --session ann")
    assert screen.process.wait(60) == 0  # whoever sits there saw what failed
    assert fslm("sessions", "show", "ann", "--json").data["state"] == {"turns": ["hello"]}


@pytest.mark.skipif(os.name != "posix", reason="a pseudo-terminal")
def test_on_a_narrow_terminal_they_stand_above(terminal: Callable[..., Terminal]) -> None:
    screen = terminal("chat", "talk", columns=60)
    screen.until("you> ")
    screen.type("hello\n")
    screen.until("· remember")
    screen.until("\n0 before hello (calm)")
    screen.until("you> ")
    screen.type("/quit\n")
    screen.until("go on with")
    assert screen.process.wait(60) == 0
