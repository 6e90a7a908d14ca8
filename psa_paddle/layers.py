"""Pyramid Sparse Attention as a ``paddle.nn.Layer``."""

from __future__ import annotations

import numpy as np
import paddle

from .attention import dense_attention, pyramid_attention
from .config import AttentionConfig
from .plan import DenseReason
from .stats import CallStats, PSALogger


class DenoisingSteps:
    """Counts denoising steps by the timestep that the model is called with, not by calls.

    Timesteps fall during a run; two calls with one timestep (classifier-free guidance) are one step, and a timestep
    above the last one starts a new run. ``run`` and ``step`` count from 1.
    """

    def __init__(self):
        self.run = self.step = 0
        self._last: float | None = None

    def advance(self, timestep) -> int:
        """Number of the step that this call belongs to, from 1."""
        now = float(timestep)
        if self._last is None or now > self._last:
            self.run, self.step = self.run + 1, 1
        elif now < self._last:
            self.step += 1
        self._last = now
        return self.step


class WarmupSteps:
    """Says whether a call belongs to the first ``steps`` denoising steps of its run."""

    def __init__(self, steps: int):
        self.steps = steps
        self._counter = DenoisingSteps()

    def warming_up(self, timestep) -> bool:
        """Whether this call belongs to the first steps.

        Raises:
            ValueError: no timestep, where steps are counted.
        """
        if not self.steps:
            return False
        if timestep is None:
            raise ValueError("warmup_steps counts denoising steps: pass timestep=..., or set warmup_steps to 0.")
        return self._counter.advance(timestep) <= self.steps


class PyramidAdaptiveBlockSparseAttn(paddle.nn.Layer):
    """Pyramid Sparse Attention (arXiv:2512.04025) with its own statistics and an optional log.

    Args:
        config: an ``AttentionConfig``, the name of one of its presets, or None for the default.
        layer_idx: number under which the log files this layer's calls.
        log_dir: folder for the log, none by default; written by ``flush_log`` (see ``PSALogger``).
        session_name: stem of the log's file names.

    Raises:
        TypeError, ValueError: another config, a layer_idx that is no integer; OSError: see ``PSALogger``.

    Example:
        >>> attn = PyramidAdaptiveBlockSparseAttn(AttentionConfig(mask_mode="topk"))
        >>> out = attn(q, k, v)  # [B, H, L, D]
        >>> attn.last_call.sparsity()
    """

    def __init__(
        self,
        config: AttentionConfig | str | None = None,
        *,
        layer_idx: int = -1,
        log_dir: str | None = None,
        session_name: str | None = None,
    ) -> None:
        super().__init__()
        self.config = AttentionConfig.of(config)
        if isinstance(layer_idx, bool) or not isinstance(layer_idx, int | np.integer):
            raise TypeError(f"layer_idx must be an integer, got {layer_idx!r}.")
        self.layer_idx = int(layer_idx)
        self.last_call: CallStats | None = None
        self.logger = PSALogger(log_dir, self.config, session_name) if log_dir is not None else None
        self._warmup = WarmupSteps(self.config.warmup_steps)

    def forward(self, q, k, v, layer_idx: int | None = None, *, timestep=None, scale=None, kv_start=None):
        """q [B, H, Lq, D], k and v [B, Hkv, Lk, D] -> [B, H, Lq, D]; arguments and errors as ``pyramid_attention``.

        timestep: the denoising timestep, needed when ``warmup_steps`` is set; layer_idx: overrides the layer's own.
        """
        keywords = {"scale": scale, "kv_start": kv_start}
        if self._warmup.warming_up(timestep):
            out, call = dense_attention(q, k, v, self.config, DenseReason.WARM_UP, **keywords)
        else:
            out, call = pyramid_attention(q, k, v, self.config, return_stats=True, **keywords)
        self.last_call = call
        if self.logger is not None:
            self.logger.log(self.layer_idx if layer_idx is None else layer_idx, call)
        return out

    def flush_log(self) -> None:
        """Write the log, when there is one."""
        if self.logger is not None:
            self.logger.flush()


# The name under which the upstream port exports the same layer.
PyramidAdaptiveBlockSparseAttnTrain = PyramidAdaptiveBlockSparseAttn
