"""What is installed, under control: shown, verified, locked, and put back as it was."""

from __future__ import annotations

from .locking import Written, check, previous_of, write
from .restore import Plan, Restored, install, lock_before, plan, restore
from .show import PluginPage, describe
from .verify import Difference, Verification, verify

__all__ = [
    "Difference",
    "Plan",
    "PluginPage",
    "Restored",
    "Verification",
    "Written",
    "check",
    "describe",
    "install",
    "lock_before",
    "plan",
    "previous_of",
    "restore",
    "verify",
    "write",
]
