"""The core a plugin needs: read from its metadata, and compared before anything of it is imported."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

import fslm_core
from fslm_core.errors import PluginLoadError
from fslm_core.plugins import PluginHost
from fslm_core.plugins.core import CoreNeed, core_need
from fslm_core.settings import load

from ..wheels import make_wheel, tiny_wheel, unpack


@pytest.mark.parametrize(
    ("requires", "versions"),
    [
        ([], None),
        (["pydantic>=2", "fslm-core-extras>=9", "not a requirement!", "fslm-core-x >=9 <3"], None),
        (["fslm-core"], ""),
        (["Fslm_Core <0.2, >=0.1"], ">=0.1,<0.2"),
        (["fslm-core[torch,train]~=0.1.3,!=0.1.5"], "~=0.1.3,!=0.1.5"),
        (["fslm-core>=0.1", "fslm.core<0.3"], ">=0.1,<0.3"),
        (["fslm-core>=9; extra == 'train'", "fslm-core>=0.1"], ">=0.1"),
        (["fslm-core>=9; python_version < '3'"], None),
        (["fslm-core>=0.1; python_version >= '3'"], ">=0.1"),
        (["fslm-core @ https://example.com/fslm_core-0.1.0-py3-none-any.whl"], ""),
    ],
)
def test_what_is_asked_for_is_read_with_its_extras_and_markers(requires: list[str], versions: str | None) -> None:
    assert core_need(requires) == CoreNeed(versions)


@pytest.mark.parametrize(
    ("need", "fits"),
    [
        (None, True),
        ("", True),
        (">=0.1,<0.2", True),
        ("==0.1.*", True),
        (">=0.1.1", False),
        ("<0.1", False),
        (">=0.4,<0.5", False),
    ],
)
def test_a_core_fits_or_the_text_says_what_to_install(need: str | None, fits: bool) -> None:
    why, cure = CoreNeed(need).refusal("fslm-shop 2.0", "fslm-shop", "0.1.0")
    assert (not why, not cure) == (fits, fits)
    if not fits:
        assert why == f"fslm-shop 2.0 needs fslm-core {need}, and this is 0.1.0"
        assert cure.startswith(f"python -m pip install 'fslm-core{need}', or install a version of fslm-shop made for")


def test_a_core_under_development_is_judged_by_its_number() -> None:
    assert CoreNeed(">=0.1,<0.3").refusal("p", "p", "0.2.0.dev3") == ("", "")
    assert CoreNeed(">=0.1,<0.2").refusal("p", "p", "0.2.0.dev3")[0]


def test_what_cannot_be_read_is_refused_and_quoted() -> None:
    need = core_need(["fslm-core>=0.1 <0.2"])
    why, cure = need.refusal("fslm-shop 2.0", "fslm-shop", "0.1.0")
    assert "'fslm-core>=0.1 <0.2'" in why
    assert "fslm-shop" in cure


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def host(*names: str) -> PluginHost:
    return PluginHost(load(files=(), plugins=names))


def test_a_plugin_of_another_core_is_quarantined_before_it_is_imported(site: Path) -> None:
    mark = site / "imported"
    code = f"open({str(mark)!r}, 'w').close()\n"
    files = {"fslm_core_late/__init__.py": code}
    need = ["fslm-core[torch]>=0.4,<0.5"]
    unpack(make_wheel(site / "w", "fslm-late", "2.0", files, points={"late": "fslm_core_late"}, requires=need), site)
    unpack(tiny_wheel(site / "w", "1.0", name="punctual"), site)
    found = host("late", "punctual")
    early = {info.name: info.state for info in found.found() if info.name in ("late", "punctual")}
    assert early == {"late": "quarantined", "punctual": "loaded"}
    (late, punctual) = (next(i for i in found.plugins if i.name == name) for name in ("late", "punctual"))
    assert (late.state, late.core) == ("quarantined", ">=0.4,<0.5")
    assert late.reason == (
        "fslm-late 2.0 needs fslm-core >=0.4,<0.5, and this is 0.1.0: python -m pip install 'fslm-core>=0.4,<0.5',"
        " or install a version of fslm-late made for fslm-core 0.1.0"
    )
    assert (punctual.state, punctual.core) == ("loaded", ">=0.1,<0.2")
    assert not mark.exists() and "fslm_core_late" not in sys.modules
    assert "punctual" in found.stacks
    with pytest.raises(PluginLoadError) as caught:
        found.stack("late.stack")
    assert caught.value.hint == late.cure
    assert "pip install 'fslm-core>=0.4,<0.5'" in str(caught.value)


def test_another_core_takes_what_this_one_refuses(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    unpack(tiny_wheel(site / "w", "2.0", name="eager", requires=["fslm-core>=0.4,<0.5"]), site)
    monkeypatch.setattr(fslm_core, "__version__", "0.4.2")
    (info,) = (info for info in host("eager").plugins if info.name == "eager")
    assert info.state == "loaded"


def test_a_plugin_that_states_nothing_is_loaded_and_so_noted(site: Path) -> None:
    unpack(tiny_wheel(site / "w", "1.0", name="silent", requires=["pydantic>=2"]), site)
    (info,) = (info for info in host("silent").plugins if info.name == "silent")
    assert (info.state, info.core) == ("loaded", None)


def test_a_disabled_plugin_of_another_core_is_disabled(site: Path) -> None:
    unpack(tiny_wheel(site / "w", "1.0", name="late", requires=["fslm-core>=9"]), site)
    (info,) = (info for info in host("other").found() if info.name == "late")
    assert info.state == "disabled"
