"""Every error fslm raises, in one tree.

::

    FslmError
    ├── UsageError                 the caller asked for something that cannot be
    │   ├── SettingsError            fslm.toml or a FSLM_* variable is wrong
    │   ├── UnknownNameError         no stack, stage, checkpoint, backend or plugin of that name
    │   ├── InputError               the input does not fit the stack's input model
    │   ├── EngineStateError         the engine is closed, was forked, or its own loop is running
    │   ├── SessionError             a session that cannot be had: another stack's, another model's, kept nowhere
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
    ├── LockError                  what would run is not what the lock file says (carries the differences)
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
    ├── ReviewNeeded               a run ended at a question that a person is to decide
    ├── EngineBusy                 more runs are in flight than the engine admits
    ├── DeadlineExceeded           the time allowed has passed
    ├── SessionConflict            another run wrote the session meanwhile
    ├── StoreError                 the trace database, or the session store
    ├── DataError                  a table of rows, its columns, or what was asked of it
    ├── GateError                  another environment's fslm cannot be asked, or ended too early
    ├── TrainError                 a recipe, its data, or a training run
    │   └── TrainInterrupted         Ctrl-C in a training run; a checkpoint was saved
    ├── SystemRefusedError         the operating system refused the command line something
    └── InternalError              something raised that nobody foresaw

Every error has a stable ``code``, says *what* failed, *where*, what was *found* and *expected*, and what to
do *next*; ``exit_code`` is what the command line returns for it. A class's docstring is its page in the
documentation and what ``fslm errors CODE`` prints: a summary, what causes it, and after ``Next:`` what to do.
"""

from __future__ import annotations

