"""What was measured on an H200: the figures of benchmarks/results that times are derived from. Tests hold them to the
rows there."""

from __future__ import annotations

from typing import NamedTuple


class Operator(NamedTuple):
    """Milliseconds of attention of one layer by tokens, and of the longest its parts: the estimate with the selection,
    and the attention itself."""

    by_tokens: dict[int, float]
    estimate: float
    attend: float


HEADS, HEAD_DIM = 28, 128  # of the operator's rows
# operator_presets.csv: psa_ms; importance_ms + select_ms and attend_ms. Dense: dense_cudnn_ms beside ``balanced``.
OPERATOR = {
    "dense": Operator({32768: 12.7, 65536: 50.0, 131072: 210.0}, 0.0, 210.0),
    "quality": Operator({32768: 3.76, 65536: 11.0, 131072: 33.2}, 7.50 + 1.05, 24.9),
    "balanced": Operator({32768: 2.2, 65536: 6.57, 131072: 20.8}, 7.51 + 1.08, 12.3),
    "fast": Operator({32768: 1.47, 65536: 4.53, 131072: 14.8}, 7.51 + 1.02, 6.17),
}
# prefill.csv: floor_ms, Qwen2.5-VL-7B's text model without its attention.
FLOOR_TOKENS, FLOOR_MS, FLOOR_MODEL = 65536, 1634.0, "Qwen2.5-VL-7B"
# tensor_parallel.csv: reduce_ms, a sum over two GPUs of [131072, 3584] in bfloat16; a layer makes two.
SUM_MS, SUM_BYTES = 3.17, 131072 * 3584 * 2
# MiB that nvidia-smi reports.
GPU_MIB = {"H100": 81559, "H200": 143771}
