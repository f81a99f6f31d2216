"""Fixtures that several test files share."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def base_model() -> Path:
    """The folder of the built-in base model, in the user's own cache: it is downloaded once a machine."""
    from fslm_core import settings
    from fslm_core.checkpoints import resolve

    return resolve("smollm2-135m", settings.load()).path
