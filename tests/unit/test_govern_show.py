"""All there is to say of one plugin, loaded or not."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from fslm_core import Checkpoint, Folder
from fslm_core.errors import UnknownNameError
from fslm_core.govern import PluginPage, describe
from fslm_core.hooks import hookimpl
from fslm_core.plugins import PluginHost
from fslm_core.settings import load

from ..wheels import LABELS, PROMPT, adapter_files, make_wheel, tiny_wheel, unpack


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    site = tmp_path / "site"
    site.mkdir()
    monkeypatch.syspath_prepend(site)
    yield site
    for name in [name for name in sys.modules if name.startswith(("fslm_tiny", "fslm_sho"))]:
        del sys.modules[name]


def page(name: str, **settings: Any) -> PluginPage:
    (found,) = describe(PluginHost(load(files=(), **{"plugins": (name,), **settings})), name)
    return found


def install_show(site: Path) -> bytes:
    adapter = adapter_files("sho.label", input_schema="i", output_schema="o")
    files: dict[str, str | bytes] = {f"fslm_sho/adapter/{name}": data for name, data in adapter.items()}
    code = {"fslm_sho/__init__.py": LABELS.format(name="sho"), "fslm_sho/prompt.jinja": PROMPT}
    wheel = make_wheel(site.parent, "fslm-sho", "1.0", {**code, **files}, points={"sho": "fslm_sho"})
    unpack(wheel, site)
    return adapter["adapter_model.safetensors"]


def test_a_plugin_of_a_tool(site: Path, tmp_path: Path) -> None:
    unpack(tiny_wheel(tmp_path / "w", "1.0"), site)
    found = page("fslm_tiny")
    assert (found.name, found.distribution, found.version, found.state) == ("tiny", "fslm-tiny", "1.0", "loaded")
    assert (found.summary, found.licence, found.core) == ("A tiny plugin", "MIT", ">=0.1,<0.2")
    assert (found.source, found.origin, found.place) == ("index", "", str(site / "fslm_tiny"))
    assert (found.files, found.size) == (1, (site / "fslm_tiny/__init__.py").stat().st_size)
    assert found.hooks == ("fslm_stages", "fslm_stacks")
    (stage,) = found.stages
    assert (stage.name, stage.input, stage.output, stage.tool) == ("tiny.hear", "Said", "Heard", "1.0")
    assert (stage.base, stage.tuned, stage.description) == (None, True, "Say which version heard it.")
    (stack,) = found.stacks
    assert (stack.name, stack.steps, stack.description) == ("tiny", ("hear",), "Hears.")
    assert (found.adapters, found.checkpoints, found.backends, found.verbs) == ((), (), (), ())


def test_a_plugin_with_an_adapter_tells_what_it_was_trained_with(site: Path) -> None:
    weights = install_show(site)
    found = page("sho")
    (adapter,) = found.adapters
    assert (adapter.stage, adapter.variant, adapter.place) == ("sho.label", None, "fslm_sho/adapter")
    assert (adapter.rank, adapter.size, adapter.base) == (2, len(weights), "smollm2-135m")
    assert adapter.sha256 == hashlib.sha256(weights).hexdigest()
    assert (adapter.languages, adapter.licences) == (("en",), {"rows": "CC0-1.0"})
    assert (adapter.data_sha256, adapter.scores) == ("d" * 64, {"exact": 0.75})
    assert adapter.recipe == {"epochs": 2, "lora": {"rank": 2}}
    assert (found.stages[0].base, found.stages[0].tuned, found.stages[0].tool) == ("smollm2-135m", True, None)
    assert found.files == 5


def test_an_adapter_that_is_not_whole_is_shown_as_such(site: Path) -> None:
    install_show(site)
    (site / "fslm_sho/adapter/adapter_config.json").write_text("{}")
    (adapter,) = page("sho").adapters
    assert adapter.problem == "the adapter is not a LoRA"
    assert (adapter.sha256, adapter.scores) == ("", {})


def test_what_the_settings_replace_is_told(site: Path) -> None:
    install_show(site)
    stage = page("sho", stages={"sho.label": {"adapter": "/srv/v2"}}).stages[0]
    assert stage.replaced == "/srv/v2"


def test_one_that_is_disabled_is_told_by_its_metadata_alone(site: Path, tmp_path: Path) -> None:
    unpack(tiny_wheel(tmp_path / "w", "1.0"), site)
    found = page("tiny", disable=("tiny",))
    assert (found.state, found.reason, found.summary) == ("disabled", "disabled by the settings", "A tiny plugin")
    assert (found.stages, found.hooks, found.files) == ((), (), 1)
    assert "fslm_tiny" not in sys.modules


def test_one_of_another_core_is_told_with_what_to_install(site: Path, tmp_path: Path) -> None:
    unpack(tiny_wheel(tmp_path / "w", "2.0", requires=["fslm-core>=0.4,<0.5"]), site)
    found = page("tiny")
    assert (found.state, found.core) == ("quarantined", ">=0.4,<0.5")
    assert "python -m pip install 'fslm-core>=0.4,<0.5'" in found.reason


class Everything:
    """A plugin, as a program hands it over, that offers what the others do not."""

    @hookimpl
    def fslm_checkpoints(self) -> list[Checkpoint]:
        return [Checkpoint("all.base", Folder(Path("/srv/base")), licence="MIT", languages=("en", "fr"))]

    @hookimpl
    def fslm_backends(self) -> dict[str, Any]:
        return {"all.play": lambda settings: None}

    @hookimpl
    def fslm_commands(self) -> dict[str, Any]:
        return {"sweep": print}


def test_a_plugin_of_a_program_and_all_else_that_can_be_offered() -> None:
    host = PluginHost(load(files=()), plugins={"all": Everything()}, installed=False)
    (found,) = describe(host, "all")
    assert (found.source, found.place, found.core) == ("program", "", None)
    assert (found.backends, found.verbs) == (("all.play",), ("sweep",))
    assert found.hooks == ("fslm_checkpoints", "fslm_backends", "fslm_commands")
    (base,) = found.checkpoints
    assert (base.name, base.licence, base.languages) == ("all.base", "MIT", ("en", "fr"))
    assert json.loads(json.dumps(asdict(found)))["checkpoints"][0]["name"] == "all.base"


def test_a_name_that_is_not_there_offers_near_ones(site: Path, tmp_path: Path) -> None:
    unpack(tiny_wheel(tmp_path / "w", "1.0"), site)
    with pytest.raises(UnknownNameError) as caught:
        page("tinny")
    assert "tiny" in str(caught.value.hint)
