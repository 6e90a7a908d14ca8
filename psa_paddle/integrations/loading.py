"""Load Qwen2.5-VL through PaddleFormers 1.2."""

from __future__ import annotations

import importlib
import logging
from pathlib import Path

import paddle

from ..config import AttentionConfig

DTYPES = ("bfloat16", "float16", "float32")
WEIGHTS = ("*.safetensors", "*.pdparams")
log = logging.getLogger("psa_paddle")


def usable_dtype(dtype: str) -> str:
    """``dtype``, or the nearest one that the current device computes in; says so when it differs.

    Raises:
        ValueError: not bfloat16, float16 or float32.
    """
    if dtype not in DTYPES:
        raise ValueError(f"dtype must be one of {', '.join(DTYPES)}, got {dtype!r}.")
    if dtype != "float32" and not paddle.get_device().startswith("gpu"):
        log.warning("%s is not supported on this device (%s); using float32.", dtype, paddle.get_device())
        return "float32"
    if dtype == "bfloat16" and not paddle.amp.is_bfloat16_supported():
        log.warning("bfloat16 is not supported on this GPU; using float16.")
        return "float16"
    return dtype


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


def check_model_folder(name: str) -> None:
    """Refuse a local folder without a configuration or weights; names of a model hub pass.

    Raises:
        ValueError: the folder is missing or incomplete.
    """
    path = Path(name)
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise ValueError(f"model folder '{name}' has no config.json; is it the folder of a Qwen2.5-VL checkpoint?")
        if not any(file for pattern in WEIGHTS for file in path.glob(pattern)):
            raise ValueError(f"model folder '{name}' has no weights ({' or '.join(WEIGHTS)}); download them into it.")
    elif path.is_file() or path.is_absolute() or name.startswith((".", "~")) or name.count("/") != 1:
        raise ValueError(f"model '{name}' is neither a folder here nor a hub name such as Qwen/Qwen2.5-VL-7B-Instruct.")


def load_qwen2_5_vl(name: str, dtype: str, cache_dir=None):
    """Return ``(model, processor)`` in evaluation mode; ``name`` is a folder or a hub name.

    Raises:
        ValueError: no such folder, an incomplete one, another kind of model, or a hub that cannot be reached.
    """
    check_model_folder(name)
    from paddleformers.transformers import AutoProcessor, Qwen2_5_VLForConditionalGeneration
    from paddleformers.transformers.qwen2_5_vl.configuration import Qwen2_5_VLConfig

    where = {} if cache_dir is None else {"cache_dir": str(cache_dir)}
    try:
        config = Qwen2_5_VLConfig.from_pretrained(name, **where)
        if config.model_type != "qwen2_5_vl":
            raise ValueError(f"it is a '{config.model_type}' model, not Qwen2.5-VL")
        for part in (config, config.text_config, config.vision_config):
            part.fuse_rms_norm = paddle.get_device().startswith("gpu")  # the fused kernel exists for GPUs only
            part._attn_implementation = "sdpa"
        model = Qwen2_5_VLForConditionalGeneration.from_pretrained(name, config=config, dtype=dtype, **where)
        processor = AutoProcessor.from_pretrained(name, **where)
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
        raise ValueError(f"model '{name}' could not be loaded: {reason}.") from error
    model.eval()
    processor.tokenizer.padding_side = "left"  # a batch is answered from its last position
    return model, processor
