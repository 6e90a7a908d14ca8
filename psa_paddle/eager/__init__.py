"""Pyramid Sparse Attention in Paddle ops: any Paddle device, memory linear in the length."""

from .operator import attend_levels, dense_attention, importance, psa_attention, select

__all__ = ["attend_levels", "dense_attention", "importance", "psa_attention", "select"]
