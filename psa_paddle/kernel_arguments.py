"""What the kernels take of a configuration. Needs neither Paddle nor Triton, so that whoever calls them can use it."""

from __future__ import annotations

from .config import AttentionConfig


def kernel_arguments(config: AttentionConfig, scale: float) -> dict:
    """What ``kernels.psa_fwd`` takes of a configuration."""
    thresholds = (config.sim_2x_threshold, config.sim_4x_threshold, config.sim_8x_threshold)
    return {
        "scale": scale,
        "causal": config.causal,
        "query_block": config.query_block,
        "key_block": config.key_block,
        "intervals": config.intervals,
        "mode": config.mask_mode,
        "budgets": config.budgets,
        "method": config.importance_method,
        "strides": (config.xattn_query_stride, config.xattn_stride),
        "terms": config.xattn_terms,
        "text_length": config.forced_text,
        "thresholds": thresholds if config.use_sim_mask else None,
        "means": config.uses_means,
    }
