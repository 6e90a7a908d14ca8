"""Where the parts of a PaddleFormers model read the name of their attention in its registry."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple


class NamePlace(NamedTuple):
    """An attribute that holds the name."""

    owner: Any
    attribute: str

    def get(self) -> str:
        """The name."""
        return getattr(self.owner, self.attribute)

    def set(self, name: str) -> None:
        """Put another name there."""
        setattr(self.owner, self.attribute, name)


def places_of(layers: Iterable, *configs) -> list[NamePlace]:
    """Every place of attention layers and of configurations beside theirs, each once.

    The library makes masks by the configurations; layers ask them too, or, as ERNIE-4.5's, keep a name of their own.
    """
    layers = list(layers)
    shared = {id(config): config for config in (*configs, *(layer.config for layer in layers))}
    places = [NamePlace(config, "_attn_implementation") for config in shared.values()]
    return places + [NamePlace(x, "attn_implementation") for x in layers if hasattr(x, "attn_implementation")]
