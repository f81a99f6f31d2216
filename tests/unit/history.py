"""Runs of a small desk, written into a trace as a recorder writes them, at moments of the test's own choice."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from fslm_core.events import AttemptFailed, MessageEmitted, RunFinished, RunStarted, StepSkipped
from fslm_core.message import Attempt, Marks, Message, Origin, Problem, Skipped, Usage, node_id
from fslm_core.prompt import Template
from fslm_core.schema import content_id
from fslm_core.store import ContentMode, TraceStore

NOON = 1_750_000_000.0
"""When the first run begins, unless the test says otherwise."""
_PROMPT = Template("What kind of letter is this? {{ text }}")


class Letter(BaseModel):
    """What a run is given."""

    text: str
    pages: int = 1


class Kind(BaseModel):
    """What its first step says."""

    kind: str
    urgent: bool = False


class Reply(BaseModel):
    """What its second step says, unless it is skipped."""

    reply: str | None


_KIND, _REPLY = (
    Origin(f"desk.{name}", "fslm-desk", "1", "scripted", "scripted", True, name * 8, Letter, model)
    for name, model in (("kind", Kind), ("reply", Reply))
)


class History:
    """Writes runs, one after the other; each call of :meth:`run` is one."""

    def __init__(self, folder: Path, content: ContentMode = "full") -> None:
        self.path = folder / "trace.db"
        self.store = TraceStore.open(self.path, content=content)
        self.count = 0

    def run(
        self,
        text: str = "a letter",
        kind: str = "complaint",
        *,
        at: float = NOON,
        stack: str = "desk",
        status: str = "succeeded",
        tries: int = 1,
        failed: bool = False,
        reply: str | None = "sorry",
        skipped: str = "",
        sure: float = 0.9,
        abstained: bool = False,
        seconds: float = 0.25,
        parent: str = "",
        step: str = "kind",
        marks: Marks | None = None,
        **more: Any,
    ) -> str:
        """One run; returns its id."""
        run = f"01run{self.count:021d}"
        self.count += 1
        given = self._message(run, "input", Letter(text=text, **more))
        events: list[Any] = [RunStarted(run, stack, given, 0, at, "scripted", {}, marks=marks, parent=parent)]
        if tries > 1 or failed:
            wrong = Attempt(0, _PROMPT.render({"text": text}), "{", (Problem("json", "no"),), Usage(seconds=seconds))
            events.append(AttemptFailed(run, step, node_id(run, step), wrong, _KIND, (), at))
        if not failed:
            events.append(MessageEmitted(run, self._kind(run, step, kind, at, tries, sure, abstained, seconds)))
        if skipped:
            events.append(StepSkipped(run, Skipped("reply", node_id(run, "reply"), skipped)))
        elif not failed:
            events.append(
                MessageEmitted(run, self._message(run, "reply", Reply(reply=reply), origin=_REPLY, started=at))
            )
        ended = "failed" if failed and not skipped else status
        if status != "running":
            events.append(RunFinished(run, stack, ended, at + seconds, seconds, None))
        recorder = self.store.recorder()
        for event in events:
            recorder.record_sync(event)
        return run

    def runs(self, texts: Iterable[str], **rest: Any) -> None:
        """A run for each text, a second apart."""
        begin = rest.pop("at", NOON)
        for place, text in enumerate(texts):
            self.run(text, at=begin + place, **rest)

    def close(self) -> None:
        """Let go of the trace."""
        self.store.close()

    def _kind(
        self, run: str, step: str, kind: str, at: float, tries: int, sure: float, abstained: bool, seconds: float
    ) -> Message[Any]:
        usage = Usage(prompt=40, cached=8, output=6, forced=4, forwards=2, seconds=seconds)
        attempts = tuple(
            Attempt(index, _PROMPT.render({"text": ""}), "", usage=usage if index == tries - 1 else Usage())
            for index in range(tries)
        )
        return self._message(
            run,
            step,
            Kind(kind=kind),
            place=node_id(run, step, 0, tries - 1),
            attempts=attempts,
            usage=usage,
            origin=_KIND,
            started=at,
            confidence={"kind": sure, "urgent": 1.0},
            abstained=("kind",) if abstained else (),
        )

    @staticmethod
    def _message(run: str, step: str, content: BaseModel, place: str = "", **rest: Any) -> Message[Any]:
        return Message(step, content, place or node_id(run, step), content_id(content), **rest)


__all__ = ["NOON", "History", "Kind", "Letter", "Reply"]
