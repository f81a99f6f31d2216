"""How a plugin lies in its environment, read from what pip wrote down; nothing is imported."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from fslm_core.plugins import Installed, PluginHost
from fslm_core.plugins.installed import Recorded
from fslm_core.settings import load

from ..wheels import make_wheel, tiny_wheel, unpack


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    site = tmp_path / "site"
    site.mkdir()
    monkeypatch.syspath_prepend(site)
    return site


def installed(name: str) -> Installed:
    host = PluginHost(load(files=(), plugins=(name,)))
    (info,) = host.named(name)
    return host.installation(info)


def test_a_wheel_from_an_index(site: Path, tmp_path: Path) -> None:
    unpack(tiny_wheel(tmp_path, "1.0"), site)
    found = installed("tiny")
    assert (found.source, found.origin, found.root, found.place) == ("index", "", site, site / "fslm_tiny")
    assert found.metadata["Summary"] == "A tiny plugin"
    recorded = found.recorded()
    assert recorded is not None
    assert [r.name for r in recorded][-1] == "fslm_tiny-1.0.dist-info/RECORD"
    assert recorded[-1] == Recorded("fslm_tiny-1.0.dist-info/RECORD", "", "", None)
    assert recorded[0].algorithm == "sha256" and len(recorded[0].digest) == 64
    assert found.packages(recorded) == ["fslm_tiny"]
    assert found.files() == {"fslm_tiny/__init__.py": site / "fslm_tiny/__init__.py"}
    assert "fslm_tiny" not in sys.modules


@pytest.mark.parametrize(
    ("direct", "source"),
    [
        ({"url": "file:///w/fslm_tiny-1.0-py3-none-any.whl", "archive_info": {}}, "local"),
        ({"url": "file:///src/fslm-tiny", "dir_info": {}}, "local"),
        ({"url": "https://example.com/t.git", "vcs_info": {"vcs": "git", "commit_id": "0"}}, "url"),
        ({"url": "file:///src/fslm-tiny", "dir_info": {"editable": True}}, "editable"),
        ([], "index"),
    ],
)
def test_where_pip_got_it_from(site: Path, tmp_path: Path, direct: object, source: str) -> None:
    unpack(tiny_wheel(tmp_path, "1.0"), site)
    (site / "fslm_tiny-1.0.dist-info/direct_url.json").write_text(json.dumps(direct))
    assert installed("tiny").source == source


def test_without_a_record_the_entry_point_says_where_it_is(site: Path) -> None:
    (site / "fslm_old.py").write_text("raise SystemExit")
    info = site / "fslm_old-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: fslm-old\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[fslm]\nold = fslm_old\n")
    found = installed("old")
    assert (found.source, found.recorded(), found.place) == ("unknown", None, site / "fslm_old.py")
    assert list(found.files()) == ["fslm_old.py"]


def test_a_plugin_of_a_program_has_no_files() -> None:
    host = PluginHost(load(files=()), plugins={"mine": object()}, installed=False)
    found = host.installation(host.found()[0])
    assert (found.source, found.place, found.root, found.files(), found.sha256()) == ("program", None, None, {}, "")


def test_the_hash_is_of_what_decides_and_the_same_everywhere(site: Path, tmp_path: Path) -> None:
    code = {
        "fslm_deep/__init__.py": "",
        "fslm_deep/inner/__init__.py": "",
        "fslm_deep/inner/prompt.jinja": "{{ text }}",
    }
    wheel = make_wheel(tmp_path, "fslm-deep", "1.0", {**code, "helper.py": "x = 1\n"}, points={"deep": "fslm_deep"})
    unpack(wheel, site)
    found = installed("deep")
    assert sorted(found.files()) == sorted([*code, "helper.py"])
    before = found.sha256()
    (site / "fslm_deep/__pycache__").mkdir()
    (site / "fslm_deep/__pycache__/__init__.cpython-311.pyc").write_bytes(b"compiled")
    (site / "fslm_deep-1.0.dist-info/INSTALLER").write_text("pip\n")
    assert found.sha256() == before
    (site / "fslm_deep/inner/more.txt").write_text("beside")
    added = found.sha256()
    assert added != before
    (site / "fslm_deep/inner/more.txt").unlink()
    (site / "helper.py").write_text("x = 22\n")
    assert found.sha256() not in (before, added)
    (site / "helper.py").unlink()
    assert found.sha256() != before
    (site / "helper.py").write_text("x = 1\n")
    assert found.sha256() == before


def test_only_whole_packages_are_ours(site: Path, tmp_path: Path) -> None:
    files = {"acme/fslm_part/__init__.py": "", "acme/fslm_part/data.txt": "d"}
    unpack(make_wheel(tmp_path, "fslm-part", "1.0", files, points={"part": "acme.fslm_part"}), site)
    (site / "acme/other").mkdir()
    (site / "acme/other/__init__.py").write_text("")
    found = installed("part")
    recorded = found.recorded()
    assert recorded is not None
    assert found.packages(recorded) == ["acme/fslm_part"]
    assert sorted(found.files()) == sorted(files)
