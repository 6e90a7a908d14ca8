"""Memory of one GPU while it reads a prompt, part by part, in bytes."""

from __future__ import annotations

from dataclasses import dataclass

from ..config import AttentionConfig
from ..geometry import ceil_div
from ..plan import Plan
from ..pooled_layout import pooled_rows
from .shapes import ModelShape

ITEM_SIZES = {"bfloat16": 2, "float16": 2, "float32": 4}
MLP_TENSORS = 4  # of a layer's intermediate width, alive at a time in PaddleFormers: gate, its activation, up, product
ESTIMATE_TILE = 128  # groups of keys of a tile whose maximum ``xattn`` keeps
PORTION = 16384  # patches of a clip that the vision tower sees at a time


@dataclass(frozen=True)
class Request:
    """A prompt and how it is read.

    tokens: of the prompt; gpus: over which tensor parallel splits the model; chunk: tokens of a ``--prefill-chunk``,
    None for the whole; dtype: of weights and activations.
    """

    tokens: int
    gpus: int = 1
    chunk: int | None = None
    dtype: str = "bfloat16"

    @property
    def rows(self) -> int:
        """Tokens of the largest forward."""
        return min(self.tokens, self.chunk or self.tokens)

    @property
    def item(self) -> int:
        """Bytes of a number."""
        return ITEM_SIZES[self.dtype]


@dataclass(frozen=True)
class Memory:
    """Bytes on one GPU, in use at the same time.

    weights: of the text model; tower: weights of the vision tower; cache: keys and values of all layers; prompt: the
    rows of the first layer; work: what a layer of the text model, or before it one of the tower, holds while it works.
    """

    weights: int
    tower: int
    cache: int
    prompt: int
    work: int

    @property
    def total(self) -> int:
        """All of it."""
        return self.weights + self.tower + self.cache + self.prompt + self.work


def memory_of(shape: ModelShape, request: Request, config: AttentionConfig | None) -> Memory:
    """What reading a prompt takes on each GPU; config: PSA's, None for dense attention.

    Tensor parallel splits the text model's matrices, the embedding and the KV cache; norms, biases that follow a sum,
    and the vision tower are whole on every GPU.
    """
    item, gpus = request.item, request.gpus
    weights = (ceil_div(shape.matrices + shape.embeddings, gpus) + shape.vectors) * item
    tower = shape.tower.parameters * item if shape.tower else 0
    cache = cache_bytes(shape, request)
    prompt = request.tokens * shape.hidden * item
    work = max(layer_bytes(shape, request, config), tower_bytes(shape, request))
    return Memory(weights, tower, cache, prompt, work)


def tower_bytes(shape: ModelShape, request: Request) -> int:
    """What a layer of the vision tower holds of one portion of a clip, by its MLP; a larger picture takes more."""
    if shape.tower is None:
        return 0
    tensors = MLP_TENSORS if shape.tower.gated else 2
    return PORTION * (2 * shape.tower.hidden + tensors * shape.tower.intermediate) * request.item


def cache_bytes(shape: ModelShape, request: Request) -> int:
    """Keys and values of the whole prompt in all layers, of one GPU's heads."""
    heads = shape.kv_heads // request.gpus
    return 2 * shape.layers * heads * shape.head_dim * request.tokens * request.item


def layer_bytes(
    shape: ModelShape, request: Request, config: AttentionConfig | None, mlp_tensors: int = MLP_TENSORS
) -> int:
    """What a layer holds at most while it works: in attention or in the MLP. Of the tokens of one forward their hidden
    states three times (the layer's input, what goes past its half, what is normalised for it) and sines and cosines of
    three axes; beside them the half's own."""
    rows, item, gpus = request.rows, request.item, request.gpus
    heads, kv_heads = shape.heads // gpus, shape.kv_heads // gpus
    passing = rows * (3 * shape.hidden + 2 * 3 * shape.head_dim)
    mlp = passing + mlp_tensors * rows * ceil_div(shape.intermediate, gpus)
    # q, k, v as projected and once more after the rotary embedding, and the output.
    own = (3 * heads + 4 * kv_heads) * rows * shape.head_dim
    attention = (passing + own) * item + operator_bytes(shape, request, config)
    if request.chunk is not None:  # a layer's cache is copied when a chunk is put behind it
        attention += cache_bytes(shape, request) // shape.layers
    return max(mlp * item, attention)


def operator_bytes(shape: ModelShape, request: Request, config: AttentionConfig | None) -> int:
    """The most that the Triton operator allocates beside its inputs and its output; nothing for dense attention.

    The estimate is gone when the output is allocated, so what it needs beyond the output's size counts.
    """
    if config is None:
        return 0
    plan = Plan.of(config, 1.0)
    rows, keys, item = request.rows, request.tokens, request.item
    heads, kv_heads = shape.heads // request.gpus, shape.kv_heads // request.gpus
    n_i, n_j, full = ceil_div(rows, plan.query_block), ceil_div(keys, plan.key_block), keys // plan.key_block
    of_keys = 0
    if plan.pools:
        of_keys += 2 * kv_heads * pooled_rows(full, plan.key_block) * shape.head_dim * item + kv_heads * n_j
    if plan.reads_means:
        of_keys += 2 * kv_heads * full * shape.head_dim * item
    lists = heads * n_i * (n_j * (2 + plan.reads_means) + 24)
    estimate = 0
    if plan.importance_method == "pooling":
        estimate = heads * n_i * n_j * 4
    elif plan.bounds:
        groups = ceil_div(rows, plan.query_stride)
        estimate = heads * groups * n_j * (2 if item == 2 else 4)
        if plan.importance_method == "xattn":
            estimate += heads * groups * ceil_div(ceil_div(keys, plan.key_stride), ESTIMATE_TILE) * 4
    output = heads * rows * shape.head_dim * item
    return of_keys + lists + max(0, estimate - output)
