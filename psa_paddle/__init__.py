"""Pyramid Sparse Attention for PaddlePaddle (arXiv:2512.04025), plugged into Qwen2.5-VL.

Names are imported on first use, so that the configurations, presets, token orders and kernels need no Paddle.
"""

import importlib
import importlib.util

__version__ = "0.1.0"

_HOME = {
    "AttentionConfig": "config",
    "CallStats": "stats",
    "ContextParallel": "context_parallel",
    "PSAAttention": "psa_module",
    "PSAConfig": "psa_config",
    "Preset": "presets",
    "PyramidAdaptiveBlockSparseAttn": "layers",
    "PyramidAdaptiveBlockSparseAttnTrain": "layers",
    "adaptive_block_sparse_attn": "attention",
    "context_parallel_attention": "context_parallel",
    "estimate_block_importance": "attention",
    "list_presets": "presets",
    "load_preset": "presets",
    "psa_attention": "psa_module",
    "pyramid_attention": "attention",
}
_NEED_PADDLE = ("attention", "context_parallel", "layers", "psa_module")

__all__ = sorted(_HOME)


def require_paddle(name: str) -> None:
    """Raise an ImportError that says which Paddle to install, when there is none."""
    if importlib.util.find_spec("paddle") is None:
        raise ImportError(
            f"{name} needs PaddlePaddle: install paddlepaddle==3.3.1 for a CPU, or paddlepaddle-gpu 3.2.2 or newer for "
            "an NVIDIA GPU (https://www.paddlepaddle.org.cn/install/quick)."
        )


def __getattr__(name):
    if name not in _HOME:
        raise AttributeError(f"module 'psa_paddle' has no attribute {name!r}")
    if _HOME[name] in _NEED_PADDLE:
        require_paddle(f"psa_paddle.{name}")
    return getattr(importlib.import_module(f".{_HOME[name]}", __name__), name)


def __dir__():
    return sorted([*globals(), *__all__])
