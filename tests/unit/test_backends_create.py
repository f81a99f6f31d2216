"""Backends by name."""

from __future__ import annotations

import subprocess
import sys

import pytest

from fslm_core import settings
from fslm_core.backends import create
from fslm_core.backends.protocol import Backend
from fslm_core.backends.scripted import ScriptedBackend
from fslm_core.errors import UnknownNameError

DEFAULTS = settings.Settings()


def test_an_unknown_name_offers_near_ones() -> None:
    with pytest.raises(UnknownNameError, match="no backend named 'tourch'") as caught:
        create("tourch", DEFAULTS)
    assert caught.value.hint == "did you mean 'torch'?"


def test_a_plugin_may_offer_one_but_not_replace_a_built_in() -> None:
    made = ScriptedBackend()
    assert create("mine", DEFAULTS, extra={"mine": lambda _: made}) is made
    assert create("openai", DEFAULTS, extra={"openai": lambda _: made}) is not made


def test_every_backend_is_one() -> None:
    assert isinstance(create("openai", DEFAULTS), Backend)
    assert isinstance(ScriptedBackend(), Backend)


@pytest.mark.torch
def test_making_a_backend_imports_neither_torch_nor_an_http_client() -> None:
    script = (
        "import sys; from fslm_core import settings; from fslm_core.backends import create;"
        "[create(n, settings.Settings()) for n in ('torch', 'openai')];"
        "print([m for m in ('torch', 'transformers', 'peft', 'llguidance', 'httpx2') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
