"""What ``select_fwd`` may be given: shapes that disagree would be read past their end."""

from __future__ import annotations

from .. import bridge
from .common import ceil_div, check_buffer


def check_scores(
    scores, tops, tile: int, cap, kv_start, *, batch: int, heads: int, blocks: tuple[int, int], lq: int,
    query_block: int, query_stride: int, needed: bool,
) -> None:  # fmt: skip
    """Refuse scores, tops, a cap or a kv_start that do not fit ``batch``, ``heads`` and ``blocks`` = (nI, nJ);
    ``needed``: there are two intervals at least, so that the scores are read.

    Raises:
        TypeError, ValueError
    """
    n_i, n_j = blocks
    if tops is not None:
        if query_stride < 1 or query_block % query_stride or tile < 1:
            raise ValueError(
                f"tops need xattn's tile and query_stride, a divisor of {query_block}; got {tile} and {query_stride}."
            )
        n_a = ceil_div(lq, query_stride)
        dtype = "bfloat16" if bridge.dtype_name(scores) == "bfloat16" else "float32"
        check_buffer("scores", scores, dtype, [batch, heads, n_a, n_j], scores)
        check_buffer("tops", tops, "float32", [batch, heads, ceil_div(n_j, tile), n_a], scores)
    elif query_stride:
        if query_stride < 1 or query_block % query_stride or tile:
            raise ValueError(
                f"peaks need xattn's query_stride, a divisor of {query_block}, and no tile; got {query_stride}, {tile}."
            )
        dtype = "float16" if bridge.dtype_name(scores) == "float16" else "float32"
        check_buffer("scores", scores, dtype, [batch, heads, ceil_div(lq, query_stride), n_j], scores)
    elif needed:
        check_buffer("scores", scores, "float32", [batch, heads, n_i, n_j], scores)
    if cap is not None:
        if len(cap.shape) != 3 or not cap.shape[1] or heads % cap.shape[1]:
            raise ValueError(f"cap must be [B, Hkv, nJ] with heads that divide {heads}, got {list(cap.shape)}.")
        check_buffer("cap", cap, "int8", [batch, cap.shape[1], n_j], scores)
    if kv_start is not None:
        check_buffer("kv_start", kv_start, "int32", [batch], scores)
