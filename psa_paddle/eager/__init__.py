"""Pyramid Sparse Attention in Paddle ops: any Paddle device, memory linear in the length."""

from .audit import audit_sums
from .mass import key_mass
from .operator import attend_levels, dense_attention, importance, level_map, psa_attention, select
from .tokens import cluster_tokens, permute_tokens, restore_tokens, token_index

__all__ = [
    "attend_levels",
    "audit_sums",
    "cluster_tokens",
    "dense_attention",
    "importance",
    "key_mass",
    "level_map",
    "permute_tokens",
    "psa_attention",
    "restore_tokens",
    "select",
    "token_index",
]
