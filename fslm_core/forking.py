"""Locks and forks: a child inherits the locks of its parent as they are, but not the threads that would release them.

Whatever fslm does under such a lock, on whatever thread, a fork waits for it.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import Any

ForkLock = Any
"""A reentrant lock (``threading.RLock`` is a function and no type)."""


def lock_that_forks_wait_for(*, in_child: Callable[[], None] | None = None) -> ForkLock:
    """A new reentrant lock, which no process is forked while another thread holds.

    Args:
        in_child: called in a forked child before the lock is released there.
    """
    lock = threading.RLock()

    def release() -> None:
        if in_child is not None:
            in_child()
        lock.release()

    if hasattr(os, "register_at_fork"):
        os.register_at_fork(before=lock.acquire, after_in_parent=lock.release, after_in_child=release)
    return lock


imports = lock_that_forks_wait_for()
"""Held while a module is imported on a thread: Python keeps a lock for each module that is being imported."""

__all__ = ["ForkLock", "imports", "lock_that_forks_wait_for"]
