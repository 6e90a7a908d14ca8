"""What ``select_fwd`` may be given: shapes that disagree would be read past their end."""

from __future__ import annotations

from typing import NamedTuple

from .. import bridge
from ..bridge import Tensor
from ..geometry import ceil_div
from ..plan import Plan
from .common import check_buffer


class Scores(NamedTuple):
    """What selection goes by: ``xattn_fwd``'s result, see there; or ``scores`` alone, an importance map float32 [B, H,
    nI, nJ]; or, with one interval, where importance does not matter, any tensor [B, H, ...] that tells batch, heads and
    device. query_stride: 0 for all but ``xattn_fwd``'s."""

    scores: Tensor
    tops: Tensor | None = None
    tile: int = 0
    query_stride: int = 0


def check_scores(given: Scores, plan: Plan, lq: int, lk: int, cap, kv_start) -> None:
    """Refuse scores, a cap, a kv_start or budgets that do not fit ``lq`` queries, ``lk`` keys and each other.

    Raises:
        TypeError, ValueError
    """
    scores, tops, tile, query_stride = given
    (batch, heads), query_block = scores.shape[:2], plan.query_block
    n_i, n_j = ceil_div(lq, query_block), ceil_div(lk, plan.key_block)
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
    elif plan.bounds:
        check_buffer("scores", scores, "float32", [batch, heads, n_i, n_j], scores)
    check_cap(cap, plan, lk, scores)
    if kv_start is not None:
        check_buffer("kv_start", kv_start, "int32", [batch], scores)
    check_budgets(plan, heads)


def check_cap(cap, plan: Plan, lk: int, like) -> None:
    """Refuse a cap that does not fit the batch and the query heads of ``like`` [B, H, ...] and ``lk`` keys.

    Raises:
        ValueError
    """
    if cap is None:
        return
    batch, heads = like.shape[:2]
    if len(cap.shape) != 3 or not cap.shape[1] or heads % cap.shape[1]:
        raise ValueError(f"cap must be [B, Hkv, nJ] with heads that divide {heads}, got {list(cap.shape)}.")
    check_buffer("cap", cap, "int8", [batch, cap.shape[1], ceil_div(lk, plan.key_block)], like)


def check_budgets(plan: Plan, heads: int) -> None:
    """Refuse budgets that are not factors of shares by rank, one for each head.

    Raises:
        ValueError
    """
    if plan.budgets is not None and (plan.mask_mode == "energybound" or len(plan.budgets) != heads):
        raise ValueError(f'budgets must be {heads} factors, one for each query head, in mode "topk" or "topk_sqrt".')
