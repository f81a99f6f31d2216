"""A lock as text and as values, what differs from it, and an engine that refuses what differs."""

from __future__ import annotations

import asyncio
import hashlib
import shutil
import tomllib
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, Field

from fslm_core import SLM, Engine, Stack, Stage, tool
from fslm_core.backends.protocol import Backend, Capabilities
from fslm_core.backends.scripted import ScriptedBackend
from fslm_core.engine.here import drift, look
from fslm_core.engine.lock import (
    Drift,
    Lock,
    LockedCheckpoint,
    LockedPlugin,
    LockedStage,
    differences,
    read,
    refuse,
    text_of,
)
from fslm_core.errors import LockError, UnknownNameError
from fslm_core.hooks import hookimpl
from fslm_core.plugins import PluginHost
from fslm_core.settings import Settings, load

from ..wheels import PROMPT, adapter_files

PLUGIN = LockedPlugin(version="1.0", names=("shop",), source="index", files="f" * 64)
STAGE = LockedStage(
    plugin="fslm-shop",
    fingerprint="1",
    checkpoint="base",
    adapter="a",
    template="t",
    input_schema="i",
    output_schema="o",
)
LOCK = Lock(
    core="0.1.0",
    backend="torch",
    settings={"foreign_checks": ["a", "b"], "torch.precision": "int8", 'stages."odd".x': True},
    plugins={"fslm-shop": PLUGIN},
    stages={"shop.topic": STAGE},
    checkpoints={"base": LockedCheckpoint(sha256="c", source="a folder")},
)


# -- text --------------------------------------------------------------------------------------------------------------


def test_a_lock_is_toml_that_says_the_same_when_read(tmp_path: Path) -> None:
    path = tmp_path / "fslm.lock"
    path.write_text(text_of(LOCK), encoding="utf-8")
    assert read(path) == LOCK
    assert text_of(read(path)) == text_of(LOCK)
    data = tomllib.loads(text_of(LOCK))
    assert (data["core"], data["plugins"]["fslm-shop"]["version"]) == ("0.1.0", "1.0")
    assert "variant" not in text_of(LOCK)  # what is empty is left out


def test_the_text_is_sorted_and_a_fact_is_a_line() -> None:
    more = LOCK.model_copy(update={"plugins": {"z": PLUGIN, "a": PLUGIN}, "stages": {"z.a": STAGE, "b": STAGE}})
    text = text_of(more)
    assert (
        text.index("[plugins.a]") < text.index("[plugins.z]") < text.index("[stages.b]") < text.index('[stages."z.a"]')
    )
    other = more.model_copy(update={"plugins": {"a": PLUGIN, "z": PLUGIN.model_copy(update={"version": "2.0"})}})
    changed = [pair for pair in zip(text.splitlines(), text_of(other).splitlines(), strict=True) if pair[0] != pair[1]]
    assert changed == [('version = "1.0"', 'version = "2.0"')]


names = st.text(min_size=1, max_size=12)


@given(st.dictionaries(names, st.text(max_size=12), max_size=4), st.dictionaries(names, names, max_size=3))
def test_whatever_names_and_values_there_are_they_are_read_as_they_were(
    settings: dict[str, Any], versions: dict[str, str]
) -> None:
    plugins = {name: PLUGIN.model_copy(update={"version": version}) for name, version in versions.items()}
    lock = LOCK.model_copy(update={"settings": settings, "plugins": plugins})
    assert Lock.model_validate(tomllib.loads(text_of(lock))) == lock


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("core = ", "not TOML"),
        ("core = '0.1.0'\n", "backend"),
        ("format = 2\ncore = '0.1.0'\nbackend = 'torch'\n", "format"),
        ("core = '0.1.0'\nbackend = 'torch'\nmore = 1\n", "more"),
        ("[plugins.x]\nversion = 1\n", "no lock file"),
    ],
)
def test_what_is_no_lock_is_refused(tmp_path: Path, text: str, what: str) -> None:
    path = tmp_path / "fslm.lock"
    path.write_text(text)
    with pytest.raises(LockError, match=what) as caught:
        read(path)
    assert caught.value.where == str(path)


