"""The FSLM paper's configuration, end to end: its rows from Alpaca's, its tuning on small random weights, its run."""

from __future__ import annotations

import importlib
import json
import shutil
import string
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import pytest

from fslm_core.adapter import inspect
from fslm_core.checkpoints import pull
from fslm_core.engine import Engine
from fslm_core.plugins import PluginHost
from fslm_core.settings import Settings, load
from fslm_core.tune import TuneReport, TuneResult, tune_stack

pytestmark = pytest.mark.torch

ROOT = Path(__file__).parents[2]
PAPER = ROOT / "plugins/fslm-reason/paper"
NAMES = ("fslm_paper", "alpaca")
STEPS = ("topic", "facts", "reasoning", "response")
FEW = ["data.dev_fraction=0.2", "data.select_fraction=0.2", "data.near=1.0"]


@pytest.fixture(scope="module")
def modules() -> Iterator[dict[str, ModuleType]]:
    """The plugin and the program beside it, neither of them installed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(PAPER))
        yield {name: importlib.import_module(name) for name in NAMES}
    for name in NAMES:
        sys.modules.pop(name, None)


def weights(kind: str, folder: Path) -> Path:
    """A tiny random model with a context of 2,048 tokens, and a tokenizer whose tokens are pieces of English words.

    As with the real ones a GPT-NeoX has no chat template, and a Llama has one.
    """
    import torch
    from tokenizers import AddedToken, Tokenizer, decoders, pre_tokenizers
    from tokenizers.models import BPE
    from tokenizers.trainers import BpeTrainer
    from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

    inner = Tokenizer(BPE())
    inner.pre_tokenizer, inner.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    text = (
        string.printable[:95] + "\n" + (ROOT / "docs/tuning.md").read_text("utf-8").encode("ascii", "ignore").decode()
    )
    end = AddedToken("<|endoftext|>", special=True)
    inner.train_from_iterator([text], BpeTrainer(vocab_size=1500, special_tokens=[end], show_progress=False))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<|endoftext|>")
    if kind == "llama":
        turns = "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '\n' }}{% endfor %}"
        tokenizer.chat_template = turns + "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
    sizes = {"num_hidden_layers": 2, "hidden_size": 32, "num_attention_heads": 4, "intermediate_size": 48}
    config = AutoConfig.for_model(kind, vocab_size=len(tokenizer), max_position_embeddings=2048, **sizes)
    config.eos_token_id, config.pad_token_id, config.bos_token_id = tokenizer.eos_token_id, None, None
    with torch.random.fork_rng():
        torch.manual_seed(1)
        AutoModelForCausalLM.from_config(config, dtype=torch.float32).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def written(path: Path) -> Path:
    """Ten rows as Alpaca has them."""
    asked = [("Name a fruit.", ""), ("Say it in French.", "cat"), ("What is two and two?", ""), ("Add an s.", "dog")]
    rows = [
        {"instruction": f"{task} ({i})", "input": given, "output": f"Answer {i}"}
        for i, (task, given) in enumerate(asked * 3)
    ]
    path.write_text(json.dumps(rows[:10]), encoding="utf-8")
    return path


@dataclass(frozen=True)
class Made:
    """A whole tuning, and what it was made with."""

    result: TuneResult
    settings: Settings
    plugin: ModuleType


@pytest.fixture(scope="module")
def made(modules: dict[str, ModuleType], tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder = tmp_path_factory.mktemp("paper")
    recipe = Path(shutil.copy(PAPER / "tune.toml", folder))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            sys, "argv", ["alpaca.py", str(written(folder / "a.json")), "--out", f"{folder}/rows/alpaca.jsonl"]
        )
        modules["alpaca"].main()
    plugin = modules["fslm_paper"]
    settings = load(files=()).model_copy(update={"cache_dir": folder / "cache", "offline": True})
    host = PluginHost(settings, plugins={"paper": plugin}, installed=False)
    for checkpoint, kind in ((plugin.PYTHIA, "gpt_neox"), (plugin.LLAMA, "llama")):
        pull(checkpoint.name, settings, extra=host.checkpoints, source_dir=weights(kind, folder / kind))
    return Made(tune_stack("paper", recipe, overrides=FEW, settings=settings, host=host), settings, plugin)


def test_four_adapters_of_a_gpt_neox_come_out(made: Made) -> None:
    assert list(made.result.adapters) == [f"paper.{step}" for step in STEPS]
    for name, folder in made.result.adapters.items():
        found = inspect(folder)
        assert found.record is not None and found.record.stage == name
        assert any("query_key_value" in tensor for tensor in found.shapes)


def test_the_report_has_scores_fed_with_gold_and_with_predictions(made: Made) -> None:
    report = TuneReport.model_validate_json((made.result.work / "report.json").read_text())
    assert [scores.when for scores in report.scores] == ["before", "after round 1"]
    for scores in report.scores:
        assert [step.step for step in scores.steps] == list(STEPS)
        for step in scores.steps:
            assert step.gold_fed is not None and step.gold_fed.n == report.plan.dev
            assert step.predicted_fed is not None and step.predicted_fed.n == report.plan.dev
    taught = {message.step: message.written for message in report.messages}
    assert taught == {"topic": 10, "facts": 10, "reasoning": 10, "response": 0}


def test_the_stack_runs_with_them(made: Made, tmp_path: Path) -> None:
    (tmp_path / "fslm.toml").write_text(made.result.report.to_settings(made.result.work))
    own = load(files=[tmp_path / "fslm.toml"])
    settings = own.model_copy(update={"cache_dir": made.settings.cache_dir, "offline": True})
    host = PluginHost(settings, plugins={"paper": made.plugin}, installed=False)
    with Engine([made.plugin.paper], settings=settings, host=host, trace=False) as engine:
        run = engine.run(made.plugin.paper, {"instruction": "Name a fruit."})
        assert not [warning for warning in engine.check(made.plugin.paper).warnings if "untuned" in warning]
    assert run.output.response and [name for name in run.messages if name in STEPS] == list(STEPS)


def test_rows_that_do_not_fit_are_left_out_and_counted(
    modules: dict[str, ModuleType], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [
        {"instruction": " Name a fruit. ", "input": "", "output": "A pear.\n"},
        {"instruction": "Tell a story.", "input": "", "output": "x" * 601},
        {"instruction": "Say nothing.", "input": "", "output": " "},
        {"question": "Why?"},
        "why?",
    ]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n\n" for row in rows), encoding="utf-8")
    monkeypatch.setattr(sys, "argv", ["alpaca.py", f"{tmp_path}/a.jsonl", "--out", f"{tmp_path}/out.jsonl"])
    modules["alpaca"].main()
    (line,) = (tmp_path / "out.jsonl").read_text().splitlines()
    assert json.loads(line) == {
        "input": {"instruction": "Name a fruit.", "input": ""},
        "output": {"response": "A pear."},
    }
    told = capsys.readouterr().out
    assert "1 rows of 5" in told and "response too long: 1" in told and "response empty: 1" in told
    assert "no row of Alpaca: 2" in told


def test_a_file_that_is_no_alpaca_is_refused(
    modules: dict[str, ModuleType], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.json").write_text("[{", encoding="utf-8")
    monkeypatch.setattr(sys, "argv", ["alpaca.py", f"{tmp_path}/a.json", "--out", f"{tmp_path}/out.jsonl"])
    with pytest.raises(SystemExit):
        modules["alpaca"].main()
    assert "cannot be read" in capsys.readouterr().err and not (tmp_path / "out.jsonl").exists()
