"""A closed, seeded visual world: images and videos with questions and true answers in English and Chinese.

``sample_scene`` draws a scene, ``render`` its frames, ``ask`` its questions. Everything follows from
(split, index, what to draw), so any machine makes the same data.
"""

from .questions import IMAGE_TYPES, VIDEO_TYPES, Question, ask
from .render import render
from .scenes import SPLITS, Scene, sample_scene

__all__ = ["IMAGE_TYPES", "SPLITS", "VIDEO_TYPES", "Question", "Scene", "ask", "render", "sample_scene"]
