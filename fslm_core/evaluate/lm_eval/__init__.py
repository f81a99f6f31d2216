"""Stacks as a model of lm-eval, EleutherAI's Language Model Evaluation Harness.

``fslm_core`` names :class:`.model.StackLM` in the entry-point group ``lm_eval.models``, where releases of lm-eval after
0.4.13 look for models of other packages. 0.4.13 and those before it look nowhere: :func:`register` tells them, and
``python -m fslm_core.evaluate.lm_eval run …`` is their command line with the model in it.

Importing this imports no lm-eval. Needs the extra ``fslm-core[lm-eval]``.
"""

from __future__ import annotations

from importlib import import_module

from ...extras import require

NAME = "fslm"
"""What the model is called there."""


def register() -> None:
    """Make the model ``fslm`` known to the lm-eval of this process, whatever its version.

    Raises:
        MissingExtraError: lm-eval is not installed.
    """
    require(["lm_eval"], extra="lm-eval", what="the bridge to lm-eval")
    import_module("lm_eval.models")  # its own are named first: it would not do so once one is known
    from lm_eval.api.registry import model_registry

    if NAME not in model_registry:
        model_registry.register(NAME, target=f"{__name__}.model:StackLM")


__all__ = ["NAME", "register"]
