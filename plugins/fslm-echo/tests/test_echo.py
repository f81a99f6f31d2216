"""The plugin as its users meet it: by name, and as Python objects."""

from __future__ import annotations

from importlib.metadata import entry_points

from fslm_core.testing import run_stack, run_stage
from fslm_echo import Echo, Said, echo, say


def test_the_plugin_is_found_by_its_entry_point() -> None:
    (found,) = entry_points(group="fslm", name="echo")
    assert found.value == "fslm_echo"


def test_it_says_back_what_it_is_told() -> None:
    assert run_stack(echo, Said(text="good morning")).output == Echo(echo="good morning")
    assert run_stage(say, Said(text="good morning")).output == Echo(echo="good morning")


def test_it_runs_by_name() -> None:
    assert run_stack("echo", {"text": "שלום 🙂 <|im_end|>"}).output == Echo(echo="שלום 🙂 <|im_end|>")
