"""``fslm lock`` and ``fslm --locked``: drift is refused, and one command goes back, with pip and real wheels."""

from __future__ import annotations

import json
import os
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

from ...throwaway import Throwaway
from ...wheels import TINY, tiny_wheel
from .conftest import Result, install

Fslm = Callable[..., Result]


@pytest.fixture
def shout(fslm: Fslm) -> Callable[[], Result]:
    """Run the demo, held to the lock."""
    return lambda: fslm("--locked", "run", "demo", "hi")


def upgrade(installed: Path) -> None:
    """What an upgrade leaves: other metadata, other files."""
    (installed / "fslm_demo-1.0.dist-info").rename(installed / "fslm_demo-2.0.dist-info")
    metadata = installed / "fslm_demo-2.0.dist-info" / "METADATA"
    metadata.write_text(metadata.read_text().replace("Version: 1.0", "Version: 2.0"))


def test_what_was_locked_runs_and_what_changed_is_refused(
    fslm: Fslm, shout: Callable[[], Result], installed: Path, environment: Path
) -> None:
    result = fslm("lock", "demo")
    assert (result.code, result.out) == (0, "")
    assert "fslm.lock: locked 1 plugin, 1 stage, 0 base models" in result.err
    lock = tomllib.loads((environment / "fslm.lock").read_text())
    assert lock["stacks"] == ["demo"] and lock["plugins"]["fslm-demo"]["version"] == "1.0"
    assert shout().data == {"shout": "HI"}
    assert "all is as it was locked" in fslm("lock", "--check").err
    upgrade(installed)
    result = shout()
    assert (result.code, result.out) == (4, "")
    assert "error[lock] fslm.lock: what would run is not what was locked" in result.err
    assert "  - plugin fslm-demo, version: locked 1.0, found 2.0" in result.err
    assert "next: `fslm lock` accepts it" in result.err
    assert fslm("run", "demo", "hi").code == 0
    assert "plugin fslm-demo, version: locked 1.0, found 2.0" in fslm("lock", "demo").err
    assert (environment / "fslm.lock.previous").exists()
    assert shout().code == 0


