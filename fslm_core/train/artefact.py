"""What a training run leaves behind: the loss curve, and an adapter folder that is written whole or not at all."""

from __future__ import annotations

import json
import math
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from ..adapter import AdapterRecord, inspect
from ..errors import TrainError
from ..folders import swap
from .model import write_adapter


def write_curve(folder: Path, losses: Sequence[Mapping[str, float]], scores: Sequence[Mapping[str, float]]) -> None:
    """Write ``loss.jsonl`` (one line a step) and ``loss.png`` (the same drawn, with the epochs' scores)."""
    lines = "".join(json.dumps(dict(entry)) + "\n" for entry in losses)
    (folder / "loss.jsonl").write_text(lines, encoding="utf-8")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    steps = [entry["step"] for entry in losses]
    axes.plot(steps, [entry["loss"] for entry in losses], alpha=0.3, linewidth=1, color="tab:blue")
    axes.plot(steps, _smooth([entry["loss"] for entry in losses]), color="tab:blue", label="loss (mean of 20 steps)")
    axes.set(xlabel="step", ylabel="loss a target token", yscale="log")
    ends = [max(e["step"] for e in losses if e["epoch"] == n + 1) for n in range(len(scores)) if losses]
    right = axes.twinx()
    right.plot(ends, [s["exact"] for s in scores], "o-", color="tab:orange", label="exact on the selection rows")
    right.set(ylabel="share of rows", ylim=(0, 1.02))
    figure.legend(loc="outside upper center", ncols=2, frameon=False)
    figure.savefig(folder / "loss.png", metadata={"Software": None})


def _smooth(values: Sequence[float], span: int = 20) -> list[float]:
    return [math.fsum(values[max(0, i + 1 - span) : i + 1]) / min(span, i + 1) for i in range(len(values))]


def write_folder(output: Path, *, model: Any, tensors: dict[str, Tensor], record: AdapterRecord, curve: Path) -> str:
    """Write the adapter folder beside its place, check it, and put it there in one move.

    Args:
        output: an adapter that lies there already is replaced; anything else is refused.
        curve: the folder that :func:`write_curve` wrote to.

    Returns:
        The SHA-256 (hex) of its weights.

    Raises:
        TrainError: its place is taken or cannot be written.
    """
    refuse_taken(output)
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        made = Path(tempfile.mkdtemp(prefix=f".{output.name}-", dir=output.parent))
    except OSError as error:
        raise _unwritable(error, output) from None
    try:
        made.chmod(0o755)
        model.peft_config["default"].base_model_name_or_path = record.base  # until now a folder of this machine
        sha256 = write_adapter(model, tensors, made)
        record = record.model_copy(update={"sha256": sha256})
        (made / "fslm.json").write_text(record.model_dump_json(indent=2) + "\n", encoding="utf-8")
        (made / "README.md").write_text(card(record, sha256), encoding="utf-8")
        for name in ("loss.jsonl", "loss.png"):
            shutil.copyfile(curve / name, made / name)
        inspect(made)
        swap(made, output)
    except OSError as error:
        raise _unwritable(error, output) from None
    finally:
        shutil.rmtree(made, ignore_errors=True)
    return sha256


def _unwritable(error: OSError, output: Path) -> TrainError:
    return TrainError(
        f"the adapter cannot be written: {error.strerror}",
        where=str(output),
        hint="free space or give yourself write access, then run the same command with --resume",
    )


def refuse_taken(output: Path) -> None:
    """Make sure that ``output`` is free, empty or an adapter.

    Raises:
        TrainError: something else is there.
    """
    if not output.exists() or (output / "adapter_config.json").is_file():
        return
    if not output.is_dir() or any(output.iterdir()):
        raise TrainError(
            "the place for the adapter is taken by something else",
            where=str(output),
            hint="set output to another folder",
        )


def card(record: AdapterRecord, sha256: str) -> str:
    """The model card: Hugging Face's front matter, then what one needs to know."""
    extra = record.model_extra or {}
    licences = sorted(set(record.licences.values()))
    front = [
        "---",
        f"base_model: {extra.get('base_title') or record.base}",
        "library_name: peft",
        f"license: {licences[0].lower() if len(licences) == 1 else 'other'}",
        *(["language:", *(f"- {code}" for code in record.languages)] if record.languages else []),
        "---",
    ]
    training: Mapping[str, Any] = extra.get("training", {})
    parts = [
        f"# Adapter for `{record.stage}`",
        f"A LoRA of rank {training.get('rank')} on `{record.base}`, trained by `fslm train`. It writes the output of"
        f" the stage `{record.stage}` and is of no use without its prompt and schema.",
        str(record.recipe.get("notes", "")),
        "## Scores",
        "On the selection rows, greedy, under the decoder that serves (shares of all rows):",
        _table(("score", "value"), [(f"`{name}`", f"{value:.4f}") for name, value in record.scores.items()]),
        "These rows chose the epoch, so they flatter; report a test on rows nothing was chosen by.",
        "## Training",
        _table(("what", "value"), [(name.replace("_", " "), _shown(value)) for name, value in training.items()]),
        f"SHA-256 of the weights: `{sha256}`.",
        "The whole recipe is in `fslm.json`; the loss is in `loss.jsonl` and `loss.png`.",
        "## Licences",
        _table(("source", "licence"), sorted(record.licences.items())) if record.licences else "Not stated.",
        "## Languages",
        ", ".join(record.languages) or "Not stated.",
    ]
    return "\n".join(front) + "\n\n" + "\n\n".join(part for part in parts if part) + "\n"


def _shown(value: object) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _table(head: tuple[str, str], rows: Sequence[tuple[str, str]]) -> str:
    return "\n".join(f"| {a} | {b} |" for a, b in [head, ("---", "---"), *rows])


__all__ = ["card", "refuse_taken", "write_curve", "write_folder"]
