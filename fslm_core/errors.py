"""Every error fslm raises, in one tree.

::

    FslmError
    ├── UsageError                 the caller asked for something that cannot be
    │   ├── SettingsError            fslm.toml or a FSLM_* variable is wrong
    │   ├── UnknownNameError         no stack, stage, checkpoint, backend or plugin of that name
    │   ├── InputError               the input does not fit the stack's input model
    │   ├── EngineStateError         the engine is closed, was forked, or its own loop is running
    │   └── MissingExtraError        an optional dependency is not installed
    ├── DefinitionError            a plugin author wrote something that cannot work
    │   ├── SchemaError              a model the grammar cannot express, or without a bound
    │   ├── PromptError              a template that does not parse, render or stay in its sandbox
    │   ├── StageError               a stage that contradicts itself
    │   └── StackError               a stack that contradicts itself
    ├── CheckError                 the static check refused a stack (carries its findings)
    ├── PluginError                a plugin cannot be loaded or breaks a rule
    │   ├── PluginLoadError          it raised, or returned the wrong type (it is quarantined)
    │   └── DuplicateNameError       two owners of one name
    ├── CheckpointError            a model's weights or tokenizer
    │   ├── CheckpointUnavailableError  not in the cache and not to be had
    │   └── CheckpointCorruptError   other bytes than the hash promises
    ├── AdapterError               a LoRA folder that is cut short, of another base, shape or hash
    ├── BackendError               what turns a prompt into text failed
    │   ├── ContextOverflowError     prompt and output do not fit the model's context
    │   └── CapabilityError          a stage needs what the backend does not offer
    ├── StageFailedError           a step gave no valid message (carries its attempts)
    │   └── ToolError                a tool stage's function raised
    ├── RunFailed                  a run ended without an output (carries the run)
    ├── EngineBusy                 more runs are in flight than the engine admits
    ├── DeadlineExceeded           the time allowed has passed
    ├── StoreError                 the trace database
    └── TrainError                 a recipe, its data, or a training run
        └── TrainInterrupted         Ctrl-C in a training run; a checkpoint was saved

Every error has a stable ``code``, says *what* failed, *where*, what was *found* and *expected*, and what to
do *next*; ``exit_code`` is what the command line returns for it.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from .message import Attempt, Problem

_SHOWN = 300


def shorten(value: object, limit: int = _SHOWN) -> str:
    """Return ``value`` as text of at most ``limit`` characters, its middle left out if need be.

    >>> shorten("a" * 50, 20)
    'aaaaaaaa … aaaaaaaaa'
    """
    text = value if isinstance(value, str) else repr(value)
    if len(text) <= limit:
        return text
    half = (limit - 3) // 2
    return f"{text[:half]} … {text[-(limit - 3 - half) :]}"


class FslmError(Exception):
    """The root: ``except FslmError`` catches everything fslm raises on purpose.

    Args:
        what: what failed, one sentence without its full stop.
        where: the stack, step, file or row it failed in.
        found: what was there.
        expected: what should have been.
        hint: what to do next, best a command or a line to write.
    """

    code: ClassVar[str] = "fslm"
    exit_code: ClassVar[int] = 1

    def __init__(
        self,
        what: str,
        *,
        where: str | None = None,
        found: object = None,
        expected: object = None,
        hint: str | None = None,
    ) -> None:
        self.what = what
        self.where = where
        self.found = None if found is None else shorten(found)
        self.expected = None if expected is None else shorten(expected, 1000)
        self.hint = hint
        super().__init__(what)

    def __str__(self) -> str:
        head = f"{self.where}: {self.what}" if self.where else self.what
        rows = [("found", self.found), ("expected", self.expected), ("next", self.hint)]
        return "\n".join([head, *(f"  {name}: {text}" for name, text in rows if text)])

    def to_dict(self) -> dict[str, Any]:
        """Return the error as plain JSON data: ``code``, ``what`` and the parts that are set."""
        parts = {
            "code": self.code,
            "what": self.what,
            "where": self.where,
            "found": self.found,
            "expected": self.expected,
            "next": self.hint,
        }
        return {name: text for name, text in parts.items() if text is not None}

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.args, self.__dict__)


def _rebuild(kind: type[FslmError], args: tuple[Any, ...], state: dict[str, Any]) -> FslmError:
    error = kind.__new__(kind)
    Exception.__init__(error, *args)
    error.__dict__.update(state)
    return error


class UsageError(FslmError):
    """The caller asked for something that cannot be."""

    code = "usage"
    exit_code = 2


class SettingsError(UsageError):
    """``fslm.toml`` or a ``FSLM_*`` variable is wrong."""

    code = "settings"


class UnknownNameError(UsageError):
    """No such stack, stage, checkpoint, backend or plugin; near names are offered."""

    code = "unknown-name"

    @classmethod
    def of(cls, kind: str, name: str, known: Iterable[str], *, hint: str | None = None) -> UnknownNameError:
        """Build the error for ``name``, offering the near ones among ``known``."""
        names = sorted(known)
        near = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
        if near:
            hint = "did you mean " + " or ".join(repr(n) for n in near) + "?"
        return cls(
            f"there is no {kind} named {shorten(name, 80)!r}",
            expected="one of " + ", ".join(names) if names else None,
            hint=hint or (None if names else "install a plugin that offers one, then see `fslm list`"),
        )


class InputError(UsageError):
    """The input does not fit the stack's input model."""

    code = "input"


