"""The published place of ``language.inference``."""

from .language.inference import DEFAULT_MODEL, QwenVLInference, format_stats
from .language.request import check_request

__all__ = ["DEFAULT_MODEL", "QwenVLInference", "check_request", "format_stats"]