def test_a_lock_that_is_not_there_or_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(LockError, match="there is no lock file"):
        read(tmp_path / "fslm.lock")
    with pytest.raises(LockError, match="cannot be read"):
        read(tmp_path)


# -- differences -------------------------------------------------------------------------------------------------------


def changed(**parts: Any) -> list[str]:
    return [str(d) for d in differences(LOCK, LOCK.model_copy(update=parts))]


def test_a_lock_does_not_differ_from_itself() -> None:
    assert differences(LOCK, LOCK) == []
    refuse([], Path("fslm.lock"))


def test_core_backend_and_settings() -> None:
    assert changed(core="0.2.0") == ["core: locked 0.1.0, found 0.2.0"]
    assert changed(backend="openai") == ["backend: locked torch, found openai"]
    assert changed(settings={**LOCK.settings, "foreign_checks": ["a"], "profile": "gpu"}) == [
        "setting foreign_checks: locked a, b, found a",
        "setting profile: locked nothing, found gpu",
    ]


def test_plugins_by_version_then_by_files() -> None:
    other = PLUGIN.model_copy(update={"files": "e" * 64})
    assert changed(plugins={"fslm-shop": other}) == [f"plugin fslm-shop, files: locked {'f' * 64}, found {'e' * 64}"]
    other = other.model_copy(update={"version": "2.0"})
    assert changed(plugins={"fslm-shop": other}) == ["plugin fslm-shop, version: locked 1.0, found 2.0"]
    assert changed(plugins={"fslm-shop": PLUGIN, "fslm-x": PLUGIN}) == ["plugin fslm-x: locked nothing, found 1.0"]
    other = PLUGIN.model_copy(update={"source": "local"})
    assert changed(plugins={"fslm-shop": other}) == []  # the same files, from elsewhere


def test_a_plugin_that_is_gone_takes_its_stages_along() -> None:
    assert changed(plugins={}, stages={}) == ["plugin fslm-shop: locked 1.0, found nothing"]
    assert changed(stages={}) == ["stage shop.topic: locked 1, found nothing"]


def test_stages_by_what_is_another_and_else_by_their_fingerprint() -> None:
    def stage(**parts: str) -> dict[str, LockedStage]:
        return {"shop.topic": STAGE.model_copy(update={"fingerprint": "2", **parts})}

    assert changed(stages=stage()) == ["stage shop.topic, fingerprint: locked 1, found 2"]
    assert changed(stages=stage(adapter="b", variant="gpu")) == [
        "stage shop.topic, adapter: locked a, found b",
        "stage shop.topic, variant: locked none, found gpu",
    ]
    assert changed(stages=stage(), checkpoints={"base": LockedCheckpoint(sha256="d", source="w")}) == [
        "checkpoint base, sha256: locked c, found d"
    ]
    assert changed(stages=stage(), backend="openai") == ["backend: locked torch, found openai"]


def test_all_that_differs_is_told_at_once() -> None:
    drifts = [Drift("core", "0.1.0", "0.2.0"), Drift("stage a", None, "1")]
    with pytest.raises(LockError) as caught:
        refuse(drifts, Path("fslm.lock"))
    assert caught.value.differences == ("core: locked 0.1.0, found 0.2.0", "stage a: locked nothing, found 1")
    assert caught.value.to_dict()["differences"] == list(caught.value.differences)
    assert "  - core: locked 0.1.0, found 0.2.0\n" in str(caught.value)
    assert (caught.value.code, caught.value.exit_code) == ("lock", 4)


# -- what is here, and an engine that holds to it ----------------------------------------------------------------------


class Text(BaseModel):
    text: str


def saying(version: str) -> Stage[Text, Text]:
    @tool("a.say", version=version)
    def say(message: Text) -> Text:
        return message

    return say


class Plugin:
    """One stack of one tool stage."""

    def __init__(self, version: str = "1", name: str = "a") -> None:
        self.stage = saying(version)
        self.name = name

    @hookimpl
    def fslm_stages(self) -> list[Stage[Any, Any]]:
        return [self.stage]

    @hookimpl
    def fslm_stacks(self) -> list[Stack[Any, Any]]:
        return [Stack("a", input=Text, output=Text, steps=[self.stage], bind={"text": "say.text"})]


