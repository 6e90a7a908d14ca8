"""A request as a page and as pictures: what was looked at, what was skipped and how, beside dense attention.

``recording`` watches a request, ``figure`` draws what it saw, ``Report`` makes a self-contained HTML file of it.
"""

from ..utils.language import language_here
from .capture import LevelMap, Recorder, recording
from .compare import ask_dense, dense_in
from .figures import figure
from .page import Dense, Report

__all__ = [
    "Dense", "LevelMap", "Recorder", "Report", "ask_dense", "dense_in", "figure", "language_here", "recording",
]  # fmt: skip
