"""One video transformer with Pyramid Sparse Attention plugged in: its grid, its denoising steps, its statistics."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable
from dataclasses import dataclass

import paddle

from ...config import HEAD_DIMS
from ...layers import DenoisingSteps
from ...plan import DenseReason
from ...psa_module import PSAAttention, PSAConfig
from ...rearrange import METHODS
from ...stats import CallStats, format_step, totals
from ..patches import Patches
from .processors import CogVideoXProcessor, WanProcessor

PLUG = "_psa_plug"  # attribute of a plugged transformer; gone after the restore
READ_BY_PROCESSORS = ("processor", "heads", "to_q", "to_k", "to_v", "to_out", "norm_q", "norm_k")
log = logging.getLogger("psa_paddle")


def _cogvideox_grid(config, shape) -> tuple[int, int, int]:
    _, frames, _, height, width = shape
    side, depth = config.patch_size, getattr(config, "patch_size_t", None) or 1
    return frames // depth, height // side, width // side


def _wan_grid(config, shape) -> tuple[int, int, int]:
    return tuple(n // p for n, p in zip(shape[2:], config.patch_size, strict=True))


@dataclass(frozen=True)
class Family:
    """How a kind of transformer is recognised and read.

    blocks: attribute with its blocks, whose ``attn1`` is replaced; processor: what replaces it; grid: configuration and
    latent shape -> (depth, height, width) in tokens; rotary: argument of its attention; cross: whether its blocks
    have a cross-attention ``attn2``, which is left alone.
    """

    name: str
    blocks: str
    processor: type
    grid: Callable
    rotary: str
    cross: bool

    def recognises(self, transformer) -> bool:
        """Whether a transformer is of this kind and can be read."""
        blocks = getattr(transformer, self.blocks, None)
        if not isinstance(blocks, paddle.nn.LayerList) or not len(blocks) or not hasattr(transformer, "config"):
            return False
        takes = inspect.signature(transformer.forward).parameters
        return all(name in takes for name in ("hidden_states", "timestep", "encoder_hidden_states")) and all(
            self._fits(block) for block in blocks
        )

    def _fits(self, block) -> bool:
        attn = getattr(block, "attn1", None)
        if attn is None or self.cross != hasattr(block, "attn2"):
            return False
        return all(hasattr(attn, name) for name in READ_BY_PROCESSORS) and (
            self.rotary in inspect.signature(attn.processor.__call__).parameters
        )


FAMILIES = (
    Family("CogVideoX", "transformer_blocks", CogVideoXProcessor, _cogvideox_grid, "image_rotary_emb", cross=False),
    Family("Wan", "blocks", WanProcessor, _wan_grid, "rotary_emb", cross=True),
)


class VideoPlug:
    """A plugged transformer and what it did since ``reset``.

    config: the ``PSAConfig``, or None for plain softmax; grid: (depth, height, width) in tokens of the latent that the
    transformer saw last, or None.
    """

    def __init__(self, transformer, family: Family, config: PSAConfig | None, verbose: bool) -> None:
        self.config, self.verbose, self._family = config, verbose, family
        self.grid: tuple[int, int, int] | None = None
        self._signature = inspect.signature(transformer.forward)
        self._attentions: dict[int, PSAAttention] = {}
        self.reset()
        self._patches = Patches()

    def connect(self, transformer) -> None:
        """Lead the transformer's self-attention here."""
        self._patches.attribute(transformer, PLUG, self)
        for index, block in enumerate(getattr(transformer, self._family.blocks)):
            processor = self._family.processor(self, index, block.attn1.processor)
            self._patches.attribute(block.attn1, "processor", processor)
        self._patches.pre_hook(transformer, self._before_forward)

    def remove(self) -> None:
        """Give the transformer its own processors back."""
        self._finish_step()
        self._patches.undo()

    def reset(self) -> None:
        """Forget the statistics, the steps and the clusters: the next call starts a new video."""
        self._rows: list[dict] = []
        self._calls: list[tuple[int, CallStats]] = []
        self._counter = DenoisingSteps()
        self._place = {"run": 0, "step": 0, "timestep": None}
        self._forget_clusters()

    @property
    def step(self) -> int:
        """Number of the current denoising step, from 1; 0 before the first."""
        return self._counter.step

    def steps(self) -> list[dict]:
        """One row a denoising step: ``run`` and ``step`` from 1, ``timestep``, and what ``stats.totals`` says of its
        calls: ``average_sparsity``, ``layers_sparse``, ``layers_dense``, ``dense_reasons``, ``layers``."""
        self._finish_step()
        return list(self._rows)

    def _forget_clusters(self) -> None:
        for attention in self._attentions.values():
            attention.reset()

    def _before_forward(self, layer, args, kwargs) -> None:
        """Learn the grid from the latent's shape and the step from the timestep, once for all layers."""
        given = self._signature.bind(*args, **kwargs).arguments
        self.grid = self._family.grid(layer.config, given["hidden_states"].shape)
        timestep = given["timestep"]
        timestep = float(timestep.astype("float32").max() if isinstance(timestep, paddle.Tensor) else timestep)
        self._counter.advance(timestep)
        place = {"run": self._counter.run, "step": self._counter.step, "timestep": timestep}
        if place != self._place:
            self._finish_step()
            if place["run"] != self._place["run"]:
                self._forget_clusters()
            self._place = place

    def _finish_step(self) -> None:
        """Bring the counts of the step's calls to the host, so that no device memory is held from step to step."""
        if not self._calls:
            return
        row = {**self._place, **totals(self._calls)}
        self._calls.clear()
        self._rows.append(row)
        if self.verbose:
            log.info(format_step(row))

    def runs_dense(self, layer_idx: int, attn, hidden_states, text_length: int, attention_mask, unusual: str) -> bool:
        """Whether the model's own processor has to do this call; then it is counted with the reason."""
        tokens = text_length + hidden_states.shape[1]
        reason = self._reason(attn, hidden_states, attention_mask, unusual)
        if reason:
            self._calls.append((layer_idx, self._dense_call(reason, hidden_states.shape[0], tokens)))
        return bool(reason)

    def _reason(self, attn, hidden_states, attention_mask, unusual: str) -> str:
        if unusual:
            return unusual
        if attention_mask is not None:
            return DenseReason.MASK
        if paddle.is_grad_enabled() and not hidden_states.stop_gradient:
            return DenseReason.GRADIENTS
        if self.config is None:
            return ""
        if self.grid is None or hidden_states.shape[1] != self.grid[0] * self.grid[1] * self.grid[2]:
            return DenseReason.GRID.text(hidden_states.shape[1], self.grid)
        if self.step <= self.config.warmup_steps:
            return DenseReason.WARM_UP
        head_dim = hidden_states.shape[-1] // attn.heads
        return "" if head_dim in HEAD_DIMS else DenseReason.HEAD_DIM.text(head_dim)

    @staticmethod
    def _dense_call(reason: str, batch: int, tokens: int) -> CallStats:
        return CallStats("model", "dense", reason, ((tokens, tokens),) * batch)

    def attend(self, layer_idx: int, q, k, v, text_length: int, softmax_attention):
        """Attention of [B, H, L, D] tensors whose first ``text_length`` tokens are text; returns the same shape.

        softmax_attention: what the model calls, on [B, L, H, D]; taken for ``config=None``.
        """
        if self.config is None:
            self._calls.append((layer_idx, self._dense_call(DenseReason.PLAIN, q.shape[0], q.shape[2])))
            return softmax_attention(*(x.transpose([0, 2, 1, 3]) for x in (q, k, v))).transpose([0, 2, 1, 3])
        psa = self._attention(layer_idx, self.config)
        if q.dtype != v.dtype:  # norms may have left autocast's dtype
            q, k = q.astype(v.dtype), k.astype(v.dtype)
        out = psa(q, k, v, grid=self.grid, text_length=text_length, text_first=True)
        self._calls.append((layer_idx, psa.last_call))  # type: ignore[arg-type]  # the call above has set it
        return out

    def _attention(self, layer_idx: int, config: PSAConfig) -> PSAAttention:
        """One for all layers where the token order is fixed; one for each where it follows the layer's tokens."""
        method = config.rearrange_method
        key = layer_idx if method is not None and METHODS[method].follows_tokens else 0
        if key not in self._attentions:
            self._attentions[key] = PSAAttention(config.replace(warmup_steps=0))  # the plug counts the steps
        return self._attentions[key]
