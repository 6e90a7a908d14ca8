"""TriangleMix (arXiv:2507.21526): static sparse attention for the layers whose middle does not matter.

A query sees the first tokens (sink), its neighbours (sliding window), and, if it is among the last rows, everything.
"""

from .analyzer import TriangleMixAnalyzer
from .ascend import AscendNPUTriangleMixOptimizer, AscendTriangleMixAttention
from .attention import triangle_attention
from .config import TriangleMixConfig, TriangleMixInferenceConfig
from .masks import TriangleMixAttention, TriangleMixMaskGenerator

__all__ = [
    "AscendNPUTriangleMixOptimizer",
    "AscendTriangleMixAttention",
    "TriangleMixAnalyzer",
    "TriangleMixAttention",
    "TriangleMixConfig",
    "TriangleMixInferenceConfig",
    "TriangleMixMaskGenerator",
    "triangle_attention",
]
