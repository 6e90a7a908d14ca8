"""The published place of ``language.measuring.triangle_layers``."""

from .language.measuring.triangle_layers import choose_triangle_layers, measure_middle_gradients

__all__ = ["choose_triangle_layers", "measure_middle_gradients"]
