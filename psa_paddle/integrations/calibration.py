"""The published place of ``language.measuring.calibration``."""

from .language.measuring.calibration import calibrate_budgets, check_calibration

__all__ = ["calibrate_budgets", "check_calibration"]