class EngineStateError(UsageError):
    """The engine is closed, was forked, or ``run`` was called on a thread whose loop is running."""

    code = "engine-state"


class MissingExtraError(UsageError):
    """An optional dependency is not installed."""

    code = "missing-extra"
    exit_code = 4


class DefinitionError(FslmError):
    """A stage, stack, schema or prompt was written in a way that cannot work."""

    code = "definition"
    exit_code = 3


class SchemaError(DefinitionError):
    """A pydantic model that no grammar can express, or that has no bound."""

    code = "schema"


class PromptError(DefinitionError):
    """A template that does not parse, does not render, or tries to leave its sandbox."""

    code = "prompt"


class StageError(DefinitionError):
    """A stage that contradicts itself."""

    code = "stage"


class StackError(DefinitionError):
    """A stack that contradicts itself."""

    code = "stack"


class CheckError(FslmError):
    """The static check refused a stack; ``findings`` says all that is wrong, not just the first."""

    code = "check"
    exit_code = 3

    def __init__(self, stack: str, findings: Sequence[str]) -> None:
        self.stack = stack
        self.findings = tuple(findings)
        count = "1 problem" if len(findings) == 1 else f"{len(findings)} problems"
        super().__init__(
            f"the check found {count}",
            where=f"stack {stack}",
            hint=f"mend what is listed, then run `fslm check {stack}`",
        )

    def __str__(self) -> str:
        return "\n".join([f"{self.where}: {self.what}", *(f"  - {f}" for f in self.findings), f"  next: {self.hint}"])

    def to_dict(self) -> dict[str, Any]:
        return {**super().to_dict(), "findings": list(self.findings)}


class PluginError(FslmError):
    """A plugin cannot be loaded or breaks a rule."""

    code = "plugin"
    exit_code = 4


class PluginLoadError(PluginError):
    """A plugin raised while it was loaded, or returned the wrong type; it is quarantined."""

    code = "plugin-load"


class DuplicateNameError(PluginError):
    """Two owners of one name."""

    code = "duplicate-name"


class CheckpointError(FslmError):
    """A model's weights or tokenizer."""

    code = "checkpoint"
    exit_code = 4


class CheckpointUnavailableError(CheckpointError):
    """The checkpoint is not in the cache and could not be got."""

    code = "checkpoint-unavailable"


class CheckpointCorruptError(CheckpointError):
    """The bytes are not those the hash promises."""

    code = "checkpoint-corrupt"


class AdapterError(FslmError):
    """A LoRA folder that is cut short, of another base, shape or hash."""

    code = "adapter"
    exit_code = 4


class BackendError(FslmError):
    """What turns a prompt into text failed."""

    code = "backend"


class ContextOverflowError(BackendError):
    """Prompt and output do not fit the model's context."""

    code = "context-overflow"


class CapabilityError(BackendError):
    """A stage needs what the backend does not offer."""

    code = "capability"


class StageFailedError(FslmError):
    """A step gave no valid message; ``attempts`` keeps every text it wrote and what was wrong with it."""

    code = "stage-failed"

    def __init__(
        self,
        what: str,
        *,
        where: str | None = None,
        problems: Sequence[Problem] = (),
        attempts: Sequence[Attempt] = (),
        hint: str | None = None,
    ) -> None:
        self.problems = tuple(problems)
        self.attempts = tuple(attempts)
        found = "; ".join(str(p) for p in problems) or None
        super().__init__(what, where=where, found=found, hint=hint)


class ToolError(StageFailedError):
    """A tool stage's function raised, timed out or returned the wrong type."""

    code = "tool"


class RunFailed(FslmError):
    """A run ended without an output. ``run`` is what there is of it, ``error`` the reason."""

    code = "run-failed"

    def __init__(self, run: Any, error: FslmError) -> None:
        self.run = run
        self.error = error
        super().__init__(error.what, where=error.where, hint=error.hint)
        self.found, self.expected = error.found, error.expected

    def __str__(self) -> str:
        return str(self.error)

    def to_dict(self) -> dict[str, Any]:
        return self.error.to_dict()


class EngineBusy(FslmError):
    """More runs are in flight than the engine admits; try again or raise ``max_in_flight``."""

    code = "engine-busy"
    exit_code = 5


class DeadlineExceeded(FslmError):
    """The time allowed for a run has passed; its work was stopped."""

    code = "deadline"


class StoreError(FslmError):
    """The trace database is locked, full, corrupt, read-only or of a newer version."""

    code = "store"
    exit_code = 4


class TrainError(FslmError):
    """A recipe, its data, or a training run."""

    code = "train"
    exit_code = 2


class TrainInterrupted(TrainError):
    """Training was stopped by Ctrl-C; the text says where it stands and how to go on."""

    code = "train-interrupted"
    exit_code = 130
