"""The hooks are one typed file, and every one of them is documented and used."""

from __future__ import annotations

import inspect

import pluggy
import pytest

from fslm_core import hookimpl as public
from fslm_core import hooks


@pytest.mark.parametrize("name", hooks.HOOKS)
def test_a_hook_is_documented_typed_and_never_called_itself(name: str) -> None:
    spec = getattr(hooks, name)
    assert (inspect.getdoc(spec) or "").endswith((".", ")"))
    assert "return" in spec.__annotations__
    assert set(inspect.signature(spec).parameters) == set(spec.__annotations__) - {"return"}
    with pytest.raises(NotImplementedError):
        spec(*[None] * len(inspect.signature(spec).parameters))


def test_the_specs_are_pluggys_and_the_marker_is_public() -> None:
    manager = pluggy.PluginManager(hooks.PROJECT)
    manager.add_hookspecs(hooks)
    assert set(vars(manager.hook)) >= set(hooks.HOOKS)
    assert public is hooks.hookimpl
    assert (hooks.PROJECT, hooks.GROUP) == ("fslm", "fslm")
