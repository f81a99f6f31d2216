"""``fslm plugins``, the verbs of plugins, ``models`` and ``doctor``."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from .conftest import Result, install

Fslm = Callable[..., Result]

TOML = """\
# who wrote this
offline = true  # no network here

[trace]
content = "none"  # nothing is kept
"""


@pytest.fixture
def config(environment: Path, installed: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's settings file; a second plugin shows itself if it is imported."""
    monkeypatch.delenv("FSLM_PLUGINS")
    install(installed, "loud", "raise SystemExit('imported')", distribution="acme-loud")
    return environment / "fslm.toml"


def states(fslm: Fslm) -> dict[str, str]:
    return {info["name"]: info["state"] for info in fslm("plugins", "--json").data if info["name"] in ("demo", "loud")}


def test_disable_and_enable_keep_the_file_as_it_was(fslm: Fslm, config: Path) -> None:
    config.write_text(TOML)
    assert states(fslm) == {"demo": "loaded", "loud": "quarantined"}
    result = fslm("plugins", "disable", "loud")
    assert (result.code, result.out) == (0, "")
    assert "is disabled" in result.err
    assert config.read_text() == TOML.replace("\n\n[trace]", '\ndisable = ["loud"]\n\n[trace]')
    assert states(fslm) == {"demo": "loaded", "loud": "disabled"}
    fslm("plugins", "disable", "loud")
    assert config.read_text().count("loud") == 1
    assert fslm("plugins", "enable", "acme_loud").code == 0
    assert config.read_text() == TOML.replace("\n\n[trace]", "\ndisable = []\n\n[trace]")


def test_disable_makes_the_file_where_there_is_none(fslm: Fslm, config: Path) -> None:
    assert fslm("plugins", "disable", "acme-loud").code == 0
    assert config.read_text() == 'disable = ["acme-loud"]\n'
    assert states(fslm)["loud"] == "disabled"


def test_enable_joins_an_allow_list(fslm: Fslm, config: Path) -> None:
    config.write_text('plugins = ["loud"]  # few\n')
    assert states(fslm)["demo"] == "disabled"
    fslm("plugins", "enable", "demo")
    assert config.read_text() == 'plugins = ["loud", "demo"]  # few\n'


def test_enable_and_disable_import_no_plugin(config: Path, installed: Path, fslm: Fslm) -> None:
    install(installed, "spy", "import pathlib; pathlib.Path('imported').touch()")
    for verb in ("disable", "enable"):
        assert fslm("plugins", verb, "spy").code == 0
    assert not Path("imported").exists()
    fslm("list")
    assert Path("imported").exists()


