"""Makes a stack ready to run: check it, get its checkpoints, warm its models; each stack once."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from typing import Any

from ..backends.protocol import Backend
from ..checkpoints import Checkpoint, Progress, ResolvedCheckpoint, resolve
from ..forking import imports
from ..message import Origin
from ..plugins import PluginHost
from ..settings import Settings
from ..stack import Node, Shape, Stack, places
from ..stage import Stage
from ..store import marks_of
from .check import Report, check_stack
from .here import fingerprint_of, stack_drift
from .lock import Lock, refuse
from .models import Model, disagreements
from .shadow import Candidate
from .threads import in_thread
from .tokens import tokenizer_bases, tokenizer_of
from .walk import Prepared

log = logging.getLogger("fslm")


class Preparer:
    """Prepares stacks for one engine. Used on the engine's loop only."""

    def __init__(
        self,
        backend: Backend,
        host: PluginHost,
        settings: Settings,
        *,
        strict: bool,
        progress: Progress | None,
        lock: Lock | None,
    ) -> None:
        self._backend = backend
        self._host = host
        self._settings = settings
        self._strict = strict
        self._progress = progress
        self._lock = lock
        self._ready: dict[Stack[Any, Any], Prepared] = {}
        self._underway: dict[Stack[Any, Any], asyncio.Task[Prepared]] = {}
        self._resolved: dict[str, ResolvedCheckpoint] = {}

    async def prepare(self, stack: Stack[Any, Any]) -> Prepared:
        """Return the stack ready to run; whoever asks meanwhile waits for the same work.

        Raises:
            CheckError: the stack was refused.
            LockError: one of its stages or checkpoints is not what was locked.
            MissingExtraError: its models need packages that are not installed.
            CheckpointError, AdapterError: its models cannot be had or loaded.
        """
        if stack not in self._ready:
            if stack not in self._underway:
                self._underway[stack] = asyncio.create_task(self._load(stack))
                self._underway[stack].add_done_callback(_seen)
            try:
                self._ready[stack] = await asyncio.shield(self._underway[stack])
            finally:
                if stack in self._underway and self._underway[stack].done():
                    del self._underway[stack]
        return self._ready[stack]

    async def close(self) -> None:
        """Give up what is under way. A download or a conversion that has begun ends by itself; nobody waits for it."""
        for task in self._underway.values():
            task.cancel()
        await asyncio.gather(*self._underway.values(), return_exceptions=True)

    async def _load(self, stack: Stack[Any, Any]) -> Prepared:
        report = await in_thread(self._check, stack)
        report.raise_if_refused()
        for warning in report.warnings:
            log.warning("stack %s: %s", stack.name, warning)
        models = {s.name: s.model for s in report.steps}
        tried = {s.name: s.candidate for s in report.steps if s.candidate is not None and s.share > 0}
        bases = {}
        offers = self._backend.capabilities
        if offers.require is not None and any(models.values()):
            offers.require()  # before a checkpoint is fetched for nothing
        if offers.weights:
            for model in filter(None, models.values()):
                bases[model.checkpoint.name] = await in_thread(self._resolve, model.checkpoint)
        self._recheck(stack, models, bases)
        self._recheck(stack, tried, bases, "candidate: ")
        wanted = tokenizer_bases(stack, self._host)
        cutting = {name: await in_thread(self._resolve, base) for name, base in wanted.items()}
        if self._lock is not None:
            hashes = {base.checkpoint.name: base.sha256 for base in (*bases.values(), *cutting.values())}
            drifts = stack_drift(self._lock, stack, self._host, models, hashes, self._backend.name)
            refuse(drifts, self._settings.lock_file)
        refs = {name: m.ref(bases.get(m.checkpoint.name)) for name, m in models.items() if m is not None}
        ways = dict(zip(refs, await self._backend.warm(list(refs.values())), strict=True))
        origins = {
            path: self._origin(step.node, models[path], bases, ways.get(path, "")) for path, step in places(stack)
        }
        candidates = {
            s.name: await self._candidate(s.step.stage, tried[s.name], bases, s.share)
            for s in report.steps
            if s.name in tried
        }
        tokenizers = {name: await in_thread(tokenizer_of, base) for name, base in cutting.items()}
        return Prepared(stack, refs, origins, marks_of(stack), candidates, tokenizers)

    async def _candidate(
        self, stage: Stage[Any, Any], model: Model, bases: Mapping[str, ResolvedCheckpoint], share: float
    ) -> Candidate:
        ref = model.ref(bases.get(model.checkpoint.name))
        (way,) = await self._backend.warm([ref])
        return Candidate(ref, self._origin(stage, model, bases, way), share)

    def _resolve(self, checkpoint: Checkpoint) -> ResolvedCheckpoint:
        name = checkpoint.name
        if name not in self._resolved:
            self._resolved[name] = resolve(
                checkpoint, self._settings, extra=self._host.checkpoints, progress=self._progress
            )
        return self._resolved[name]

    def _recheck(
        self,
        stack: Stack[Any, Any],
        models: Mapping[str, Model | None],
        bases: Mapping[str, ResolvedCheckpoint],
        which: str = "",
    ) -> None:
        """What could not be checked before the checkpoint was here: the base an adapter was made for."""
        late = Report(stack.name)
        for path, step in places(stack):
            model = models.get(path)
            if model is not None and (base := bases.get(model.checkpoint.name)):
                errors = disagreements(step.stage, model, base.sha256)[0]
                late.errors += (f"step {path}: {which}{e}" for e in errors)
        late.raise_if_refused()

    def _origin(self, stage: Node, model: Model | None, bases: Mapping[str, ResolvedCheckpoint], way: str) -> Origin:
        if isinstance(stage, Shape):
            return Origin(stage.name, input=stage.input, output=stage.output)
        plugin = self._host.owner(stage)
        base = bases.get(model.checkpoint.name) if model else None
        return Origin(
            stage=stage.name,
            plugin=plugin.distribution if plugin else None,
            version=plugin.version if plugin else None,
            model=str(model) if model else None,
            backend=None if stage.tool else f"{self._backend.name} {way}".strip(),
            tuned=model is None or not model.slm.untuned,
            fingerprint=fingerprint_of(stage, model, base.sha256 if base else None, self._backend.name),
            input=stage.input,
            output=stage.output,
        )

    def _check(self, stack: Stack[Any, Any]) -> Report:
        with imports:  # the check is what first imports the grammar's and the tokenizer's libraries
            return check_stack(
                stack,
                host=self._host,
                settings=self._settings,
                capabilities=self._backend.capabilities,
                strict=self._strict,
            )


def _seen(task: asyncio.Task[Prepared]) -> None:
    """Whoever waited was told, or is gone."""
    if not task.cancelled():
        task.exception()


__all__ = ["Preparer"]
