"""The same request with dense attention."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack, contextmanager

from ..integrations.language.inference import QwenVLInference
from ..integrations.language.paddleformers.linear_memory import linear_memory_in
from ..integrations.language.plugs import suspended
from .page import Dense


@contextmanager
def dense_in(model: QwenVLInference):
    """``with dense_in(model): ...`` answers as a model that was loaded without sparse attention; afterwards the same
    plug is in force, with its statistics."""
    with ExitStack() as stack:
        stack.enter_context(suspended(model))
        if model.library == "paddleformers":
            stack.enter_context(linear_memory_in(model.model))
        yield model


def ask_dense(model: QwenVLInference, ask: Callable[[], str]) -> Dense:
    """What dense attention answers to ``ask``, and its statistics; ``model.stats()`` afterwards are those of before."""
    with model.keeping_stats(), dense_in(model):
        return Dense(ask(), model.stats())
