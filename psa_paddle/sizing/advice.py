"""Whether a prompt fits, and from which number of GPUs or which chunk on it does."""

from __future__ import annotations

from dataclasses import replace

from ..config import AttentionConfig
from .measured import GPU_MIB
from .memory import Memory, Request, memory_of
from .shapes import ModelShape

MOST_GPUS = 8
CHUNKS = tuple(1 << power for power in range(17, 9, -1))  # 131,072 to 1,024 tokens
SPARE = 0.1  # of a GPU, for the CUDA context, the allocator's gaps and what else runs there: taken, not measured


def possible_gpus(shape: ModelShape) -> list[int]:
    """Numbers of GPUs, powers of two, that heads, kv heads, the MLP's width and the vocabulary can be split over."""
    split = (shape.heads, shape.kv_heads, shape.intermediate, shape.vocabulary)
    counts = (1 << power for power in range(MOST_GPUS.bit_length()))
    return [n for n in counts if n <= MOST_GPUS and not any(size % n for size in split)]


def room(gpu: str) -> int:
    """Bytes of a GPU that a model may fill."""
    return int(GPU_MIB[gpu] * 2**20 * (1 - SPARE))


def fits(memory: Memory, gpu: str) -> bool:
    """Whether a GPU has room for it."""
    return memory.total <= room(gpu)


def fewest_gpus(shape: ModelShape, request: Request, config: AttentionConfig | None, gpu: str) -> int | None:
    """The smallest number of GPUs on which the request fits; None where 8 are too few."""
    for gpus in possible_gpus(shape):
        if fits(memory_of(shape, replace(request, gpus=gpus), config), gpu):
            return gpus
    return None


def largest_chunk(shape: ModelShape, request: Request, config: AttentionConfig | None, gpu: str) -> int | None:
    """The largest chunk, a power of two from 1,024 to 131,072 tokens and shorter than the prompt, with which the
    request fits on its GPUs; None where none does."""
    for chunk in CHUNKS:
        if chunk < request.tokens and fits(memory_of(shape, replace(request, chunk=chunk), config), gpu):
            return chunk
    return None
