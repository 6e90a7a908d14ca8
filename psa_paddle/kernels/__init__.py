"""Pyramid Sparse Attention in Triton (arXiv:2512.04025): one file a step, no framework named.

pyramid -> importance -> select -> attend; ``psa_fwd`` chains them.
"""

from .attend import attend_fwd
from .importance import xattn_fwd
from .operator import psa_fwd, select_blocks
from .pooling import pooling_fwd
from .pyramid import pyramid_fwd
from .selection import Selection, lists_from_levels, select_fwd

__all__ = [
    "Selection",
    "attend_fwd",
    "lists_from_levels",
    "pooling_fwd",
    "psa_fwd",
    "pyramid_fwd",
    "select_blocks",
    "select_fwd",
    "xattn_fwd",
]
