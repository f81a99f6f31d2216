"""Settings: files, variables and arguments, from weak to strong; what is wrong is named with its place."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from fslm_core.errors import SettingsError
from fslm_core.settings import Settings, default, load, user_file


@pytest.fixture(autouse=True)
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder without settings, and a process without variables."""
    import os

    for name in list(os.environ):
        if name.upper().startswith("FSLM_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def test_the_stronger_source_wins_and_sections_are_merged(monkeypatch: pytest.MonkeyPatch) -> None:
    write(user_file(), 'profile = "user"\nbackend = "user"\n[trace]\ncontent = "full"\non_failure = "continue"\n')
    write(Path("fslm.toml"), 'backend = "folder"\nprofile = "folder"\n[trace]\ncontent = "redacted"\n')
    monkeypatch.setenv("FSLM_PROFILE", "variable")
    found = load()
    assert (found.backend, found.profile) == ("folder", "variable")
    assert (found.trace.content, found.trace.on_failure) == ("redacted", "continue")
    assert load(profile="argument").profile == "argument"
    assert load(files=()).backend == "torch"


def test_one_named_file_takes_the_place_of_both(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    write(Path("fslm.toml"), "offline = true\n")
    monkeypatch.setenv("FSLM_CONFIG", str(write(tmp_path / "own.toml", 'profile = "own"\n')))
    assert (load().profile, load().offline) == ("own", False)
    assert user_file() == tmp_path / "own.toml"


@pytest.mark.parametrize("name", ["missing.toml", "."])
def test_a_named_file_that_is_not_there_is_no_empty_one(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("FSLM_CONFIG", str(tmp_path / name))
    with pytest.raises(SettingsError) as caught:
        load()
    assert caught.value.where == "the variable FSLM_CONFIG"
    assert str(tmp_path / name) in str(caught.value.found)
    assert load(files=()).backend == "torch"


def test_a_named_device_is_an_empty_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FSLM_CONFIG", "/dev/null")
    assert load().backend == "torch"


def test_threads_that_load_at_once_read_their_own_files(tmp_path: Path) -> None:
    names = [f"p{i}" for i in range(8)]
    files = [write(tmp_path / f"{name}.toml", f'profile = "{name}"\n') for name in names]
    together = threading.Barrier(len(files))

    def read(file: Path) -> list[str | None]:
        together.wait()
        return [load(files=[file]).profile for _ in range(50)]

    with ThreadPoolExecutor(len(files)) as pool:
        assert [set(found) for found in pool.map(read, files)] == [{name} for name in names]


@pytest.mark.parametrize(
    ("name", "value", "read"),
    [
        ("FSLM_OFFLINE", "1", lambda s: s.offline is True),
        ("FSLM_TRACE__CONTENT", "none", lambda s: s.trace.content == "none"),
        ("FSLM_TORCH__THREADS", "3", lambda s: s.torch.threads == 3),
        ("FSLM_PLUGINS", "a, b,", lambda s: s.plugins == ("a", "b")),
        ("FSLM_PLUGINS", "", lambda s: s.plugins == ()),
        ("FSLM_DISABLE", "a", lambda s: s.disable == ("a",)),
        ("FSLM_CACHE_DIR", "/x/y", lambda s: s.cache_dir == Path("/x/y")),
        ("fslm_backend", "openai", lambda s: s.backend == "openai"),
    ],
)
def test_variables(monkeypatch: pytest.MonkeyPatch, name: str, value: str, read: Any) -> None:
    monkeypatch.setenv(name, value)
    assert read(load())


def test_stages_are_set_by_their_names() -> None:
    write(Path("fslm.toml"), f'[stages."support.intent"]\nadapter = "/srv/v2"\nsha256 = "{"a" * 64}"\n')
    stage = load().stages["support.intent"]
    assert (stage.adapter, stage.allow_untrained) == (Path("/srv/v2"), False)


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("offline = 3", "offline"),
        ("nothing = 1", "nothing"),
        ("[trace]\nnothing = 1", "trace.nothing"),
        ('[trace]\ncontent = "all"', "trace.content"),
        ("[torch]\nthreads = -1", "torch.threads"),
        ("[torch]\nmax_batch = 0", "torch.max_batch"),
        ('[stages."a.b"]\nsha256 = "xyz"', "stages.a.b.sha256"),
        ("disable = 3", "disable"),
        ("offline = ", "read"),
        ("\x00", "read"),
    ],
)
def test_a_wrong_file_is_an_error_that_names_the_place(text: str, place: str) -> None:
    write(Path("fslm.toml"), text)
    with pytest.raises(SettingsError, match=place) as caught:
        load()
    assert caught.value.hint
    assert load(files=()).offline is False


def test_a_file_that_is_no_text_is_an_error() -> None:
    Path("fslm.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(SettingsError, match="cannot be read"):
        load()


@pytest.mark.parametrize("name", ["FSLM_OFLINE", "FSLM_TRACES__CONTENT", "FSLM_"])
def test_a_variable_that_means_nothing_is_an_error(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "1")
    with pytest.raises(SettingsError, match=name):
        load()


@pytest.mark.parametrize(
    ("name", "value"),
    [("FSLM_OFFLINE", "perhaps"), ("FSLM_TRACE__NOTHING", "1"), ("FSLM_TRACE", "{"), ("FSLM_STAGES", "x")],
)
def test_a_wrong_value_of_a_variable_is_an_error(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError):
        load()


@pytest.mark.parametrize(
    ("name", "meant"), [("FSLM_TRACE_CONTENT", "FSLM_TRACE__CONTENT"), ("FSLM_THREADS", "FSLM_TORCH__THREADS")]
)
def test_one_underscore_too_few_is_told(monkeypatch: pytest.MonkeyPatch, name: str, meant: str) -> None:
    monkeypatch.setenv(name, "1")
    with pytest.raises(SettingsError) as caught:
        load()
    assert caught.value.hint == f"did you mean {meant}?"


def test_settings_do_not_change() -> None:
    with pytest.raises(Exception, match="frozen"):
        load().offline = True
    assert default() is default()
    assert isinstance(default(), Settings)


def test_where_the_trace_is() -> None:
    assert load(data_dir="/d").trace_path == Path("/d/trace.db")
    assert load(trace={"path": "/x.db"}).trace_path == Path("/x.db")