class Other:
    """A plugin that offers nothing but a verb."""

    @hookimpl
    def fslm_commands(self) -> dict[str, Any]:
        return {"greet": print}


def host(settings: Settings, *, version: str = "1", **more: object) -> PluginHost:
    return PluginHost(settings, plugins={"a": Plugin(version), **more}, installed=False)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return load(files=(), lock_file=tmp_path / "fslm.lock", data_dir=tmp_path / "data")


def backend() -> Backend:
    return ScriptedBackend()


def lock(settings: Settings, **more: object) -> Lock:
    found = look(host(settings, **more), settings, backend())
    settings.lock_file.write_text(text_of(found), encoding="utf-8")
    return found


def engine(settings: Settings, *, locked: bool | None = True, **more: Any) -> Engine:
    return Engine(settings=settings, host=host(settings, **more), backend=backend(), trace=False, locked=locked)


def test_what_is_here_is_what_the_engine_says_of_its_messages(settings: Settings) -> None:
    found = lock(settings)
    assert (found.core, found.backend, found.stacks, list(found.plugins)) == ("0.1.0", "scripted", None, ["a"])
    with engine(settings) as opened:
        assert opened.origins("a")["say"].fingerprint == found.stages["a.say"].fingerprint
        assert opened.run("a", {"text": "hi"}).output.text == "hi"


def test_an_engine_refuses_a_stage_that_changed_before_it_runs(settings: Settings) -> None:
    lock(settings)
    with engine(settings, version="2") as opened, pytest.raises(LockError) as caught:
        opened.run("a", {"text": "hi"})
    assert caught.value.differences == ("stage a.say, tool: locked 1, found 2",)
    with pytest.raises(LockError), Engine(["a"], settings=settings, host=host(settings, version="2"), locked=True):
        pass
    with engine(settings, version="2", locked=None) as opened:
        assert opened.run("a", {"text": "hi"}).output.text == "hi"


def test_an_engine_refuses_to_open_where_plugins_or_settings_changed(settings: Settings) -> None:
    lock(settings)
    with pytest.raises(LockError, match="plugin b: locked nothing"):
        engine(settings, b=Other()).__enter__()
    other = settings.model_copy(update={"profile": "gpu"})
    with pytest.raises(LockError, match="setting profile: locked nothing, found gpu"):
        engine(other).__enter__()
    held = settings.model_copy(update={"locked": True, "profile": "gpu"})
    with pytest.raises(LockError, match="profile"):
        engine(held, locked=None).__enter__()
    with engine(held, locked=False) as opened:
        assert opened.run("a", {"text": "hi"}).output.text == "hi"


async def refused(settings: Settings) -> str:
    try:
        async with engine(settings, b=Other()):
            return "nothing"
    except LockError as error:
        return str(error)


def test_async_with_refuses_too(settings: Settings) -> None:
    lock(settings)
    assert "plugin b" in asyncio.run(refused(settings))


def test_without_a_lock_file_nothing_is_opened(settings: Settings) -> None:
    with pytest.raises(LockError, match="there is no lock file") as caught:
        engine(settings).__enter__()
    assert "`fslm lock`" in str(caught.value.hint)


def test_a_lock_of_some_stacks_leaves_the_rest_alone_and_lets_nothing_else_run(settings: Settings) -> None:
    found = look(host(settings, b=Other()), settings, backend(), stacks=["a"])
    assert (found.stacks, list(found.plugins)) == (("a",), ["a"])
    settings.lock_file.write_text(text_of(found), encoding="utf-8")
    with engine(settings, b=Other(), c=Other()) as opened:
        assert opened.run("a", {"text": "hi"}).output.text == "hi"
        stage = opened.host.stage("a.say")
        free = Stack("free", input=Text, output=Text, steps=[stage], bind={"text": "say.text"})
        with pytest.raises(LockError, match="stack free: locked nothing"):
            opened.run(free, {"text": "hi"})
    with pytest.raises(UnknownNameError):
        look(host(settings), settings, backend(), stacks=["none"])


