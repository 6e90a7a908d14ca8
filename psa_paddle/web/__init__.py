"""A page for a browser: show a video or pictures, ask, read the answer, and see what was looked at and skipped.

One process, one model, one worker on it. Gradio, the extra ``web``, makes the page; everything that bounds what a
visitor may do stands here and works without it.
"""

from .limits import Limits
from .server import Settings, check_gradio, is_loopback, serve, serving

__all__ = ["Limits", "Settings", "check_gradio", "is_loopback", "serve", "serving"]
