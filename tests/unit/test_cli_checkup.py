"""What `fslm doctor` makes of what it finds, on machines that are not this one."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pytest

from fslm_core.cli import checkup
from fslm_core.cli.checkup import Finding


def findings(section: Iterable[object]) -> list[Finding]:
    return [item for item in section if isinstance(item, Finding)]


def with_versions(monkeypatch: pytest.MonkeyPatch, **changed: str | None) -> list[Finding]:
    """What is found where every requirement has a version in its range, but for ``changed``."""
    everything = [r for requirements in checkup.requirements_by_extra().values() for r in requirements]
    lowest = {r.name: next(s.version for s in r.specifier if s.operator == ">=") for r in everything}
    known: dict[str, str | None] = {**lowest, "fslm-core": "0.1.0", **changed}
    monkeypatch.setattr(checkup, "_version", known.get)
    return findings(checkup.versions())


def test_all_is_well_where_versions_are_in_their_ranges(monkeypatch: pytest.MonkeyPatch) -> None:
    assert with_versions(monkeypatch) == []


@pytest.mark.parametrize("version", ["2.14.0+cpu", "2.14.0+cu130", "2.99"])
def test_a_build_of_torch_is_in_the_range_whatever_it_is_for(monkeypatch: pytest.MonkeyPatch, version: str) -> None:
    assert with_versions(monkeypatch, torch=version) == []


def test_a_version_outside_the_range_says_how_to_get_one_inside(monkeypatch: pytest.MonkeyPatch) -> None:
    (found,) = with_versions(monkeypatch, torch="1.13.1+cpu")
    assert found.serious and found.what.startswith("torch 1.13.1+cpu is not in the tested range ")
    assert found.next.startswith("python -m pip install 'torch<3,>=")


def test_what_an_extra_lacks_is_serious_only_where_it_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    prefer, torch, train = with_versions(monkeypatch, peft=None, llguidance=None)
    assert torch.serious and not train.serious and not prefer.serious
    assert torch.next == "python -m pip install 'fslm-core[torch]'"
    assert "llguidance, peft" in torch.what and "run stages" in torch.what
    prefer, train = with_versions(monkeypatch, accelerate=None)
    assert not prefer.serious and not train.serious and train.next == "python -m pip install 'fslm-core[train]'"


def test_a_copy_that_was_never_installed_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkup, "_version", lambda name: None)
    (found,) = findings(checkup.versions())
    assert "not installed" in found.what


def test_a_python_or_a_system_without_a_classifier_is_not_tested(monkeypatch: pytest.MonkeyPatch) -> None:
    assert findings(checkup.machine()) == []
    monkeypatch.setattr(checkup.platform, "python_version_tuple", lambda: ("3", "99", "0"))
    monkeypatch.setattr(checkup.platform, "system", lambda: "Windows")
    python, system = findings(checkup.machine())
    assert "3.99" in python.what and "3.11" in python.next and "Windows" in system.what
    assert not python.serious and not system.serious


@pytest.mark.parametrize(
    ("found", "words"),
    [
        ({}, []),
        ({"build": "cpu", "device": "cpu"}, []),
        ({"build": "cuda 13.0", "device": "cpu, cuda:0 some GPU"}, []),
        ({"build": "cuda 13.0", "device": "cpu"}, ["cuda 13.0", "gigabytes"]),
    ],
)
def test_a_build_for_a_device_that_is_not_here_is_told(
    monkeypatch: pytest.MonkeyPatch, found: dict[str, str], words: list[str]
) -> None:
    monkeypatch.setattr(checkup, "describe", lambda: found)
    told = findings(checkup.torch())
    assert len(told) == bool(words) and all(word in told[0].what for word in words)


def test_a_torch_that_does_not_import_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> dict[str, str]:
        raise OSError("libcudart.so.13: cannot open shared object file")

    monkeypatch.setattr(checkup, "describe", broken)
    (found,) = findings(checkup.torch())
    assert found.serious and "libcudart" in found.what and "--force-reinstall 'torch<3,>=" in found.next


def test_what_can_be_written_is_told_without_writing(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    assert checkup.writable(file) and checkup.writable(tmp_path / "a" / "b" / "trace.db")
    assert not checkup.writable(file / "below")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
