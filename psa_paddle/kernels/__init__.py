"""Pyramid Sparse Attention in Triton (arXiv:2512.04025): one file a step, no framework named.

pyramid, means -> importance -> select -> attend; ``psa_fwd`` chains them. ``audit_fwd`` checks what came out. Token
orders: permute, kmeans, sort.
"""

from .attend import Pooled, attend_fwd
from .audit import audit_fwd
from .importance import xattn_fwd
from .kmeans import cluster_tokens
from .lists import Selection, lists_from_levels
from .means import means_fwd
from .operator import psa_fwd, select_blocks
from .permute import permute_tokens, restore_tokens, token_index
from .pooling import pooling_fwd
from .pyramid import pyramid_fwd
from .selection import select_fwd
from .selection_inputs import Scores

__all__ = [
    "Pooled",
    "Scores",
    "Selection",
    "attend_fwd",
    "audit_fwd",
    "cluster_tokens",
    "lists_from_levels",
    "means_fwd",
    "permute_tokens",
    "pooling_fwd",
    "psa_fwd",
    "pyramid_fwd",
    "restore_tokens",
    "select_blocks",
    "select_fwd",
    "token_index",
    "xattn_fwd",
]
