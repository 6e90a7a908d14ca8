"""Keep what the libraries say about themselves away from the answer; their errors still show."""

from __future__ import annotations

import logging
import os
import warnings
from contextlib import contextmanager

NOTICES = (
    "No ccache found",
    "Setuptools is replacing distutils",
    "To copy construct from a tensor",
    "The `.*` argument is deprecated",
)
CHATTY = ("PaddleFormers", "paddle.distributed.fleet.utils.log_util", "httpx", "transformers")


@contextmanager
def _setting(name: str, value: str):
    """An environment variable for the block, unless the user has set it."""
    given = name in os.environ
    os.environ.setdefault(name, value)
    try:
        yield
    finally:
        if not given:
            os.environ.pop(name, None)


@contextmanager
def quiet_import():
    """Around the first import of Paddle, whose C++ part reads its log level there and then."""
    for notice in NOTICES:
        warnings.filterwarnings("ignore", message=notice, category=UserWarning)
    with _setting("GLOG_minloglevel", "2"):
        yield


@contextmanager
def no_download_bars():
    """While the hub's client shows no bars of what it downloads."""
    from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    shown = not are_progress_bars_disabled()
    disable_progress_bars()
    try:
        yield
    finally:
        if shown:
            enable_progress_bars()


@contextmanager
def quiet_libraries(library: str):
    """While ``"paddleformers"`` or ``"paddlemix"`` is imported and loads a model."""
    if library == "paddlemix":
        from paddlenlp.utils.log import logger

        level = logger.logger.level
        logger.set_level("ERROR")
        try:
            yield
        finally:
            logger.logger.setLevel(level)
        return
    loggers = [logging.getLogger(name) for name in CHATTY]

    def only_errors(record: logging.LogRecord) -> bool:  # a new one each time, so that blocks may nest
        return record.levelno >= logging.ERROR

    with _setting("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1"):
        from transformers.utils import logging as transformers_logging

        verbosity = transformers_logging.get_verbosity()
        transformers_logging.set_verbosity_error()
        for logger in loggers:
            logger.addFilter(only_errors)
        try:
            yield
        finally:
            transformers_logging.set_verbosity(verbosity)
            for logger in loggers:
                logger.removeFilter(only_errors)
