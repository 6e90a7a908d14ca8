"""Token orders in which the operator's blocks are coherent: ``Gilbert``, ``STA``, ``SemanticAware``, ``Hybrid``."""

from .methods import METHODS, STA, Gilbert, Hybrid, Rearrangement, SemanticAware
from .permutation import Permutation

__all__ = ["METHODS", "STA", "Gilbert", "Hybrid", "Permutation", "Rearrangement", "SemanticAware"]
