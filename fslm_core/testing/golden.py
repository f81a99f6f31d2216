"""Token ids of a few examples, kept for good: training and serving must see the same, today and after an upgrade.

An adapter learnt what follows certain token ids. If a new tokenizer, chat template or prompt gives others, its scores
fall without a word; and if training and serving ever disagreed, every adapter would be of less use than it was.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from ..checkpoints import find, resolve
from ..plugins import PluginHost
from ..schema import canonical, plain_data
from ..settings import Settings
from ..stage import Stage
from .broken import ContractBroken

Example = tuple[BaseModel | Mapping[str, Any], BaseModel | Mapping[str, Any]]
"""What a stage is given, and what it should write."""


@dataclass(frozen=True)
class Ids:
    """One example as token ids: of the prompt, and of the answer without its end."""

    prompt: tuple[int, ...]
    answer: tuple[int, ...]


def golden_path(folder: Path, stage: Stage[Any, Any]) -> Path:
    """Where a stage's golden ids lie.

    Args:
        folder: the folder of the tests.
    """
    return folder / "golden" / f"{stage.name}.json"


def golden_text(stage: Stage[Any, Any], examples: Sequence[Example], host: PluginHost, settings: Settings) -> str:
    """The token ids of examples as the text of a golden file, the same for training and for serving.

    The checkpoint is fetched if it is not here yet; no weight is loaded.

    Raises:
        ContractBroken: there is no example, one does not fit the stage, or training and serving see different ids.
        MissingExtraError: the extra ``torch`` is not installed.
        CheckpointError: the checkpoint cannot be had.
    """
    from ..backends.torch.extra import require

    require()
    from ..backends.torch.vocabulary import Vocabulary

    if not examples:
        raise ContractBroken(
            "there is no example whose token ids could be kept",
            where=f"stage {stage.name}",
            hint="write a case that expects a message, or set `examples = [(input, output)]` in the test class",
        )
    assert stage.model is not None
    checkpoint = find(stage.model.base, host.checkpoints)
    vocabulary = Vocabulary(resolve(checkpoint, settings, extra=host.checkpoints).path)
    pairs = [_checked(stage, example) for example in examples]
    trained = _as_trained(stage, pairs, vocabulary)
    served = [_as_served(stage, given, answer, vocabulary) for given, answer in pairs]
    for (given, _), one, other in zip(pairs, trained, served, strict=True):
        if one != other:
            raise ContractBroken(
                "training and serving see different token ids",
                where=f"stage {stage.name}, {canonical(given)}",
                found=f"serving: {other}",
                expected=f"training: {one}",
                hint="report it: what an adapter learnt is not what it is asked",
            )
    found = [
        {
            "input": plain_data(given),
            "output": plain_data(answer),
            "prompt": list(ids.prompt),
            "answer": list(ids.answer),
        }
        for (given, answer), ids in zip(pairs, served, strict=True)
    ]
    return _compact(stage.name, checkpoint.name, found)


def _checked(stage: Stage[Any, Any], example: Example) -> tuple[BaseModel, BaseModel]:
    given, answer = (
        part if isinstance(part, BaseModel) else model.model_validate(dict(part), by_name=True)
        for part, model in zip(example, (stage.input, stage.output), strict=True)
    )
    if problems := stage.narrowed(given).problems(plain_data(answer)):
        raise ContractBroken(
            f"an example does not fit the stage: {problems[0]}",
            where=f"stage {stage.name}",
            found=canonical(answer),
            hint="correct it in `examples`, or in the case it comes from",
        )
    return given, answer


def _as_trained(stage: Stage[Any, Any], pairs: Sequence[tuple[BaseModel, BaseModel]], vocabulary: Any) -> list[Ids]:
    """As ``fslm train`` encodes rows, their end left out."""
    from ..train.encoding import encode_rows
    from ..train.progress import silent
    from ..train.rows import Problems, Row

    rows = [
        Row(number, given, answer, canonical(answer), stage.narrowed(given))
        for number, (given, answer) in enumerate(pairs, start=1)
    ]
    problems = Problems()
    encoded = encode_rows(rows, stage, vocabulary, Path("examples"), problems, silent)
    if problems.count:
        raise ContractBroken(
            f"an example cannot be trained on: {problems.first[0]}",
            where=f"stage {stage.name}",
            hint="correct it in `examples`, or in the case it comes from",
        )
    return [Ids(tuple(prompt), tuple(target[:-1])) for prompt, target in encoded]


def _as_served(stage: Stage[Any, Any], given: BaseModel, answer: BaseModel, vocabulary: Any) -> Ids:
    """As the torch backend encodes a request, and its answer as forced tokens would be."""
    from ..backends.torch.encoding import encode, encode_text

    prompt = encode(
        stage.render(given),
        vocabulary.tokenizer,
        context=vocabulary.context,
        max_tokens=stage.max_tokens,
        on_overflow=stage.decoding.on_overflow,
    )
    return Ids(tuple(prompt.ids), tuple(encode_text(canonical(answer), vocabulary.tokenizer)))


def _compact(stage: str, base: str, examples: Sequence[Mapping[str, Any]]) -> str:
    """JSON with a line for each part of an example, so that a difference is short to read."""
    shown = [",\n".join(f"      {_json(name)}: {_json(part)}" for name, part in e.items()) for e in examples]
    listed = ",\n".join(f"    {{\n{lines}\n    }}" for lines in shown)
    return f'{{\n  "stage": {_json(stage)},\n  "base": {_json(base)},\n  "examples": [\n{listed}\n  ]\n}}\n'


def _json(data: object) -> str:
    return json.dumps(data, ensure_ascii=False)


__all__ = ["Example", "Ids", "golden_path", "golden_text"]
