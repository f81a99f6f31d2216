"""The kit that authors of plugins test with: scripted replies, contracts, cases, snapshots, recorded generations.

It needs the extra ``fslm-core[testing]``, and pytest is told of it in ``tests/conftest.py``::

    pytest_plugins = ["fslm_core.testing.plugin"]

>>> from fslm_core.prompt import Template
>>> from pydantic import BaseModel
>>> from fslm_core import tool
>>> class Text(BaseModel):
...     text: str
>>> @tool("demo.shout", version="1", pure=True)
... def shout(message: Text) -> Text:
...     return Text(text=message.text.upper())
>>> run_stage(shout, {"text": "hello"}).assert_ok().output
Text(text='HELLO')
"""

from __future__ import annotations

from .extra import require

require()

from .clean import clean_settings  # noqa: E402
from .contract import PluginContract, StackContract, StageContract, ToolContract  # noqa: E402
from .engine import KitEngine, run_stack, run_stage  # noqa: E402
from .outcome import Outcome  # noqa: E402
from .recording import Recording, record  # noqa: E402
from .replies import Reply, script  # noqa: E402
from .strategies import from_schema, instances  # noqa: E402

__all__ = [
    "KitEngine",
    "Outcome",
    "PluginContract",
    "Recording",
    "Reply",
    "StackContract",
    "StageContract",
    "ToolContract",
    "clean_settings",
    "from_schema",
    "instances",
    "record",
    "run_stack",
    "run_stage",
    "script",
]
