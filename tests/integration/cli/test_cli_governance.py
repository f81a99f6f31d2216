"""``fslm plugins show`` and ``verify``, and the trace of hook calls, as people type them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ...wheels import LABELS, PROMPT, adapter_files, make_wheel, tiny_wheel, unpack
from .conftest import Result

Fslm = Callable[..., Result]


@pytest.fixture
def plugins(installed: Path, tmp_path: Path, environment: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Two plugins as pip leaves them: ``tiny``, a tool, and ``lab``, a stage with an adapter."""
    unpack(tiny_wheel(tmp_path / "w", "1.0"), installed)
    adapter = adapter_files("lab.label", input_schema="i", output_schema="o")
    files: dict[str, str | bytes] = {f"fslm_lab/adapter/{name}": data for name, data in adapter.items()}
    code = {"fslm_lab/__init__.py": LABELS.format(name="lab"), "fslm_lab/prompt.jinja": PROMPT}
    unpack(make_wheel(tmp_path / "w", "fslm-lab", "2.1", {**code, **files}, points={"lab": "fslm_lab"}), installed)
    monkeypatch.setenv("FSLM_PLUGINS", "demo,tiny,lab")
    yield installed
    for name in [name for name in sys.modules if name.startswith(("fslm_tiny", "fslm_lab"))]:
        del sys.modules[name]


def test_show_tells_what_there_is_and_leaves_out_what_there_is_not(fslm: Fslm, plugins: Path) -> None:
    said = fslm("plugins", "show", "lab").out
    for part in (
        "plugin lab: fslm-lab 2.1\n",
        "  needs     fslm-core >=0.1,<0.2\n",
        "lab.label",
        "smollm2-135m + adapter",
        "Text -> Label",
        "adapter of lab.label\n",
        "  in        fslm_lab/adapter\n",
        "  rank      2 on smollm2-135m, ",
        "  licences  rows: CC0-1.0\n",
        "  scores    exact 0.75\n",
        "  recipe    epochs 2, lora.rank 2\n",
    ):
        assert part in said, part
    assert "verbs" not in said and "backends" not in said and "licence  " not in said
    said = fslm("plugins", "show", "fslm_demo").out
    assert "  verbs     fslm greet, fslm run\n" in said
    assert "  backends  demo.rule, demo.stuck\n" in said
    assert "states no version of fslm-core" in said
    assert "smollm2-135m (untuned)" in said
    assert "adapter of" not in said


def test_show_as_json_is_what_the_program_gets(fslm: Fslm, plugins: Path) -> None:
    (page,) = fslm("plugins", "show", "lab", "--json").data
    assert (page["name"], page["version"], page["source"]) == ("lab", "2.1", "index")
    assert page["adapters"][0]["licences"] == {"rows": "CC0-1.0"}
    assert page["stacks"][0]["steps"] == ["label"]
    result = fslm("plugins", "show", "lob")
    assert result.code == 2 and "did you mean 'lab'" in result.err


def test_show_of_one_that_is_not_loaded_says_why(fslm: Fslm, plugins: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FSLM_PLUGINS", "demo")
    result = fslm("plugins", "show", "lab")
    assert result.code == 0
    assert "  state     disabled: not among the plugins the settings allow\n" in result.out
    assert "lab.label" not in result.out


def test_a_plugin_of_another_core_is_told_of_with_what_to_install(fslm: Fslm, plugins: Path, tmp_path: Path) -> None:
    metadata = plugins / "fslm_tiny-1.0.dist-info" / "METADATA"
    metadata.write_text(metadata.read_text().replace("fslm-core>=0.1,<0.2", "fslm-core>=0.4,<0.5"))
    cure = "python -m pip install 'fslm-core>=0.4,<0.5', or install a version of fslm-tiny made for fslm-core 0.1.0"
    why = f"fslm-tiny 1.0 needs fslm-core >=0.4,<0.5, and this is 0.1.0: {cure}"
    assert why in fslm("plugins").out
    assert f"quarantined: {why}" in fslm("plugins", "show", "tiny").out
    result = fslm("run", "tiny", "hi")
    assert result.code == 4 and f"next: {cure}" in result.err
    assert cure in [problem["next"] for problem in fslm("doctor", "--json").data["problems"]]
    assert "fslm_tiny" not in sys.modules
    enabled = fslm("plugins", "enable", "tiny")
    assert why in enabled.err and "stronger" not in enabled.err


def test_verify_says_that_all_is_as_shipped(fslm: Fslm, plugins: Path) -> None:
    result = fslm("plugins", "verify", "tiny")
    assert (result.code, result.err) == (0, "")
    assert "as shipped" in result.out
    (one,) = fslm("plugins", "verify", "fslm-tiny", "--json").data
    assert (one["ok"], one["files"], one["differences"]) == (True, 4, [])
    result = fslm("plugins", "verify", "demo")
    assert "no RECORD" in result.err and "nothing differs" in result.out


def test_verify_tells_each_difference_and_what_to_do(fslm: Fslm, plugins: Path) -> None:
    weights = plugins / "fslm_lab/adapter/adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\1")
    (plugins / "fslm_lab/spare.py").write_text("")
    result = fslm("plugins", "verify", "lab")
    assert result.code == 1
    for part in (
        "3 differ",
        "fslm_lab/adapter/adapter_model.safetensors: changed\n  expected sha256 ",
        "fslm_lab/spare.py: added\n",
        "not the weights of its fslm.json",
    ):
        assert part in result.out, part
    assert "next: python -m pip install --force-reinstall --no-deps fslm-lab==2.1" in result.err
    (one,) = fslm("plugins", "verify", "lab", "--json").data
    assert (one["ok"], len(one["differences"])) == (False, 3)
    assert fslm("plugins", "verify", "lob").code == 2


def test_an_adapter_trained_for_other_schemas_differs(fslm: Fslm, plugins: Path) -> None:
    result = fslm("plugins", "verify", "lab")
    assert result.code == 1
    assert "the output schema of lab.label is another than it was trained with" in result.out


def test_hook_calls_are_traced_where_they_are_asked_for(
    fslm: Fslm, plugins: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "hook " not in fslm("run", "tiny", "hi").err
    monkeypatch.setenv("FSLM_TRACE_HOOKS", "1")
    result = fslm("run", "tiny", "hi")
    assert result.data == {"heard": "1.0: hi"}
    assert "hook fslm_stages: tiny (fslm-tiny 1.0), " in result.err
    assert "ms, returned 1 Stage\n" in result.err
