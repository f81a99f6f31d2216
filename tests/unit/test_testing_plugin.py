"""The pytest plugin: clean settings, chosen plugins, recordings; and what is said where something is missing."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from fslm_core import settings as settings_room
from fslm_core.errors import MissingExtraError
from fslm_core.testing import extra

from .testing_demo import CONFTEST, install

pytest_plugins = ["pytester"]


@pytest.fixture
def demo(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.Pytester]:
    site = pytester.path / "site"
    install(site, {"tests/test_contracts.py": None})
    monkeypatch.syspath_prepend(str(site))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # a file changed within a second looks the same to it
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    yield pytester
    for name in [name for name in sys.modules if name.partition(".")[0] == "fslm_demo"]:
        del sys.modules[name]


def run(demo: pytest.Pytester, test: str, *options: str) -> pytest.RunResult:
    (demo.path / "tests/test_it.py").write_text(test, encoding="utf-8")
    return demo.runpytest_inprocess("-p", "no:cacheprovider", *options)


def test_settings_are_clean_and_the_cache_is_shared(
    demo: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (demo.path / "fslm.toml").write_text('backend = "openai"\n', encoding="utf-8")
    monkeypatch.setenv("FSLM_PROFILE", "gpu")
    monkeypatch.setenv("FSLM_CACHE_DIR", str(tmp_path / "models"))
    test = """
import os
from pathlib import Path
from fslm_core import Engine
from fslm_core.settings import default, load

def test_it(fslm_settings, tmp_path):
    for found in (fslm_settings, load(), default(), Engine().settings):
        assert (found.backend, found.profile) == ("torch", None)
        assert found.data_dir.is_relative_to(tmp_path)
        assert found.cache_dir == Path(CACHE)
    assert [name for name in os.environ if name.startswith("FSLM_")] == ["FSLM_CONFIG"]
""".replace("CACHE", repr(str(tmp_path / "models")))
    run(demo, test).assert_outcomes(passed=1)
    assert settings_room.load().profile == "gpu"


def test_a_host_has_what_is_named_and_nothing_else(demo: pytest.Pytester) -> None:
    test = """
import fslm_demo, pytest, types
from fslm_core import hookimpl
from fslm_core.errors import UnknownNameError, UsageError

class Mine:
    @hookimpl
    def fslm_stages(self): return []

def names(host):
    return {(info.name, info.distribution, info.state) for info in host.plugins}

def test_it(fslm_host):
    whole = {("demo", "fslm-demo", "loaded")}
    assert names(fslm_host()) == set()
    for one in (fslm_demo, "fslm-demo", "demo"):
        host = fslm_host(one)
        assert {i for i in names(host) if i[2] == "loaded"} == whole
        assert host.stages["demo.opinion"] is fslm_demo.opinion
    assert {i for i in names(fslm_host(mine=Mine())) if i[2] == "loaded"} == {("mine", "mine", "loaded")}
    both = fslm_host("demo", mine=Mine())
    assert {i[0] for i in names(both) if i[2] == "loaded"} == {"demo", "mine"}
    module = types.ModuleType("some.shop")
    module.fslm_stages = hookimpl(lambda: [])
    assert ("shop", "shop", "loaded") in names(fslm_host(module))
    with pytest.raises(UnknownNameError, match="no plugin named 'demmo'") as caught:
        fslm_host("demmo")
    assert "did you mean 'demo'" in caught.value.hint
    with pytest.raises(UsageError, match="needs a name"):
        fslm_host(Mine())
"""
    run(demo, test).assert_outcomes(passed=1)


def test_an_engine_and_a_script_for_a_test(demo: pytest.Pytester) -> None:
    test = """
from fslm_core import Engine
from fslm_demo import demo, opinion

BAD = {"sentiment": "bad", "stars": 1}

