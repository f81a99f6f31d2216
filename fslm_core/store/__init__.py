"""The trace database: what happened in a run, kept so that a person can read, replay and question it.

::

    with TraceStore.open(path, content="redacted") as store:
        recorder = store.recorder()
        await recorder.record(RunStarted(…))      # on the disk before the first step starts
        …
        await recorder.record(RunFinished(…))     # on the disk before anyone is told
        store.run("last").nodes
"""

from .beside import Shadowed
from .exporting import Exported
from .forget import Forgotten
from .importing import Imported
from .keep import ContentMode
from .labels import Label
from .marks import marks_of, unmarked
from .outline import Outline, OutlinedNode
from .recorder import OnFailure, Recorder, concerns_all
from .redact import Redactor, bare_error, kind_of, spelt
from .rows import RunRow, StoredAttempt, StoredContent, StoredNode, StoredRun, StoredSpan
from .search import Found
from .sessions import SavedSession, Sessions, check_id
from .store import TraceStore

__all__ = [
    "ContentMode",
    "Exported",
    "Forgotten",
    "Found",
    "Imported",
    "Label",
    "OnFailure",
    "Outline",
    "OutlinedNode",
    "Recorder",
    "Redactor",
    "RunRow",
    "SavedSession",
    "Sessions",
    "Shadowed",
    "StoredAttempt",
    "StoredContent",
    "StoredNode",
    "StoredRun",
    "StoredSpan",
    "TraceStore",
    "bare_error",
    "check_id",
    "concerns_all",
    "kind_of",
    "marks_of",
    "spelt",
    "unmarked",
]
