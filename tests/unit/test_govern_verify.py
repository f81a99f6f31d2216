"""Installed files against RECORD, adapters against their fslm.json: what differs is found, with nothing imported."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import pytest
from pydantic import BaseModel, Field

from fslm_core.errors import UnknownNameError
from fslm_core.govern import Difference, Verification, verify
from fslm_core.plugins import PluginHost
from fslm_core.schema import schema_id_of
from fslm_core.settings import load

from ..wheels import LABELS, PROMPT, adapter_files, make_wheel, tiny_wheel, unpack


class Text(BaseModel):
    text: str = Field(max_length=100)


class Label(BaseModel):
    label: Literal["good", "bad"]


SCHEMAS = {"input_schema": schema_id_of(Text), "output_schema": schema_id_of(Label)}
WEIGHTS = "fslm_lab/adapter/adapter_model.safetensors"
RECORD = "fslm_lab/adapter/fslm.json"


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    site = tmp_path / "site"
    site.mkdir()
    monkeypatch.syspath_prepend(site)
    yield site
    for name in [name for name in sys.modules if name.startswith(("fslm_tiny", "fslm_lab"))]:
        del sys.modules[name]


def install_lab(site: Path, *, code: str = LABELS.format(name="lab"), **record: object) -> None:
    """Install ``fslm-lab``, a plugin with an adapter."""
    adapter = adapter_files("lab.label", **{**SCHEMAS, **record})  # type: ignore[arg-type]
    files: dict[str, str | bytes] = {f"fslm_lab/adapter/{name}": data for name, data in adapter.items()}
    files |= {"fslm_lab/__init__.py": code, "fslm_lab/prompt.jinja": PROMPT}
    unpack(make_wheel(site.parent / "w", "fslm-lab", "1.0", files, points={"lab": "fslm_lab"}), site)


def found(name: str) -> Verification:
    (one,) = verify(PluginHost(load(files=(), plugins=(name,))), [name])
    return one


def differences(name: str) -> list[tuple[str, str]]:
    return [(difference.file, difference.what) for difference in found(name).differences]


def test_what_pip_installed_is_as_it_was_shipped(site: Path, tmp_path: Path) -> None:
    unpack(tiny_wheel(tmp_path / "w", "1.0"), site)
    one = found("tiny")
    assert (one.ok, one.files, one.adapters, one.notes) == (True, 4, 0, ())
    assert (one.distribution, one.version, one.names, one.source) == ("fslm-tiny", "1.0", ("tiny",), "index")


def test_a_flipped_byte_is_found_with_its_hashes(site: Path, tmp_path: Path) -> None:
    unpack(tiny_wheel(tmp_path / "w", "1.0"), site)
    path = site / "fslm_tiny/__init__.py"
    data = bytearray(path.read_bytes())
    shipped = hashlib.sha256(data).hexdigest()
    data[7] ^= 1
    path.write_bytes(data)
    one = found("tiny")
    assert one.differences == (
        Difference(
            "fslm_tiny/__init__.py",
            "changed",
            f"sha256 {shipped}, {len(data)} bytes",
            f"sha256 {hashlib.sha256(data).hexdigest()}, {len(data)} bytes",
        ),
    )
    assert one.cure == "python -m pip install --force-reinstall --no-deps fslm-tiny==1.0"
    assert "fslm_tiny" not in sys.modules


def test_files_missing_and_added_are_found_and_compiled_ones_are_not(site: Path, tmp_path: Path) -> None:
    unpack(tiny_wheel(tmp_path / "w", "1.0"), site)
    (site / "fslm_tiny-1.0.dist-info/entry_points.txt").rename(site / "fslm_tiny-1.0.dist-info/points.txt")
    (site / "fslm_tiny-1.0.dist-info/points.txt").rename(site / "fslm_tiny-1.0.dist-info/entry_points.txt")
    (site / "fslm_tiny-1.0.dist-info/WHEEL").unlink()
    (site / "fslm_tiny/sub").mkdir()
    (site / "fslm_tiny/sub/extra.py").write_text("import os\n")
    (site / "fslm_tiny/__pycache__").mkdir()
    (site / "fslm_tiny/__pycache__/x.cpython-311.pyc").write_bytes(b"")
    assert differences("tiny") == [("fslm_tiny-1.0.dist-info/WHEEL", "missing"), ("fslm_tiny/sub/extra.py", "added")]
    (added,) = (d for d in found("tiny").differences if d.what == "added")
    assert (added.expected, added.found) == ("no such file", "a file of 10 bytes")


def test_a_file_that_is_a_folder_now_is_unreadable(site: Path, tmp_path: Path) -> None:
    unpack(tiny_wheel(tmp_path / "w", "1.0"), site)
    (site / "fslm_tiny-1.0.dist-info/WHEEL").unlink()
    (site / "fslm_tiny-1.0.dist-info/WHEEL").mkdir()
    assert differences("tiny") == [("fslm_tiny-1.0.dist-info/WHEEL", "unreadable")]


def test_a_hash_of_another_kind_is_noted(site: Path, tmp_path: Path) -> None:
    unpack(tiny_wheel(tmp_path / "w", "1.0"), site)
    record = site / "fslm_tiny-1.0.dist-info/RECORD"
    record.write_text(record.read_text().replace("WHEEL,sha256=", "WHEEL,blowfish="))
    one = found("tiny")
    assert (one.ok, one.files) == (True, 3)
    assert "blowfish" in one.notes[0]


def test_an_editable_install_says_that_its_files_are_not_hashed(site: Path) -> None:
    install_lab(site)
    direct = {"url": f"file://{site}", "dir_info": {"editable": True}}
    (site / "fslm_lab-1.0.dist-info/direct_url.json").write_text(json.dumps(direct))
    record = site / "fslm_lab-1.0.dist-info/RECORD"
    kept = [line for line in record.read_text().splitlines() if ".dist-info/" in line]
    record.write_text("\n".join(kept) + "\n")
    one = found("lab")
    assert (one.ok, one.source, one.adapters) == (True, "editable", 1)
    assert one.notes[0].startswith("editable: its files are not hashed")
    (site / WEIGHTS).write_bytes((site / WEIGHTS).read_bytes()[:-1] + b"\1")
    assert differences("lab") == [(WEIGHTS, "not the weights of its fslm.json")]
    assert "source tree" in found("lab").cure


def test_without_a_record_nothing_is_pretended(site: Path, tmp_path: Path) -> None:
    unpack(tiny_wheel(tmp_path / "w", "1.0"), site)
    (site / "fslm_tiny-1.0.dist-info/RECORD").unlink()
    one = found("tiny")
    assert (one.ok, one.files) == (True, 0)
    assert "no RECORD" in one.notes[0]


# -- adapters ----------------------------------------------------------------------------------------------------------


def test_an_adapter_agrees_with_its_record_and_its_stage(site: Path) -> None:
    install_lab(site)
    one = found("lab")
    assert (one.ok, one.adapters, one.notes) == (True, 1, ())


def test_changed_weights_differ_from_the_record_of_pip_and_of_the_training(site: Path) -> None:
    install_lab(site)
    (site / WEIGHTS).write_bytes((site / WEIGHTS).read_bytes()[:-1] + b"\1")
    one = found("lab")
    assert [(d.file, d.what) for d in one.differences] == [
        (WEIGHTS, "changed"),
        (WEIGHTS, "not the weights of its fslm.json"),
    ]
    assert any("nothing is imported while files differ" in note for note in one.notes)
    assert "fslm_lab" not in sys.modules


@pytest.mark.parametrize(
    ("key", "what"),
    [
        ("base", "the base of lab.label is another than it was trained with"),
        ("template", "the template of lab.label is another than it was trained with"),
        ("input_schema", "the input schema of lab.label is another than it was trained with"),
        ("output_schema", "the output schema of lab.label is another than it was trained with"),
    ],
)
def test_what_an_adapter_was_trained_with_is_compared_with_its_stage(site: Path, key: str, what: str) -> None:
    install_lab(site, **{key: "another"})
    (difference,) = found("lab").differences
    assert (difference.file, difference.what, difference.expected) == (RECORD, what, "another")


def test_a_record_from_before_the_weights_were_hashed_is_noted(site: Path) -> None:
    install_lab(site, sha256=None)
    one = found("lab")
    assert one.ok
    assert one.notes == (f"{RECORD} holds no hash of the weights: it was written before that was kept",)


def test_an_adapter_without_a_record_is_noted(site: Path) -> None:
    install_lab(site)
    pip = site / "fslm_lab-1.0.dist-info/RECORD"
    pip.write_text("\n".join(line for line in pip.read_text().splitlines() if "fslm.json" not in line) + "\n")
    (site / RECORD).unlink()
    one = found("lab")
    assert one.ok
    assert "has no fslm.json" in one.notes[0]


def test_an_adapter_cut_short_is_a_difference(site: Path) -> None:
    install_lab(site)
    pip = site / "fslm_lab-1.0.dist-info/RECORD"
    pip.write_text("\n".join(line for line in pip.read_text().splitlines() if "safetensors" not in line) + "\n")
    (site / WEIGHTS).write_bytes((site / WEIGHTS).read_bytes()[:-1])
    what = [what for _, what in differences("lab")]
    assert what[0] == "added"  # pip knows nothing of it now
    assert "cut short" in what[1]


@pytest.mark.parametrize("settings", [{"disable": ("lab",)}, {"plugins": ()}])
def test_a_plugin_that_is_not_loaded_is_verified_without_being_imported(
    site: Path, settings: dict[str, tuple[str, ...]]
) -> None:
    install_lab(site)
    (one,) = verify(PluginHost(load(files=(), **settings)), ["lab"])
    assert (one.ok, one.adapters) == (True, 1)
    assert one.notes == ("its stages were not compared with their adapters, for it is not loaded",)
    assert "fslm_lab" not in sys.modules


def test_a_plugin_that_cannot_be_imported_is_verified_all_the_same(site: Path) -> None:
    install_lab(site, code="raise RuntimeError('no luck')\n")
    one = found("lab")
    assert (one.ok, one.adapters) == (True, 1)
    assert one.notes == ("its stages were not compared with their adapters, for it is not loaded",)


def test_several_plugins_and_names_that_are_not_there(site: Path, tmp_path: Path) -> None:
    unpack(tiny_wheel(tmp_path / "w", "1.0"), site)
    install_lab(site)
    host = PluginHost(load(files=(), plugins=("tiny", "lab")))
    assert [one.distribution for one in verify(host, ["tiny", "fslm_lab", "lab"])] == ["fslm-tiny", "fslm-lab"]
    assert {"fslm-tiny", "fslm-lab"} <= {one.distribution for one in verify(host)}
    with pytest.raises(UnknownNameError, match="tinny"):
        verify(host, ["tinny"])


def test_a_plugin_of_a_program_has_nothing_to_compare() -> None:
    (one,) = verify(PluginHost(load(files=()), plugins={"mine": object()}, installed=False))
    assert one.ok and "handed over by a program" in one.notes[0]