def test_engine(fslm_engine):
    engine = fslm_engine(demo, replies={"opinion": BAD})
    assert engine.outcome(demo, {"text": "x"}).output.reply == "We are sorry."
    assert engine.run(demo, {"text": "x"}).output.reply == "We are sorry."
    other = fslm_engine(opinion, replies=BAD)
    assert other.outcome(opinion, {"text": "x"}).output.stars == 1

def test_script(scripted, fslm_settings, fslm_host):
    with Engine(settings=fslm_settings, host=fslm_host("demo"), backend=scripted({"opinion": BAD}, demo)) as engine:
        assert engine.run("demo", {"text": "x"}).output.sentiment == "bad"
"""
    run(demo, test).assert_outcomes(passed=2)


def test_recordings_are_replayed_and_made_anew_when_asked(demo: pytest.Pytester) -> None:
    test = """
import pytest
from fslm_core.testing import run_stack, script
from fslm_demo import demo

@pytest.mark.parametrize("text", ["a", "b"])
def test_it(fslm_recorded, text):
    real = script({"demo.opinion": {"sentiment": "bad", "stars": 1}})
    assert run_stack(demo, {"text": text}, backend=fslm_recorded("demo.jsonl", backend=real)).output.sentiment == "bad"
"""
    first = run(demo, test)
    first.assert_outcomes(failed=2)
    assert "record it where the weights are: `python -m pytest tests/test_it.py --fslm-update`" in first.stdout.str()
    made = run(demo, test, "--fslm-update")
    made.assert_outcomes(passed=2)
    assert "demo.jsonl: recorded" in made.stdout.str()
    assert len((demo.path / "tests/recorded/demo.jsonl").read_text("utf-8").splitlines()) == 2
    run(demo, test).assert_outcomes(passed=2)
    other = run(demo, test.replace('["a", "b"]', '["a", "c"]'))
    other.assert_outcomes(passed=1, failed=1)
    assert "this input was not recorded" in other.stdout.str()


def test_the_marker_is_registered_and_chooses(demo: pytest.Pytester) -> None:
    test = "import pytest\n@pytest.mark.fslm_weights\ndef test_weights(): pass\ndef test_none(): pass\n"
    (demo.path / "pytest.toml").write_text("[pytest]\nstrict = true\n", encoding="utf-8")
    run(demo, test, "-m", "not fslm_weights").assert_outcomes(passed=1, deselected=1)


def test_a_test_of_weights_without_torch_says_what_to_install(
    demo: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fslm_core.backends.torch import extra as torch_extra

    monkeypatch.setattr("fslm_core.extras.find_spec", lambda name: None)
    torch_extra.require.cache_clear()
    test = "import pytest\n@pytest.mark.fslm_weights\ndef test_weights(): pass\n"
    result = run(demo, test)
    torch_extra.require.cache_clear()
    result.assert_outcomes(errors=1)
    assert "python -m pip install 'fslm-core[torch]'" in result.stdout.str()


def test_without_the_extra_the_kit_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fslm_core.extras.find_spec", lambda name: None if name == "yaml" else object())
    with pytest.raises(MissingExtraError, match="without yaml") as caught:
        extra.require()
    assert caught.value.hint == "run `python -m pip install 'fslm-core[testing]'` with this Python"


def test_importing_the_kit_without_the_extra_raises_and_with_it_loads_no_torch() -> None:
    hide = "import sys; sys.modules['hypothesis'] = None; import fslm_core.testing"
    done = subprocess.run([sys.executable, "-c", hide], capture_output=True, text=True)
    assert "MissingExtraError" in done.stderr and "fslm-core[testing]" in done.stderr
    look = "import sys, fslm_core.testing.plugin; print({'torch', 'transformers', 'peft'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", look], capture_output=True, text=True).stdout == "set()\n"


def test_the_plugin_is_asked_for_and_not_loaded_by_itself(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("def test_it(fslm_settings): pass")
    pytester.runpytest_inprocess("-p", "no:cacheprovider").assert_outcomes(errors=1)
    pytester.makeconftest(CONFTEST)
    pytester.runpytest_inprocess("-p", "no:cacheprovider").assert_outcomes(passed=1)
