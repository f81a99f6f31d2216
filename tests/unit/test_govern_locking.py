"""Lock files written whole, kept beside the one before, exchanged with it; and what pip is asked to do."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from fslm_core.backends.scripted import ScriptedBackend
from fslm_core.engine.lock import Lock, read
from fslm_core.errors import LockError, UnknownNameError
from fslm_core.govern import Plan, check, install, lock_before, plan, previous_of, restore, write
from fslm_core.plugins import PluginHost
from fslm_core.settings import load

from ..wheels import tiny_wheel, unpack


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    site = tmp_path / "site"
    site.mkdir()
    monkeypatch.syspath_prepend(site)
    yield site
    for name in [name for name in sys.modules if name.startswith(("fslm_tiny", "fslm_more"))]:
        del sys.modules[name]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "locks" / "fslm.lock"


def settings(**more: Any) -> Any:
    return load(files=(), **{"plugins": ("tiny", "more"), **more})


def host(**more: Any) -> PluginHost:
    """The plugins as a process that begins now would see them."""
    for name in [name for name in sys.modules if name.startswith(("fslm_tiny", "fslm_more"))]:
        del sys.modules[name]
    return PluginHost(settings(**more))


def put(site: Path, version: str, name: str = "tiny") -> None:
    """Install a version in the place of the one that is there."""
    for old in site.glob(f"fslm_{name}*"):
        for path in sorted(old.rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()
        old.rmdir()
    unpack(tiny_wheel(site.parent / "w", version, name=name), site)


def lock(path: Path, *stacks: str) -> Lock:
    return write(path, host(), settings(), ScriptedBackend(), stacks).lock


def test_a_lock_is_written_and_what_it_replaces_is_kept(site: Path, path: Path) -> None:
    put(site, "1.0")
    first = write(path, host(), settings(), ScriptedBackend())
    assert (first.before, first.changes) == (None, ())
    assert not previous_of(path).exists()
    assert check(path, host(), settings(), ScriptedBackend()) == []
    put(site, "2.0")
    told = [str(drift) for drift in check(path, host(), settings(), ScriptedBackend())]
    assert told == [
        "plugin fslm-tiny, version: locked 1.0, found 2.0",
        "stage tiny.hear, tool: locked 1.0, found 2.0",
    ]
    text = path.read_text()
    second = write(path, host(), settings(), ScriptedBackend())
    assert [str(change) for change in second.changes] == told
    assert previous_of(path).read_text() == text
    assert read(path).plugins["fslm-tiny"].version == "2.0"


def test_the_same_lock_again_leaves_both_as_they_were(site: Path, path: Path) -> None:
    for version in ("1.0", "2.0", "2.0"):
        put(site, version)
        lock(path)
    assert lock_before(path).plugins["fslm-tiny"].version == "1.0"
    assert {file.name for file in path.parent.iterdir()} == {"fslm.lock", "fslm.lock.previous"}


def test_a_file_that_is_no_lock_is_replaced_and_never_gone_back_to(site: Path, path: Path) -> None:
    put(site, "1.0")
    path.parent.mkdir()
    path.write_text("<<<<<<< a conflict\n")
    assert write(path, host(), settings(), ScriptedBackend()).before is None
    assert not previous_of(path).exists()


def test_what_cannot_be_written_leaves_what_was_there(site: Path, path: Path) -> None:
    put(site, "1.0")
    lock(path)
    text = path.read_text()
    previous_of(path).mkdir()
    put(site, "2.0")
    with pytest.raises(LockError, match="cannot be written"):
        lock(path)
    assert path.read_text() == text
    with pytest.raises(LockError, match="cannot be read"):
        lock(path.parent)


def test_a_lock_of_some_stacks(site: Path, path: Path) -> None:
    put(site, "1.0")
    put(site, "1.0", "more")
    assert list(lock(path).plugins) == ["fslm-more", "fslm-tiny"]
    limited = lock(path, "tiny")
    assert (limited.stacks, list(limited.plugins), list(limited.stages)) == (("tiny",), ["fslm-tiny"], ["tiny.hear"])
    put(site, "2.0", "more")
    assert check(path, host(), settings(), ScriptedBackend()) == []
    with pytest.raises(UnknownNameError):
        lock(path, "tinny")


# -- what pip is asked to do -------------------------------------------------------------------------------------------


def arguments(found: Plan) -> list[list[str]]:
    assert all(command[:3] == [sys.executable, "-m", "pip"] for command in found.commands)
    return [command[3:] for command in found.commands]


def test_pip_is_asked_for_what_differs_and_nothing_else(site: Path, path: Path) -> None:
    put(site, "1.0")
    first = lock(path)
    assert arguments(plan(first, host(), path)) == []
    put(site, "2.0")
    assert arguments(plan(first, host(), path)) == [["install", "fslm-tiny==1.0"]]
    put(site, "1.0")
    (site / "fslm_tiny/extra.py").write_text("")
    assert arguments(plan(first, host(), path)) == [["install", "--force-reinstall", "--no-deps", "fslm-tiny==1.0"]]
    (site / "fslm_tiny/extra.py").unlink()
    put(site, "1.0", "more")
    assert arguments(plan(first, host(), path)) == [["uninstall", "--yes", "fslm-more"]]
    assert arguments(plan(first, host(disable=("more",)), path)) == []
    limited = first.model_copy(update={"stacks": ("tiny",)})
    assert arguments(plan(limited, host(), path)) == []
    other = first.model_copy(update={"core": "0.9.0"})
    assert arguments(plan(other, host(disable=("more",)), path)) == [["install", "fslm-core==0.9.0"]]


@pytest.mark.parametrize(("source", "where"), [("editable", "in a source tree"), ("program", "by a program")])
def test_what_pip_cannot_get_again_is_told_before_pip_is_run(site: Path, path: Path, source: str, where: str) -> None:
    put(site, "1.0")
    first = lock(path)
    was = first.plugins["fslm-tiny"].model_copy(update={"source": source})
    changed = first.model_copy(update={"plugins": {"fslm-tiny": was}})
    assert arguments(plan(changed, host(), path)) == []  # it is as it was: nothing is to be done
    put(site, "2.0")
    with pytest.raises(LockError, match="not every plugin") as caught:
        plan(changed, host(), path)
    (difference,) = caught.value.differences
    assert "plugin fslm-tiny: locked 1.0" in difference and where in difference and "found 2.0" in difference


class Pip:
    """Stands in for pip and for the process that looks again: installs the wheel itself."""

    def __init__(self, site: Path, *, code: int = 0, left: Sequence[dict[str, str]] = ()) -> None:
        self.site = site
        self.code = code
        self.left = list(left)
        self.calls: list[list[str]] = []

    def __call__(self, command: Sequence[str]) -> subprocess.CompletedProcess[str]:
        self.calls.append(list(command[1:]))
        if "pip" not in command:
            said = json.dumps({"differences": self.left})
            return subprocess.CompletedProcess(command, 1 if self.left else 0, said, "")
        said = "Looking in links\nERROR: No matching distribution found for fslm-tiny==1.0\n"
        if not self.code:
            put(self.site, command[-1].partition("==")[2])
        return subprocess.CompletedProcess(command, self.code, "Processing\n", said if self.code else "")


@pytest.fixture
def two(site: Path, path: Path) -> Path:
    """Version 1.0 was locked, then 2.0, which is installed."""
    for version in ("1.0", "2.0"):
        put(site, version)
        lock(path)
    return path


def versions(path: Path) -> tuple[str, str]:
    return tuple(read(p).plugins["fslm-tiny"].version for p in (path, previous_of(path)))  # type: ignore[return-value]


def test_going_back_installs_what_was_locked_and_exchanges_the_locks(two: Path, site: Path) -> None:
    pip, told = Pip(site), []
    done = restore(two, host(), run=pip, tell=told.append)
    assert pip.calls[0] == ["-m", "pip", "install", "fslm-tiny==1.0"]
    assert pip.calls[1][-5:] == ["lock", "--check", "--json", "--out", str(two)]
    assert told == [f"{sys.executable} -m pip install fslm-tiny==1.0"]
    assert done.left == () and done.lock.plugins["fslm-tiny"].version == "1.0"
    assert versions(two) == ("1.0", "2.0")
    assert check(two, host(), settings(), ScriptedBackend()) == []
    restore(two, host(), run=pip, tell=told.append)
    assert versions(two) == ("2.0", "1.0")
    assert check(two, host(), settings(), ScriptedBackend()) == []


def test_where_pip_fails_the_locks_stay(two: Path, site: Path) -> None:
    with pytest.raises(LockError, match="pip could not") as caught:
        restore(two, host(), run=Pip(site, code=1), tell=lambda text: None)
    assert caught.value.found == "ERROR: No matching distribution found for fslm-tiny==1.0"
    assert caught.value.where == "python -m pip install fslm-tiny==1.0"
    assert versions(two) == ("2.0", "1.0")


def test_what_pip_cannot_change_is_told(two: Path, site: Path) -> None:
    left = {"what": "setting profile", "locked": "a", "found": "b"}
    done = restore(two, host(), run=Pip(site, left=[left]), tell=lambda text: None)
    assert [str(drift) for drift in done.left] == ["setting profile: locked a, found b"]
    assert versions(two) == ("1.0", "2.0")


def test_an_answer_that_is_none_is_no_success(two: Path, site: Path) -> None:
    def run(command: Sequence[str]) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess(command, 0, "", "error[plugin-load] …")

    with pytest.raises(LockError, match="could not be compared") as caught:
        restore(two, host(), run=run, tell=lambda text: None)
    assert caught.value.found == "error[plugin-load] …"


def test_installing_what_is_locked_leaves_the_locks_alone(two: Path, site: Path) -> None:
    put(site, "3.0")
    pip = Pip(site)
    assert install(two, host(), run=pip, tell=lambda text: None).left == ()
    assert pip.calls[0] == ["-m", "pip", "install", "fslm-tiny==2.0"]
    assert versions(two) == ("2.0", "1.0")


def test_without_a_lock_before_there_is_nothing_to_go_back_to(site: Path, path: Path) -> None:
    put(site, "1.0")
    lock(path)
    with pytest.raises(LockError, match="no lock before") as caught:
        restore(path, host(), run=Pip(site))
    assert caught.value.found == "no fslm.lock.previous"
    with pytest.raises(LockError, match="there is no lock file"):
        install(path.with_name("none.lock"), host(), run=Pip(site))
