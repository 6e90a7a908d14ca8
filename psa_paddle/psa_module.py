"""The plug-in module: ``out = PSAAttention()(q, k, v)``, configured by ``PSAConfig``.

Source: PSA (arXiv:2512.04025). All of it runs on one operator, ``pyramid_attention``.
"""

from __future__ import annotations

import dataclasses

import paddle

from .attention import prepare, run
from .layers import WarmupSteps
from .plan import DenseReason
from .presets import video_config
from .psa_config import PSAConfig
from .rearrange import METHODS, Rearrangement
from .rearrange.curves import check_triple
from .rearrange.methods import TextOnly, check_text
from .stats import CallStats


class PSAAttention(paddle.nn.Layer):
    """Pyramid Sparse Attention (arXiv:2512.04025) for any attention that has q, k and v.

    Args:
        config: a ``PSAConfig``, the name of a video model for its default preset (``list_presets()``), or None for
            ``PSAConfig()``.

    Raises:
        TypeError, ValueError: another config.

    ``last_call`` holds the ``CallStats`` of the latest call. ``"SemanticAware"`` and ``"Hybrid"`` keep their clusters
    from call to call: give each layer of a model its own instance, and call ``reset()`` before another video.

    Example:
        >>> psa = PSAAttention(PSAConfig(rearrange_method="Gilbert"))
        >>> out = psa(q, k, v, grid=(13, 30, 45), text_length=226)  # [B, H, 226 + 13 * 30 * 45, D]
    """

    def __init__(self, config: PSAConfig | str | None = None) -> None:
        super().__init__()
        self.config = video_config(config)
        self.last_call: CallStats | None = None
        self.reset()

    def reset(self) -> None:
        """Forget the clusters and the denoising steps of earlier calls."""
        self._warmup = WarmupSteps(self.config.warmup_steps)
        self._made: tuple = (None, None)

    def forward(
        self,
        q,
        k,
        v,
        *,
        causal: bool = False,
        grid: tuple[int, int, int] | None = None,
        text_length: int = 0,
        text_first: bool = True,
        timestep=None,
        scale: float | None = None,
        heads_last: bool = False,
    ):
        """Attention of q over k and v.

        Args:
            q: [B, H, Lq, D], float32, float16 or bfloat16; D in 32, 64, 80, 96, 128.
            k, v: [B, Hkv, Lk, D]; query head h reads kv head h // (H / Hkv).
            causal: bottom-right aligned causal attention; excludes a rearrangement.
            grid: (depth, height, width) of the vision tokens; ``"Gilbert"``, ``"STA"`` and ``"Hybrid"`` need it.
            text_length: text tokens in the sequence. They stay at full resolution, and out of the rearrangement.
            text_first: whether text stands before the vision tokens (CogVideoX) or after them. Causal attention can
                keep only text that comes last.
            timestep: the denoising timestep, needed when ``warmup_steps`` is set; a number (the host waits for one on a
                GPU).
            scale: factor of the logits, 1 / sqrt(D) by default.
            heads_last: return [B, Lq, H, D], the layout that an output projection wants.

        Returns:
            [B, H, Lq, D] or [B, Lq, H, D] in q's dtype and in the order of q's tokens.

        Raises:
            TypeError, ValueError: as ``pyramid_attention``; a grid or text that does not fit the tokens; causal with a
                rearrangement or with text first; no timestep where warm-up steps are counted.
        """
        if not isinstance(causal, bool):
            raise TypeError(f"causal must be True or False, got {causal!r}.")
        check_text(text_length, text_first)
        config = self.config.to_attention_config(causal, text_length)
        plan, starts = prepare(q, k, v, config, scale, None, heads_last=heads_last, audit_rows=config.audit_rows)
        if text_length > min(q.shape[2], k.shape[2]):
            raise ValueError(f"text_length {text_length} exceeds {q.shape[2]} queries or {k.shape[2]} keys.")
        order = self._rearrangement(grid, text_length, text_first, causal, plan.backend)
        if order is not None:
            order.vision_tokens(q, k)  # refuse what does not fit before the warm-up is over
        if self._warmup.warming_up(timestep):
            plan = plan.replace(dense=DenseReason.WARM_UP)
        if order is None or plan.why_dense(k.shape[2]):  # dense attention is the same in any order
            out, self.last_call = run(q, k, v, starts, plan)
            return out
        q, k, v = (x if x.strides[-1] == 1 else x.contiguous() for x in (q, k, v))
        moved = order.plan(q, k)
        plan = plan.replace(heads_last=False) if heads_last else plan
        q, k, v = moved.permute(q), moved.permute_kv(k), moved.permute_kv(v)
        out, self.last_call = run(q, k, v, starts, plan)
        return moved.restore(out, heads_last)

    def _rearrangement(
        self, grid, text_length: int, text_first: bool, causal: bool, backend: str
    ) -> Rearrangement | None:
        """The token order of this call; text goes last in it, where the operator keeps it at full resolution."""
        method = self.config.rearrange_method
        grid = None if grid is None else check_triple("grid", grid)
        moves_text = text_length > 0 and text_first
        if causal and moves_text:
            raise ValueError(
                "causal attention keeps text at full resolution only when it comes last: text_first=False."
            )
        if method is None and not moves_text:
            return None
        key = (grid, text_length, text_first, backend)
        if self._made[0] != key:
            kind: type[Rearrangement] = TextOnly if method is None else METHODS[method]
            extra = {name: getattr(self.config, name) for name in kind.settings}
            order = kind(grid, text_length, text_first, text_to_end=True, backend=backend, **extra)
            self._made = (key, order)
        return self._made[1]


def psa_attention(
    q,
    k,
    v,
    config: PSAConfig | str | None = None,
    *,
    causal: bool = False,
    grid: tuple[int, int, int] | None = None,
    text_length: int = 0,
    text_first: bool = True,
    scale: float | None = None,
    heads_last: bool = False,
    **changes,
):
    """``PSAAttention`` in one call; ``changes`` are fields of ``PSAConfig`` that differ from ``config``.

    Configuration as ``PSAAttention``; shapes, dtypes and errors as its ``forward``. Nothing is kept between calls, so
    no denoising steps are counted: of a preset that is named the warm-up is left out.

    Raises:
        TypeError: a keyword that is no field of ``PSAConfig``.
    """
    unknown = sorted(set(changes) - {f.name for f in dataclasses.fields(PSAConfig)})
    if unknown:
        raise TypeError(f"psa_attention got {', '.join(unknown)}, which PSAConfig does not have.")
    if isinstance(config, str):
        changes = {"warmup_steps": 0, **changes}
    config = video_config(config).replace(**changes)
    text = {"text_length": text_length, "text_first": text_first}
    return PSAAttention(config)(q, k, v, causal=causal, grid=grid, scale=scale, heads_last=heads_last, **text)
