"""A desk whose letters changed: forty runs, and a day later forty others."""

from __future__ import annotations

import time
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlencode

from fslm_core.store import TraceStore

from ..unit.history import NOON, History

if TYPE_CHECKING:
    from fslm_core.evaluate.drifting import Drift

LATER = NOON + 86_400
HOSTILE = "<script>window.hurt=1</script>\x1b[31m"


def changed(folder: Path) -> None:
    """Write them into the trace in ``folder``."""
    history = History(folder)
    try:
        for place in range(40):
            history.run(f"letter {place}", "praise" if place % 4 else HOSTILE, at=NOON + place, sure=0.9)
            much = f"a much longer letter {place}"
            history.run(much, HOSTILE if place % 4 else "praise", at=LATER + place, sure=0.6 + place / 1000)
    finally:
        history.close()


def told(store: TraceStore) -> Drift:
    """What drifted, told without a page."""
    from fslm_core.evaluate.drifting import drift

    return drift(store, "desk", reference=(NOON, LATER), window=(LATER, time.time()))


def at(moment: float) -> str:
    """A moment as people write it."""
    return datetime.fromtimestamp(moment).isoformat()


def address(since: float, until: float) -> str:
    """Where drift since a reference is told."""
    return "/stats?" + urlencode({"stack": "desk", "from": at(since), "until": at(until)})
