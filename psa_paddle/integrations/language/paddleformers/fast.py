"""Make a model of PaddleFormers or PaddleMIX compute what it is with less work, and stop doing so."""

from __future__ import annotations

from contextlib import contextmanager

from ...patches import Patches
from .. import families
from ..plugs import bare_model
from .norms import connect_norms
from .tower import FastTower

FAST = "_psa_fast"  # attribute of a model whose layers are fast: their ``Patches``; gone afterwards


def _patches_of(model) -> Patches | None:
    return getattr(bare_model(model), "__dict__", {}).get(FAST)


def use_fast_layers(model):
    """Let a model see, and one of PaddleFormers normalise on a CPU, with less work, until ``use_own_layers``.

    The outcome is equal to rounding; pictures, frames and windows stay what they are. Where gradients are wanted, the
    tower attends as before. Returns the model.

    Raises:
        TypeError: not such a model.
    """
    bare = bare_model(model)
    match = families.check(bare)
    tower = match.layout.tower_of(bare)
    if _patches_of(bare) is None:
        patches = Patches()
        patches.attribute(bare, FAST, patches)
        if match.library == "paddleformers":
            connect_norms(bare, patches)
        if tower is not None:
            FastTower().connect(tower, patches)
    return model


def use_own_layers(model):
    """Undo ``use_fast_layers``; does nothing on a model without it. Returns the model."""
    patches = _patches_of(model)
    if patches is not None:
        patches.undo()
    return model


@contextmanager
def fast_layers_in(model):
    """``with fast_layers_in(model): ...`` puts back what was before, whatever happens inside."""
    before = _patches_of(model)
    try:
        yield use_fast_layers(model)
    finally:
        if before is None:
            use_own_layers(model)
