"""Load a model of one of the families, through PaddleFormers 1.2 or PaddleMIX."""

from __future__ import annotations

import importlib
import importlib.util
import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import paddle
from safetensors import SafetensorError

from ...config import AttentionConfig
from ...utils.cpu import use_fastest_products
from ...utils.files import as_path
from ...utils.quiet import quiet_libraries
from . import families
from .answering.sampling import own_sampling
from .families import Family
from .hub import HubError, folder_of, load_by_name
from .paddleformers import loading as paddleformers_loading
from .paddlemix import loading as paddlemix_loading
from .team import ALONE, Team

DEMO = Path(__file__).resolve().parents[2] / "demo" / "checkpoint"
DTYPES = ("bfloat16", "float16", "float32")
LIBRARIES = ("paddleformers", "paddlemix")
WEIGHTS = ("*.safetensors", "*.pdparams")
_LOADING = threading.Lock()  # both libraries keep what they are loading in the process
log = logging.getLogger("psa_paddle")


def usable_dtype(dtype: str | None) -> str:
    """``dtype``, or the nearest one that the current device computes in, and a warning when it differs; None: the best
    one for the device.

    Raises:
        ValueError: not bfloat16, float16 or float32.
    """
    if dtype not in (None, *DTYPES):
        raise ValueError(f"dtype must be one of {', '.join(DTYPES)}, got {dtype!r}.")
    if not paddle.get_device().startswith("gpu"):
        best, where = "float32", f"device ({paddle.get_device()})"
    elif dtype in (None, "bfloat16") and not paddle.amp.is_bfloat16_supported():
        best, where = "float16", "GPU"
    else:
        return dtype or "bfloat16"
    if dtype not in (None, best):
        log.warning("%s is not supported on this %s; using %s.", dtype, where, best)
    return best


def check_backend(config: AttentionConfig) -> None:
    """Refuse a backend that cannot run here, before any weight is loaded.

    Raises:
        ValueError: ``"triton"`` without a GPU, or a GPU without a usable Triton.
    """
    on_gpu = paddle.get_device().startswith("gpu")
    if config.backend == "triton" and not on_gpu:
        raise ValueError(f"backend 'triton' needs an NVIDIA GPU, this is {paddle.get_device()}; use 'auto' or 'eager'.")
    if on_gpu and config.backend != "eager":
        try:
            importlib.import_module("psa_paddle.kernels")
        except ImportError as error:
            raise ValueError(f"{str(error).rstrip('.')}, or use backend 'eager'.") from error


def check_library(library: str) -> str:
    """The model library that a choice means: ``"auto"`` is PaddleFormers, or PaddleMIX where that alone is installed.

    Raises:
        ValueError: no such choice, or a library that is not installed.
    """
    if library not in ("auto", *LIBRARIES):
        raise ValueError(f"library must be auto, {' or '.join(LIBRARIES)}, got {library!r}.")
    installed = [name for name in LIBRARIES if importlib.util.find_spec(name) is not None]
    if library == "auto" and installed:
        return installed[0]
    if library not in installed:
        wanted = "paddleformers" if library == "auto" else library
        how = "pip install paddleformers==1.2.0" if wanted == "paddleformers" else "docs/paddlemix.md says how"
        raise ValueError(f"{wanted} is not installed; {how}.")
    return library


def check_cache(cache_dir) -> str:
    """The folder for downloads; it may be read-only, when all is there already."""
    path = as_path(cache_dir, "cache_dir")
    if path.exists() and not path.is_dir():
        raise ValueError(f"cache_dir '{path}' is a file; name a folder.")
    return str(path)


def check_model_folder(name: str) -> None:
    """Refuse a local folder without a configuration or weights, or with a generation_config.json that says nothing
    sensible; names of a model hub pass.

    Raises:
        ValueError: the folder is missing or incomplete, or see ``own_sampling``.
    """
    path = Path(name)
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise ValueError(f"model folder '{name}' has no config.json; is it the folder of a checkpoint?")
        if not any(file for pattern in WEIGHTS for file in path.glob(pattern)):
            raise ValueError(f"model folder '{name}' has no weights ({' or '.join(WEIGHTS)}); download them into it.")
        own_sampling(name)
    elif path.is_file() or path.is_absolute() or name.startswith((".", "~")) or name.count("/") != 1:
        raise ValueError(f"model '{name}' is neither a folder here nor a hub name such as Qwen/Qwen2.5-VL-7B-Instruct.")


def checkpoint_family(name: str, library: str = "paddleformers", cache_dir: str | None = None) -> Family:
    """The family of a checkpoint, by its ``config.json`` alone; ``name`` as for ``QwenVLInference``.

    Raises:
        ValueError: as ``load_qwen2_5_vl``.
    """
    name = model_place(str(as_path(name, "model_name")))
    check_model_folder(name)
    if library == "paddlemix":
        return families.of_type(paddlemix_loading.MODEL_TYPE, library)[0]
    with _in_one_sentence(name), quiet_libraries(library):
        return load_by_name(paddleformers_loading.family_of, name, "", cache_dir)


def model_place(name: str) -> str:
    """The folder of the bundled model for ``"demo"``; any other name itself."""
    return str(DEMO) if name == "demo" else name


@contextmanager
def _in_one_sentence(name: str) -> Iterator[None]:
    """What a load raises, as a ValueError that names the model."""
    try:
        yield
    except HubError:
        raise
    except (ImportError, OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
        raise ValueError(f"model '{name}' could not be loaded: {reason}.") from error


def load_qwen2_5_vl(name: str, dtype: str, cache_dir=None, library: str = "paddleformers", team: Team = ALONE):
    """Return ``(model, processor)`` in evaluation mode; ``name`` is a folder or a hub name; team: PaddleFormers' text
    model is split over it, and all its ranks have to load.

    Raises:
        ValueError: no such folder, an incomplete one, another kind of model, or a hub that cannot be reached.
    """
    use_fastest_products()
    check_model_folder(name)
    if library == "paddlemix":
        load = paddlemix_loading.load
    else:
        load = partial(load_by_name, partial(paddleformers_loading.load, team=team))
    with _in_one_sentence(name), _LOADING:
        if team.size > 1:
            name = load_by_name(folder_of, name, dtype, cache_dir)
        model, processor = load(name, dtype, cache_dir)
    model.eval()
    processor.tokenizer.padding_side = "left"  # a batch is answered from its last position
    return model, processor
