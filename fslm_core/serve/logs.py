"""Standard logging that knows its run: what engines do as log records, and run ids on a program's own.

An engine logs of itself only what goes wrong beside its runs. Who wants more gives it a :class:`RunLog`, and who wants
to know which run a line of their own belongs to puts an :class:`InRun` on a handler::

    handler = logging.StreamHandler()
    handler.addFilter(InRun())
    handler.setFormatter(logging.Formatter("%(levelname)s %(run)s %(step)s %(message)s"))

Records carry ``run``, ``stack`` and ``step``. No text of a message is logged, nor what an error quotes: names, codes
and kinds, as for :class:`~fslm_core.serve.metrics.Metrics`.
"""

from __future__ import annotations

import logging

from ..engine.within import Within, current_run
from ..events import (
    AttemptFailed,
    Event,
    EventsDropped,
    MessageEmitted,
    RecordsLost,
    RunFinished,
    RunRefused,
    RunStarted,
    ShadowFinished,
    StepSkipped,
)
from ..store import kind_of

_NOWHERE = Within("", "", "")
_WRONG = frozenset({"failed", "cancelled"})


class InRun(logging.Filter):
    """Gives each record ``run``, ``stack`` and ``step``: those of the run that logged it, empty outside of any.

    It lets every record pass, and leaves alone what a record says itself. Put it on a handler: a filter on a logger
    sees that logger's own records only.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """Mark a record."""
        here = current_run() or _NOWHERE
        for name in Within.__slots__:
            if not hasattr(record, name):
                setattr(record, name, getattr(here, name))
        return True


class RunLog:
    """Logs an engine's runs: ``Engine(…, observers=[RunLog()])``.

    That a run began and how it ended is INFO, or WARNING where it failed; its steps are DEBUG, an attempt without a
    valid message INFO. What is refused, dropped or lost is a WARNING.

    Args:
        logger: where to; ``fslm.runs`` by default.
    """

    def __init__(self, logger: logging.Logger | None = None) -> None:
        self._log = logger or logging.getLogger("fslm.runs")

    def __call__(self, event: Event) -> None:
        """Log one event. Engines call it, on one thread, with the context variables of the run."""
        match event:
            case RunStarted():
                self._say(logging.INFO, event.run, "", "run started", stack=event.stack)
            case RunFinished():
                wrong = event.status in _WRONG
                code = f": {event.error.code}" if event.error is not None else ""
                said = f"run {event.status} after {event.seconds:.3f} s{code}"
                self._say(logging.WARNING if wrong else logging.INFO, event.run, "", said, stack=event.stack)
            case MessageEmitted():
                message, tries = event.message, len(event.message.attempts)
                again = f", {tries} attempts" if tries > 1 else ""
                unsure = f", unsure of {', '.join(message.abstained)}" if message.abstained else ""
                said = f"step ok in {message.usage.seconds:.3f} s{again}{unsure}"
                self._say(logging.DEBUG, event.run, message.step, said)
            case AttemptFailed():
                kinds = ", ".join(dict.fromkeys(map(kind_of, event.attempt.problems))) or "no message"
                self._say(logging.INFO, event.run, event.step, f"attempt {event.attempt.index + 1} failed: {kinds}")
            case StepSkipped():
                failed = event.skipped.code
                why = f": it failed with {failed}" if failed else ""
                self._say(logging.DEBUG, event.run, event.skipped.step, f"step skipped{why}")
            case ShadowFinished():
                self._say(logging.DEBUG, event.run, event.step, f"candidate {event.status}")
            case RunRefused():
                self._say(logging.WARNING, "", "", "run refused: the engine is busy", stack=event.stack)
            case RecordsLost():
                self._log.warning("%d records are missing from the trace", event.count, extra=_extra("", "", ""))
            case EventsDropped():
                self._log.warning("%d events were not seen: observers are slow", event.count, extra=_extra("", "", ""))
            case _:
                pass

    def _say(self, level: int, run: str, step: str, said: str, *, stack: str = "") -> None:
        if self._log.isEnabledFor(level):
            here = current_run() or _NOWHERE
            self._log.log(level, "%s", said, extra=_extra(run, stack or here.stack, step))


def _extra(run: str, stack: str, step: str) -> dict[str, str]:
    return {"run": run, "stack": stack, "step": step}


__all__ = ["InRun", "RunLog", "Within", "current_run"]
