"""The published place of ``stats.log``."""

from ..stats.log import PSALogger

__all__ = ["PSALogger"]
