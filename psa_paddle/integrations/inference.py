"""The published place of ``language.inference``."""

from .language.answering.sampling import Sampling
from .language.answering.session import Session
from .language.inference import DEFAULT_MODEL, QwenVLInference, format_stats
from .language.request import check_request

__all__ = ["DEFAULT_MODEL", "QwenVLInference", "Sampling", "Session", "check_request", "format_stats"]