def test_drift_of_an_environment_that_lost_a_locked_stack(settings: Settings) -> None:
    found = look(host(settings), settings, backend(), stacks=["a"])
    gone = PluginHost(settings, plugins={"b": Other()}, installed=False)
    assert [d.what for d in drift(found, gone, settings, backend())] == ["plugin a", "stack a"]
    blocked = PluginHost(settings.model_copy(update={"disable": ("a",)}), plugins={"a": Plugin()}, installed=False)
    (first, _) = drift(found, blocked, settings, backend())
    assert str(first) == "plugin a: locked none, found (disabled: disabled by the settings)"


def test_settings_that_change_nothing_that_is_written_are_not_locked(tmp_path: Path) -> None:
    plain = load(files=(), data_dir=tmp_path, offline=True, torch={"threads": 3, "max_batch": 1})
    assert look(host(plain), plain, backend()).settings == {}
    telling = load(
        files=(),
        profile="gpu",
        torch={"precision": "int8"},
        openai={"base_url": "http://me:pw@models.example/v1", "models": {"a.say": "m"}},
        foreign_checks=("b", "a"),
        stages={"a.say": {"variant": "v", "allow_untrained": True}},
    )
    assert look(host(telling), telling, backend()).settings == {
        "profile": "gpu",
        "foreign_checks": ["a", "b"],
        "torch.precision": "int8",
        "openai.base_url": "http://models.example/v1",
        "openai.models.a.say": "m",
        "stages.a.say.variant": "v",
        "stages.a.say.allow_untrained": True,
    }


# -- adapters and base models ------------------------------------------------------------------------------------------


class Short(BaseModel):
    text: str = Field(max_length=50)


class Label(BaseModel):
    label: Literal["good", "bad"]


class Labels:
    """One stack of one stage with an adapter."""

    def __init__(self, adapter: Path) -> None:
        model = SLM("smollm2-135m", adapter=adapter)
        self.stage = Stage("a.label", input=Short, output=Label, prompt=PROMPT, model=model)

    @hookimpl
    def fslm_stages(self) -> list[Stage[Any, Any]]:
        return [self.stage]


class Weights(ScriptedBackend):
    """A backend that would read weights."""

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities()


def adapter(folder: Path, last: bytes = b"\0") -> tuple[Path, str]:
    """Write an adapter; return its folder and the hash of its weights."""
    folder.mkdir()
    for name, data in adapter_files("a.label", input_schema="i", output_schema="o", sha256=None).items():
        (folder / name).write_bytes(data)
    weights = folder / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + last)
    return folder, hashlib.sha256(weights.read_bytes()).hexdigest()


def test_an_adapter_of_the_settings_is_locked_by_its_hash_wherever_it_lies(tmp_path: Path) -> None:
    (own, own_hash), (other, other_hash) = adapter(tmp_path / "own"), adapter(tmp_path / "other", b"\1")

    def here(override: Path | None = None) -> Lock:
        chosen = load(files=(), stages={"a.label": {"adapter": str(override)}} if override else {})
        return look(PluginHost(chosen, plugins={"a": Labels(own)}, installed=False), chosen, Weights())

    plain, replaced = here(), here(other)
    assert (plain.stages["a.label"].adapter, plain.settings) == (own_hash, {})
    assert replaced.stages["a.label"].adapter == other_hash
    assert replaced.settings == {"stages.a.label.adapter": other_hash}
    assert plain.stages["a.label"].fingerprint != replaced.stages["a.label"].fingerprint
    assert list(plain.checkpoints) == ["smollm2-135m"] and str(other) not in text_of(replaced)
    elsewhere = other.rename(tmp_path / "elsewhere")
    assert differences(replaced, here(elsewhere)) == []
    shutil.rmtree(elsewhere)
    adapter(elsewhere, b"\2")
    assert [d.what for d in differences(replaced, here(elsewhere))] == [
        "setting stages.a.label.adapter",
        "stage a.label, adapter",
    ]