def test_a_stronger_source_is_named(fslm: Fslm, config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FSLM_DISABLE", "loud")
    assert "still disabled" in fslm("plugins", "enable", "loud").err


def test_mistakes_leave_the_file_alone(fslm: Fslm, config: Path) -> None:
    assert "did you mean 'loud'" in fslm("plugins", "disable", "lout").err
    assert config.read_text() == ""
    config.write_text('disable = "loud"\n')
    result = fslm("plugins", "disable", "demo")
    assert result.code == 2 and "is not a list" in result.err
    config.write_text("disable = [\n")
    assert fslm("plugins", "disable", "demo").code == 2
    assert config.read_text() == "disable = [\n"


def test_a_plugins_verb_is_a_verb(fslm: Fslm) -> None:
    result = fslm("greet", "Ada", "--loud")
    assert (result.code, result.out) == (0, "hello ADA\n")
    assert "--loud" in fslm("greet", "--help").out
    assert "verb: fslm greet" in fslm("plugins").out


def test_no_plugin_stands_in_for_a_verb_of_fslm(fslm: Fslm) -> None:
    assert fslm("run", "demo", "hi").data == {"shout": "HI"}
    assert "'run' is left out" in fslm("plugins").err


def test_models_are_listed_and_missing_ones_say_how_to_get_them(
    fslm: Fslm, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (model,) = [m for m in fslm("models", "list", "--json").data if m["name"] == "smollm2-135m"]
    assert (model["state"], model["licence"], model["languages"]) == ("absent", "Apache-2.0", ["en"])
    assert "Apache-2.0" in fslm("models", "list").out
    result = fslm("models", "path", "smollm2-135m")
    assert result.code == 4 and "fslm models pull smollm2-135m" in result.err
    assert fslm("models", "verify").code == 0
    assert fslm("models", "verify", "smollm2").code == 2
    monkeypatch.setenv("FSLM_OFFLINE", "1")
    result = fslm("models", "pull", "smollm2-135m")
    assert (result.code, result.out) == (4, "") and "--from DIR" in result.err
    assert fslm("models", "pull", "smollm2-135m", "--from", str(tmp_path)).code == 4


def test_doctor_tells_of_the_machine_and_what_is_missing(
    fslm: Fslm, installed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(installed, "sick", "raise RuntimeError('no luck')")
    monkeypatch.setenv("FSLM_PLUGINS", "demo,sick")
    data = fslm("doctor", "--json").data
    assert data["machine"]["cores"] and data["versions"]["pydantic"]
    assert data["settings"]["backend"] == "demo.rule"
    assert data["models"]["smollm2-135m"].startswith("absent")
    (sick,) = [p for p in data["problems"] if "no luck" in p["what"]]
    assert sick["next"].endswith("fslm plugins disable sick`")
    shown = fslm("doctor").out
    assert "instruction sets" in shown and f"next: {sick['next']}" in shown


def test_doctor_says_what_to_do_offline_without_the_model(fslm: Fslm, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FSLM_OFFLINE", "1")
    data = fslm("doctor", "--json").data
    assert data["settings"]["offline"].startswith("yes")
    assert "fslm models pull smollm2-135m --from DIR" in [p["next"] for p in data["problems"]]


def test_doctor_says_what_cannot_be_written(fslm: Fslm, environment: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (environment / "taken").touch()
    for name in ("FSLM_CACHE_DIR", "FSLM_DATA_DIR"):
        monkeypatch.setenv(name, str(environment / "taken" / "below"))
    for goes_on in (False, True):
        monkeypatch.setenv("FSLM_TRACE__ON_FAILURE", "continue" if goes_on else "fail")
        data = fslm("doctor", "--json").data
        assert "cannot be written" in data["settings"]["trace"] and "read-only" in data["settings"]["cache"]
        problems, notes = ([f["what"] for f in data[kind]] for kind in ("problems", "notes"))
        assert any("smollm2-135m is not here, and the cache cannot be written" in what for what in problems)
        assert any("every run fails" in what for what in problems) is not goes_on
        assert any("leave no record" in what for what in notes) is goes_on


def test_doctor_survives_broken_settings(fslm: Fslm, environment: Path) -> None:
    (environment / "fslm.toml").write_text("offline = 'perhaps'\n")
    result = fslm("doctor")
    assert result.code == 0 and result.out.count("'offline'") == 1
    assert fslm("list").code == 2


def test_doctor_names_plugins_in_the_settings_that_are_not_there(fslm: Fslm, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FSLM_DISABLE", "nobody,Fslm_Echo")
    (note,) = [note for note in fslm("doctor", "--json").data["notes"] if "the setting" in note["what"]]
    assert "disable names nobody" in note["what"] and "fslm plugins" in note["next"]


def test_a_recipe_that_is_not_there_is_told(fslm: Fslm) -> None:
    result = fslm("train", "nothing.toml")
    assert result.code == 2 and "nothing.toml" in result.err


def test_version_and_module(environment: Path) -> None:
    done = subprocess.run([sys.executable, "-m", "fslm_core", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("fslm ") and done.stderr == ""


def test_every_verb_of_the_table_is_there_and_says_what_the_table_says() -> None:
    from fslm_core.cli.root import VERBS, whole

    group = whole()
    assert set(group.commands) == set(VERBS)
    for name, command in group.commands.items():
        assert command.name == name
        assert (command.help or "").split("\n\n")[0].replace("\n", " ") == VERBS[name].line
