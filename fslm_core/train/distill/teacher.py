"""Who teaches: a checkpoint, perhaps with an adapter, and whether it can teach this stage. Loads no weight."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...adapter import AdapterInfo, inspect
from ...checkpoints import ResolvedCheckpoint, resolve
from ...errors import AdapterError, CheckpointError, TrainError, UnknownNameError
from ...plugins import PluginHost
from ...settings import Settings
from ..progress import Noted, Progress, Working
from ..recipe import Distill, Recipe

if TYPE_CHECKING:
    from ...backends.torch.vocabulary import Vocabulary
    from ..objective import Example


@dataclass(frozen=True, slots=True)
class Teacher:
    """A teacher on this machine.

    Attributes:
        base: its checkpoint's name.
        adapter: its adapter, if it has one.
    """

    base: str
    checkpoint: ResolvedCheckpoint
    adapter: AdapterInfo | None

    @property
    def key(self) -> str:
        """Names its weights."""
        return f"teacher {self.checkpoint.sha256} {self.adapter.identity if self.adapter else None}"

    @property
    def name(self) -> str:
        """Its checkpoint's name for people; of a folder the last part."""
        known = self.checkpoint.checkpoint
        return known.title or Path(known.name).name

    @property
    def title(self) -> str:
        """Its name for people, with the stage that its adapter is for."""
        if self.adapter is None:
            return self.name
        record = self.adapter.record
        return f"{self.name} with the adapter {f'of {record.stage}' if record else self.adapter.path.name}"

    def facts(self, ways: Distill) -> dict[str, Any]:
        """What a record should say of the teaching."""
        return {
            "teacher": self.title,
            "teacher_sha256": self.checkpoint.sha256,
            **({} if self.adapter is None else {"teacher_adapter_sha256": self.adapter.sha256}),
            "divergence": ways.divergence if ways.divergence != "jsd" else f"jsd, beta {ways.mixed}",
            "divergence_weight": ways.weight,
            "temperature": ways.temperature,
        }


def find_teacher(recipe: Recipe, base: str, settings: Settings, host: PluginHost, progress: Progress) -> Teacher | None:
    """The teacher of a recipe's ``[distill]``; None where it has none.

    Args:
        base: the stage's own, as it names it.

    Raises:
        TrainError: there is no such checkpoint or adapter, the adapter is of another checkpoint, or is what the recipe
            is to write.
    """
    ways = recipe.distill
    if ways is None:
        return None
    if ways.adapter is not None and ways.adapter.resolve() == recipe.output.resolve():
        raise TrainError(
            "the adapter would be written over the teacher's",
            where="recipe, distill.adapter",
            found=str(ways.adapter),
            hint="set output to another folder, or keep a copy of the teacher's adapter and name that",
        )
    name = ways.base or base
    try:
        checkpoint = resolve(
            name,
            settings,
            extra=host.checkpoints,
            progress=lambda what, done, total: progress(Working(f"{what} {name}", done, total or 0)),
        )
    except (UnknownNameError, CheckpointError) as error:
        raise _absent("distill.base", name, error) from None
    try:
        adapter = None if ways.adapter is None else inspect(ways.adapter)
    except AdapterError as error:
        raise _absent("distill.adapter", str(ways.adapter), error) from None
    if adapter is not None and (record := adapter.record) is not None:
        if record.base_sha256 not in (None, checkpoint.sha256):
            raise TrainError(
                "the teacher's adapter was trained on another checkpoint",
                where="recipe, distill.adapter",
                found=f"{ways.adapter}: {record.base}, SHA-256 {record.base_sha256}",
                expected=f"{name}, SHA-256 {checkpoint.sha256}",
                hint="name its checkpoint as distill.base, or an adapter of this one",
            )
        if record.stage != recipe.stage:
            progress(Noted(f"the teacher's adapter was trained for the stage {record.stage}, not for {recipe.stage}"))
    return Teacher(name, checkpoint, adapter)


def _absent(key: str, name: str, error: UnknownNameError | CheckpointError | AdapterError) -> TrainError:
    return TrainError(
        "the teacher cannot be had",
        where=f"recipe, {key}",
        found=f"{name}: {error.what}" + (f" ({error.found})" if error.found else ""),
        expected="a checkpoint as a stage names its base, by name or folder"
        if key == "distill.base"
        else "a PEFT folder with a LoRA",
        hint=error.hint if key == "distill.base" else "train it first, or name another folder",
    )


def refuse_unfit(teacher: Teacher, vocabulary: Vocabulary, examples: Sequence[Example]) -> None:
    """Make sure that a teacher reads and ends the rows as the student does.

    Args:
        vocabulary: the student's.
        examples: all rows that it is to teach.

    Raises:
        TrainError: it has other tokens, ends its answers with another, or a context that is too short.
        CheckpointError: its tokenizer cannot be read.
    """
    from ...backends.torch.vocabulary import Vocabulary

    own = Vocabulary(teacher.checkpoint.path)
    mine, theirs = (each.tokenizer.get_vocab() for each in (vocabulary, own))
    where = f"recipe, distill: {teacher.title}"
    if mine != theirs:
        other = sorted(token for token in mine.keys() | theirs.keys() if mine.get(token) != theirs.get(token))
        shown = ", ".join(f"{t!r} is {theirs.get(t, 'absent')}, not {mine.get(t, 'absent')}" for t in other[:2])
        raise TrainError(
            "the teacher has another vocabulary",
            where=where,
            found=f"{len(theirs):,} tokens; {len(other):,} are not the student's: {shown}",
            expected=f"the {len(mine):,} tokens of the student under the same numbers",
            hint="name a teacher of the same family; any other can write rows: see [teacher] of `fslm tune`",
        )
    if vocabulary.ends[0] not in own.ends:
        told = vocabulary.tokenizer.convert_ids_to_tokens
        raise TrainError(
            "the teacher does not end its answers as the student does",
            where=where,
            found=", ".join(told(list(own.ends))) or "no end token",
            expected=told(vocabulary.ends[0]),
            hint="name a teacher that was tuned for the same chat template",
        )
    lengths = [len(example) - 1 for example in examples]  # nothing is predicted from the end token
    if (longest := max(lengths)) > own.context:
        count = sum(length > own.context for length in lengths)
        raise TrainError(
            "the teacher's context is too short",
            where=where,
            found=f"{count:,} of {len(lengths):,} rows are longer, the longest of {longest:,} tokens",
            expected=f"at most {own.context:,} tokens",
            hint="leave those rows out, or name a teacher with a longer context",
        )


__all__ = ["Teacher", "find_teacher", "refuse_unfit"]
