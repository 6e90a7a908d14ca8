"""What a prompt takes before anybody runs it: memory of each GPU by formulas, time from measured rows. Needs neither
Paddle nor a GPU; ``psa-paddle plan`` prints it."""

from .advice import fewest_gpus, fits, largest_chunk, possible_gpus, room
from .measured import GPU_MIB, OPERATOR
from .memory import ITEM_SIZES, Memory, Request, cache_bytes, layer_bytes, memory_of, operator_bytes
from .shapes import KNOWN, ModelShape, shape_of
from .times import Seconds, prefill_seconds

__all__ = [
    "GPU_MIB", "ITEM_SIZES", "KNOWN", "OPERATOR", "Memory", "ModelShape", "Request", "Seconds", "cache_bytes",
    "fewest_gpus", "fits", "largest_chunk", "layer_bytes", "memory_of", "operator_bytes", "possible_gpus",
    "prefill_seconds", "room", "shape_of",
]  # fmt: skip
