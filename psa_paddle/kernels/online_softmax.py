"""One tile of an online softmax in base 2, for the Triton kernels of attention.

Source: FlashAttention (arXiv:2205.14135).
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def load_rows(p, m_d, EVEN_D: tl.constexpr):
    """p [T, BLOCK_D]; m_d [1, BLOCK_D], which of the columns exist: all with EVEN_D."""
    if EVEN_D:
        return tl.load(p)
    return tl.load(p, mask=m_d, other=0.0)


@triton.jit
def softmax_step(b_o, b_l, b_m, b_q, b_k, b_v, scale, bias, m_s, MASKED: tl.constexpr):
    """Take one tile in. b_q [M, D], b_k and b_v [T, D] in the inputs' dtype; float32: b_o [M, D], the weighted sum of
    values, b_l [M], the sum of weights, and b_m [M], log2 of what both were divided by.

    scale is positive and in base 2. bias is log2 of the tokens that a key stands for: a scalar, or MASKED: [1, T], with
    m_s [M or 1, T], true where the row sees the key.
    """
    b_s = tl.dot(b_q, tl.trans(b_k), input_precision="ieee")  # [M, T]
    if MASKED:
        b_s = tl.where(m_s, b_s * scale + bias, -float("inf"))
        b_top = tl.maximum(b_m, tl.max(b_s, 1))
        b_ref = tl.where(b_top == -float("inf"), 0.0, b_top)  # a row that saw nothing yet
        b_p = tl.exp2(b_s - b_ref[:, None])
    else:
        b_top = tl.maximum(b_m, tl.max(b_s, 1) * scale + bias)
        b_ref = b_top
        b_p = tl.exp2(b_s * scale - (b_top - bias)[:, None])
    b_alpha = tl.exp2(b_m - b_ref)
    b_l = b_l * b_alpha + tl.sum(b_p, 1)
    b_o = tl.dot(b_p.to(b_v.dtype), b_v, b_o * b_alpha[:, None], input_precision="ieee")
    return b_o, b_l, b_top