def test_variable_setting_and_option_mean_the_same(
    fslm: Fslm, installed: Path, environment: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fslm("lock", "demo", "--out", "locks/mine.lock")
    upgrade(installed)
    assert fslm("run", "demo", "hi").code == 0
    assert "there is no lock file" in fslm("--locked", "run", "demo", "hi").err
    monkeypatch.setenv("FSLM_LOCK_FILE", "locks/mine.lock")
    assert fslm("--locked", "run", "demo", "hi").code == 4
    monkeypatch.setenv("FSLM_LOCKED", "1")
    assert fslm("run", "demo", "hi").code == 4
    monkeypatch.setenv("FSLM_LOCKED", "0")
    (environment / "fslm.toml").write_text("locked = true\n")
    monkeypatch.delenv("FSLM_LOCKED")
    assert fslm("run", "demo", "hi").code == 4


@pytest.mark.parametrize(
    "command",
    [
        ("batch", "demo", "rows.jsonl", "--out", "out.jsonl"),
        ("check", "demo"),
        pytest.param(("eval", "demo", "rows.jsonl"), marks=pytest.mark.torch),
        ("bench", "demo", "--input", "hi"),
        ("greet", "Ada"),
    ],
)
def test_whatever_runs_something_is_held_to_the_lock(
    fslm: Fslm, installed: Path, environment: Path, command: tuple[str, ...]
) -> None:
    (environment / "rows.jsonl").write_text('{"text": "hi"}\n')
    fslm("lock", "demo")
    upgrade(installed)
    result = fslm("--locked", *command)
    assert (result.code, "error[lock]" in result.err) == (4, True), result.err


def test_a_plugin_that_no_longer_loads_is_told_as_drift(
    fslm: Fslm, shout: Callable[[], Result], installed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fslm("lock", "demo")
    monkeypatch.setenv("FSLM_DISABLE", "demo")
    monkeypatch.setenv("FSLM_BACKEND", "torch")
    result = shout()
    assert result.code == 4
    assert "plugin fslm-demo: locked 1.0, found 1.0 (disabled: disabled by the settings)" in result.err
    assert "backend: locked demo.rule, found torch" in result.err


def test_check_tells_each_difference_and_says_so_with_its_exit_code(fslm: Fslm, installed: Path) -> None:
    fslm("lock", "demo")
    assert fslm("lock", "--check", "--json").data == {"path": "fslm.lock", "holds": True, "differences": []}
    path = installed / "demo_plugin.py"
    path.write_text(path.read_text() + "\n# changed\n")
    result = fslm("lock", "--check")
    assert result.code == 1
    assert "plugin fslm-demo, files" in result.out
    data = fslm("lock", "--check", "--json").data
    assert (data["holds"], [d["what"] for d in data["differences"]]) == (False, ["plugin fslm-demo, files"])


def test_a_whole_lock_refuses_a_plugin_that_came_since(
    fslm: Fslm, installed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FSLM_PLUGINS", "tiny,verbs")
    monkeypatch.delenv("FSLM_BACKEND")
    install(installed, "tiny", TINY.format(name="tiny", version="1.0"))
    assert fslm("lock").code == 0
    assert fslm("--locked", "run", "tiny", "hi").data == {"heard": "1.0: hi"}
    install(installed, "verbs", "from fslm_core import hookimpl\n@hookimpl\ndef fslm_commands(): return {}\n")
    assert "plugin fslm-verbs: locked nothing, found 1.0" in fslm("--locked", "run", "tiny", "hi").err
    assert fslm("run", "tiny", "hi").code == 0


@pytest.mark.parametrize(
    "arguments",
    [
        ("--check", "--restore"),
        ("--install", "--restore"),
        ("demo", "--check"),
        ("demo", "--restore"),
        ("--dry-run",),
        ("--check", "--dry-run"),
    ],
)
def test_what_cannot_be_asked_for_together_is_refused(fslm: Fslm, arguments: tuple[str, ...]) -> None:
    result = fslm("lock", *arguments)
    assert (result.code, result.out) == (2, "")
    assert "cannot be asked for together" in result.err


def test_going_back_where_there_is_nothing_to_go_back_to(fslm: Fslm) -> None:
    fslm("lock", "demo")
    for more in ((), ("--dry-run",)):
        result = fslm("lock", "--restore", *more)
        assert result.code == 4 and "there is no lock before this one" in result.err


def test_json_says_what_was_written(fslm: Fslm, installed: Path) -> None:
    assert fslm("lock", "demo", "--json").data == {"path": "fslm.lock", "written": True, "changes": []}
    assert fslm("lock", "demo", "--json").data["written"] is False
    upgrade(installed)
    (change,) = fslm("lock", "demo", "--json").data["changes"]
    assert change == {"what": "plugin fslm-demo, version", "locked": "1.0", "found": "2.0"}


# -- with pip ----------------------------------------------------------------------------------------------------------


def test_an_upgrade_is_refused_accepted_and_taken_back_by_one_command(tmp_path: Path) -> None:
    env = Throwaway(tmp_path / "env", "tiny")
    for version in ("1.0", "2.0"):
        tiny_wheel(env.wheels, version)

    def heard() -> tuple[int, str]:
        done = env.fslm("--locked", "run", "tiny", "hi")
        return done.returncode, json.loads(done.stdout)["heard"] if done.stdout else done.stderr

    env.pip("install", "fslm-tiny==1.0")
    assert env.fslm("lock").returncode == 0
    env.pip("install", "fslm-tiny==2.0")
    code, said = heard()
    assert code == 4 and "plugin fslm-tiny, version: locked 1.0, found 2.0" in said
    assert env.fslm("lock").returncode == 0
    assert heard() == (0, "2.0: hi")

    restored = env.fslm("lock", "--restore")
    assert restored.returncode == 0, restored.stderr
    assert f"{env.python} -m pip install fslm-tiny==1.0" in restored.stderr
    assert heard() == (0, "1.0: hi")

    # The files of the same version were changed: --install puts back what is locked.
    with open(env.site / "fslm_tiny" / "__init__.py", "a", encoding="utf-8") as file:
        file.write("# changed\n")
    installed = env.fslm("lock", "--install", "--json")
    assert installed.returncode == 0, installed.stderr
    assert json.loads(installed.stdout)["differences"] == []

    # The version that is locked is no longer to be had: nothing is touched.
    os.unlink(env.wheels / "fslm_tiny-2.0-py3-none-any.whl")
    before = (env.home / "fslm.lock").read_bytes()
    failed = env.fslm("lock", "--restore")
    assert failed.returncode == 4
    assert "error[lock] python -m pip install fslm-tiny==2.0: pip could not" in failed.stderr
    assert "No matching distribution found for fslm-tiny==2.0" in failed.stderr
    assert (env.home / "fslm.lock").read_bytes() == before
    assert heard() == (0, "1.0: hi")