import copy
import difflib
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Self

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

    It is never raised itself; every error is of one of the kinds below it. ``str(error)`` is the whole text,
    ``error.to_dict()`` the same as JSON, ``error.__cause__`` the exception behind it where there is one. An error may
    be pickled and copied; notes of ``error.add_note(…)`` are shown.

    Next: catch it where any failure of fslm has the same consequence, log ``error.to_dict()``, and tell kinds apart by
    ``error.code``, which never changes its meaning.

    Args:
        what: what failed, one sentence without its full stop.
        where: the stack, step, file or row it failed in.
        found: what was there.
        expected: what should have been.
        hint: what to do next, best a command or a line to write.
    """

    code: ClassVar[str] = "fslm"
    exit_code: int = 1

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
            "notes": list(self.notes) or None,
        }
        return {name: part for name, part in parts.items() if part is not None}

    @property
    def notes(self) -> tuple[str, ...]:
        """What ``add_note`` added."""
        return tuple(getattr(self, "__notes__", ()))

    def at(self, place: str) -> Self:
        """The same error, said to have happened at ``place``; a copy, for one failure may concern several runs."""
        twin = copy.copy(self)
        twin.where = f"{place}, {self.where}" if self.where else place
        twin.__cause__ = self.__cause__
        return twin.with_traceback(self.__traceback__)

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.args, self.__dict__)


def _rebuild(kind: type[FslmError], args: tuple[Any, ...], state: dict[str, Any]) -> FslmError:
    error = kind.__new__(kind)
    Exception.__init__(error, *args)
    error.__dict__.update(state)
    return error


class UsageError(FslmError):
    """The caller asked for something that cannot be.

    A verb, option or argument that does not exist or contradicts another, a file that cannot be read or written where
    the command line was told to, an object of the wrong kind given to the engine.

    Next: read what was expected; ``fslm VERB --help`` lists what a verb takes.
    """

    code = "usage"
    exit_code = 2


class SettingsError(UsageError):
    """``fslm.toml`` or a ``FSLM_*`` variable is wrong.

    A key or variable that fslm does not know (a typo is never passed over), a value of the wrong type, a file that is
    not TOML, cannot be read or cannot be written. Every command reads the settings, so each fails until it is mended.

    Next: correct the key that is named, in the file or variable that is named. The page *Settings* lists all of them;
    ``FSLM_CONFIG=/dev/null`` reads no file at all.
    """

    code = "settings"


class UnknownNameError(UsageError):
    """No such stack, stage, checkpoint, backend, plugin or run; near names are offered.

    A typo, a plugin that is not installed in this environment or that the settings disable, or a run that the trace
    database does not hold.

    Next: take one of the names that are offered. ``fslm list`` shows stacks and stages, ``fslm plugins`` what is
    installed, ``fslm models list`` checkpoints, ``fslm trace list`` runs.
    """

    code = "unknown-name"

    @classmethod
    def of(
        cls, kind: str, name: str, known: Iterable[str], *, where: str | None = None, hint: str | None = None
    ) -> UnknownNameError:
        """Build the error for ``name``, offering the near ones among ``known``; it says where they are looked for."""
        names = sorted(known)
        home, verb = _HOMES.get(kind, ("this installation", "fslm list"))
        near = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
        if near:
            hint = "did you mean " + " or ".join(repr(n) for n in near) + "?"
        elif not hint:
            hint = f"see `{verb}`" if names else f"install a plugin that offers one, then see `{verb}`"
        return cls(
            f"there is no {kind} named {shorten(name, 80)!r}",
            where=where or home,
            expected="one of " + ", ".join(names) if names else None,
            hint=hint,
        )


_HOMES = {
    "stack": ("the plugins loaded", "fslm list"),
    "stage": ("the plugins loaded", "fslm list"),
    "plugin": ("the plugins installed", "fslm plugins"),
    "checkpoint": ("the checkpoints known", "fslm models list"),
    "backend": ("the backends known", "fslm doctor"),
    "run": ("the trace", "fslm trace list"),
    "session": ("the session store", "fslm sessions list"),
    "error code": ("fslm", "fslm errors"),
}
"""Where the names of a kind are looked for, and the command that lists them."""


class InputError(UsageError):
    """The input does not fit the stack's input model.

    Text that is not JSON where JSON was promised, a field that is missing, unknown or of the wrong type, a value out of
    its bounds, bytes that are not UTF-8. No run began: no model was asked, and the trace knows nothing of it.

    Next: give what ``expected`` says. ``fslm check STACK`` shows the input model.
    """

    code = "input"


class EngineStateError(UsageError):
    """The engine is closed, was forked, or ``run`` was called on a thread whose loop is running.

    Other causes: it was never opened or is opened twice, a number it was given is out of range, a run is asked for an
    output that it does not have.

    Next: open an engine with ``with Engine(…) as engine:`` (or ``async with``), in each worker process after the fork,
    and use ``await engine.arun(…)`` where an event loop is running.
    """

    code = "engine-state"


class SessionError(UsageError):
    """A session that cannot be had.

    An id that is none, or one given to a stack that has no session; a session of another stack; a state that does not
    fit its model any more, for the model was changed since; a state too large to be kept; sessions that are not to be
    kept here (``sessions.keep = false``). Nothing was run, or what was run is not remembered, and the state is as it
    was.

    Next: choose another id, forget the session with ``fslm sessions forget ID``, or give the fields of the new model
    defaults that the old state is valid with. ``fslm sessions show ID`` shows what is kept.
    """

    code = "session"


class MissingExtraError(UsageError):
    """An optional dependency is not installed.

    The core installs without torch. Running models in process needs the extra ``torch``, training the extra ``train``.

    Next: install the extra into the Python that is named, for instance ``python -m pip install 'fslm-core[torch]'``.
    """

    code = "missing-extra"
    exit_code = 4


class DefinitionError(FslmError):
    """A stage, stack, schema or prompt was written in a way that cannot work.

    It is never raised itself; the kinds below it say which part is meant. Nearly all of it shows while a plugin is
    imported or a stack is checked, before any weight is loaded.

    Next: the author of the plugin mends the definition; ``fslm check STACK`` tells whether it holds.
    """

    code = "definition"
    exit_code = 3


class SchemaError(DefinitionError):
    """A pydantic model that no grammar can express, or that has no bound.

    Models write under a grammar made of the output model, and only what is bounded can be promised to end: strings and
    lists need ``max_length``, types without a JSON form cannot be used. Also values that JSON cannot hold, as ``nan``
    or half of a surrogate pair, and a narrowing that would widen.

    Next: bound or replace the field that is named.
    """

    code = "schema"


class PromptError(DefinitionError):
    """A template that does not parse, does not render, or tries to leave its sandbox.

    Templates are Jinja with the blocks ``system`` and ``user``. They see the fields of the stage's input and nothing
    else; a name that is not there is an error and not empty text, and what reaches for Python internals, loops without
    end or writes without bound is refused.

    Next: mend the template at the place that is named.
    """

    code = "prompt"


class StageError(DefinitionError):
    """A stage that contradicts itself.

    A name that is no dotted lower-case word, a decoding setting out of range, a tool that has a model or whose function
    is not annotated, a narrowing of a field the output does not have.

    Next: change the ``Stage(…)`` or ``@tool`` that is named.
    """

    code = "stage"


class StackError(DefinitionError):
    """A stack that contradicts itself.

    A name that is no dotted lower-case words, no steps, two steps of one name, a binding of what no step makes, an
    input or output that is not a pydantic model.

    Next: change the ``Stack(…)`` that is named, then run ``fslm check STACK``.
    """

    code = "stack"


class CheckError(FslmError):
    """The static check refused a stack; ``findings`` says all that is wrong, not just the first.

    Types that do not fit from step to step, templates that use what the input lacks, outputs no grammar can express, an
    adapter that was trained for another schema or base, a stage two plugins own. The check runs before any weight is
    loaded, by ``fslm check`` as when an engine is opened.

    Next: mend what is listed; some of it may be allowed with a setting that the finding names.
    """

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
    """A plugin cannot be loaded or breaks a rule.

    It is never raised itself; the kinds below it say what is wrong with the plugin.

    Next: ``fslm plugins`` lists every plugin and why one is not loaded.
    """

    code = "plugin"
    exit_code = 4


class PluginLoadError(PluginError):
    """A plugin raised while it was loaded, or returned the wrong type; it is quarantined.

    Its import failed (a package that is missing, a fault in its code), its entry point names no module, a hook returned
    what it must not, or it offers a name outside its own. The other plugins work on; only what needs this one fails.

    Next: ``fslm plugins`` shows the reason and ``fslm --debug …`` where it was raised. Mend or reinstall the plugin, or
    leave it out with ``fslm plugins disable NAME``.
    """

    code = "plugin-load"


class DuplicateNameError(PluginError):
    """Two owners of one name.

    Two installed distributions offer a stack, stage, checkpoint, backend or verb of one name. fslm does not choose: the
    name is nobody's until one of them is disabled.

    Next: ``fslm plugins disable DISTRIBUTION``, or uninstall one of the two.
    """

    code = "duplicate-name"


class LockError(FslmError):
    """What would run is not what the lock file says; ``differences`` says all of it, not just the first.

    A plugin was upgraded, changed, installed or removed since the lock was written, an adapter, a template, a schema or
    a checkpoint is another, the settings choose another model, the core has another version. Also: the file is not
    there or is no lock file, or going back to the lock before it did not succeed. No weight was loaded.

    Next: ``fslm lock`` if the change is meant, ``fslm lock --install`` to install what was locked, ``fslm lock
    --restore`` to go back to the lock before. ``fslm lock --check`` tells what differs.

    Args:
        differences: each as ``what: locked …, found …``.
    """

    code = "lock"
    exit_code = 4

    def __init__(
        self,
        what: str,
        *,
        where: str | None = None,
        differences: Sequence[str] = (),
        found: object = None,
        expected: object = None,
        hint: str | None = None,
    ) -> None:
        self.differences = tuple(differences)
        super().__init__(what, where=where, found=found, expected=expected, hint=hint)

    def __str__(self) -> str:
        head, *rows = super().__str__().split("\n")
        return "\n".join([head, *(f"  - {difference}" for difference in self.differences), *rows])

    def to_dict(self) -> dict[str, Any]:
        return {**super().to_dict(), "differences": list(self.differences)}


class CheckpointError(FslmError):
    """A model's weights or tokenizer.

    A folder without weights or of a kind that fslm does not read, a tensor format it does not know, a checkpoint that
    is not pinned to a commit, an adapter where a base model belongs.

    Next: give what was expected; ``fslm models verify NAME`` reads a checkpoint through.
    """

    code = "checkpoint"
    exit_code = 4


class CheckpointUnavailableError(CheckpointError):
    """The checkpoint is not in the cache and could not be got.

    fslm is told to stay offline, the network or the package index does not answer, or the folder given does not hold
    what is needed.

    Next: ``fslm models pull NAME`` with a network, or carry what ``expected`` names to this machine and run
    ``fslm models pull NAME --from DIR``.
    """

    code = "checkpoint-unavailable"


class CheckpointCorruptError(CheckpointError):
    """The bytes are not those the hash promises.

    A download or a copy was cut short, a disk failed, or someone changed a file. Nothing was loaded from it.

    Next: remove the folder that is named and get it again with ``fslm models pull NAME``. If it stays so, ask who runs
    the package index.
    """

    code = "checkpoint-corrupt"


class AdapterError(FslmError):
    """A LoRA folder that is cut short, of another base, shape or hash.

    An adapter never falls back on its base: what does not fit whole is refused. Causes are a file that is missing or
    cut short, weights that are not finite, shapes or targets of another base, a hash other than the one the stage or
    the settings name, a kind of PEFT other than plain LoRA.

    Next: install the plugin that brings it again, make it again with its recipe, or correct the path.
    """

    code = "adapter"
    exit_code = 4


class BackendError(FslmError):
    """What turns a prompt into text failed.

    The server does not answer or answers nonsense, the device cannot be used, the model's output is no number, the
    grammar broke off. The kinds below it tell the two causes that a caller can mend.

    Next: ``fslm doctor`` looks at the machine; a server's own log says more. A run may be tried again.
    """

    code = "backend"


class ContextOverflowError(BackendError):
    """Prompt and output do not fit the model's context.

    The rendered prompt and the room kept for the answer (``max_tokens``) are together longer than the model can read.
    Nothing is cut off in silence.

    Next: shorten the input or the template, lower ``max_tokens``, or let the stage cut its input with
    ``on_overflow="truncate"``.
    """

    code = "context-overflow"


class CapabilityError(BackendError):
    """A stage needs what the backend does not offer.

    Scoring of choices, log-probabilities, several outputs at once: not every server has them.

    Next: use the torch backend for this stage, or change the stage's decoding.
    """

    code = "capability"


class StageFailedError(FslmError):
    """A step gave no valid message; ``attempts`` keeps every text it wrote and what was wrong with it.

    The text was cut off, did not fit the output model, or a plugin's check refused it, at every attempt the stage
    allows. No text is repaired and no earlier step's message is changed.

    Next: ``fslm trace show last`` shows the prompt and every attempt. Allow more ``attempts`` with a temperature above
    0, train the stage on such inputs, or mend the check.
    """

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
    """A tool stage's function raised, timed out or returned the wrong type.

    A tool is the plugin author's own Python; what it raises ends its step alone and is kept as ``__cause__``.

    Next: mend the function, or raise ``@tool(timeout=…)``.
    """

    code = "tool"


class RunFailed(FslmError):
    """A run ended without an output. ``run`` is what there is of it, ``error`` the reason.

    ``engine.run`` and ``arun`` raise it; its text, ``to_dict()`` and exit code are those of ``error``, which is of the
    kind that names the cause. ``map`` and ``amap`` give the run back in place of raising.

    Next: look at ``failed.error`` and at ``failed.run``; its trace is shown by ``fslm trace show``.
    """

    code = "run-failed"

    def __init__(self, run: Any, error: FslmError) -> None:
        self.run = run
        self.error = error
        super().__init__(error.what, where=error.where, hint=error.hint)
        self.found, self.expected = error.found, error.expected
        self.exit_code = error.exit_code

    def __str__(self) -> str:
        return str(self.error)

    def to_dict(self) -> dict[str, Any]:
        return self.error.to_dict()

    @property
    def notes(self) -> tuple[str, ...]:
        return (*self.error.notes, *super().notes)


class ReviewNeeded(FslmError):
    """A run ended at a question that a person is to decide: no step was sure enough.

    A :class:`~fslm_core.Cascade` with ``then="review"`` raises it where its last step abstains. Nothing went wrong, so
    no error policy and no fallback takes its place: the run ends with ``run.status == "review"``. ``engine.run``,
    ``arun`` and ``map`` give that run back; ``run.output`` raises this error, for there is none.

    Next: look at ``run.messages[error.step]``: its ``content`` is what the last step would have said, ``abstained`` the
    fields it was not sure of, ``alternatives`` what else it thought of. Let a person decide, or lower the threshold;
    ``fslm calibrate STACK DATA`` says what that costs.

    Args:
        step: the path of the message that was not sure enough, in ``run.messages``; None where no step gave one.
        fields: those of its fields that are to be decided.
    """

    code = "review"
    exit_code = 6

    def __init__(
        self,
        what: str,
        *,
        where: str | None = None,
        step: str | None = None,
        fields: Sequence[str] = (),
        found: object = None,
        hint: str | None = None,
    ) -> None:
        self.step = step
        self.fields = tuple(fields)
        super().__init__(what, where=where, found=found, hint=hint)


class EngineBusy(FslmError):
    """More runs are in flight than the engine admits; try again or raise ``max_in_flight``.

    ``run`` and ``arun`` do not queue without bound; ``map`` and ``amap`` wait in place of raising.

    Next: answer 503 with ``Retry-After`` in a service, try again after a pause elsewhere, or open the engine with a
    larger ``max_in_flight``.
    """

    code = "engine-busy"
    exit_code = 5


class DeadlineExceeded(FslmError):
    """The time allowed for a run has passed; its work was stopped.

    The ``timeout`` of the run, counted from its beginning: once its stack is loaded and it is let in. Waiting for the
    model beside other runs counts.

    Next: allow more time, let fewer runs in at once, or ask for fewer tokens.
    """

    code = "deadline"


class SessionConflict(FslmError):
    """Another run wrote the session, or somebody forgot it, after this run had read it.

    Within one engine the turns of a session wait for each other, so it comes of two engines, in one process or two. The
    other's state stays as it is; what this run would have remembered is given up, and the run failed.

    Next: run the turn again: it then begins with what the other wrote. Let one process have a session at a time.
    """

    code = "session-conflict"
    exit_code = 5


class StoreError(FslmError):
    """The trace database, or the session store, is locked, full, corrupt, read-only or of a newer version.

    Also: there is no trace yet, or the file is some other database. A run whose beginning cannot be recorded does not
    start; ``trace.on_failure = "continue"`` lets runs go on without a trace, with a warning.

    Next: do what the text says to the file it names, or set ``trace.path`` to another one.
    """

    code = "store"
    exit_code = 4


class DataError(FslmError):
    """A table of rows, its columns, or what was asked of it.

    A file that is no table or cannot be read, a column that is not there or is there twice, rows that do not fit the
    stage's models, labels that contradict each other, a folder that is already full. Nothing was written.

    Next: mend the table, name the column with ``--map FIELD=COLUMN``, or choose what the text offers; ``fslm data
    prepare … --dry-run`` shows everything that was found and writes nothing.
    """

    code = "data"
    exit_code = 2


class GateError(FslmError):
    """Another environment's fslm cannot be asked, or its process ended before it had answered.

    ``fslm plugins gate`` runs another version of a plugin with the Python that it is given: there is no such file, its
    environment has no fslm-core, the check there refuses the stack, or the process died half-way, in which case the
    rows that both versions answered are compared all the same.

    Next: run the same Python by hand, ``PYTHON -m fslm_core check STACK``, and mend what it says.
    """

    code = "gate"
    exit_code = 4


class TrainError(FslmError):
    """A recipe, its data, or a training run.

    A recipe with an unknown key or a value out of range, data that is not there, is empty or does not fit the stage's
    models, targets the base does not have, an adapter that cannot be written.

    Next: mend the recipe or the rows that are named; nothing was trained.
    """

    code = "train"
    exit_code = 2


class TrainInterrupted(TrainError):
    """Training was stopped by Ctrl-C; the text says where it stands and how to go on.

    Before the first checkpoint nothing remains; after it the run goes on from the last one.

    Next: the same command with ``--resume``.
    """

    code = "train-interrupted"
    exit_code = 130


class SystemRefusedError(FslmError):
    """The operating system refused the command line something.

    A file that is not there or not yours, a full disk, a closed standard output. Python programs get the ``OSError``
    itself.

    Next: do what the system's words say about the path that is named.
    """

    code = "system"
    exit_code = 4
    exit_code = 4


class InternalError(FslmError):
    """Something raised that nobody foresaw: a fault in fslm, or in the code of a plugin.

    The command line makes it of every exception that is not an ``FslmError``, so that no traceback reaches a user.

    Next: run the same command as ``fslm --debug …`` and report what it shows; a traceback through a plugin's file is
    for the plugin's author.
    """

    code = "internal"
    exit_code = 70
