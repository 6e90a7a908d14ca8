"""Load Qwen2.5-VL through PaddleMIX, from its own weights or from a folder in Hugging Face's layout."""

from __future__ import annotations

import json
import math
import os
import sys
from contextlib import redirect_stdout
from pathlib import Path

import numpy as np
import paddle
from paddle import nn

from ..families import of_type

STORED = {"F32": np.float32, "F16": np.float16, "BF16": np.uint16}  # Paddle reads uint16 as bfloat16
MODEL_TYPE = "qwen2_5_vl"  # the tokenizer and the processor here are its own
PADS = {"images": "<|image_pad|>", "videos": "<|video_pad|>"}


def load(name: str, dtype: str, cache_dir=None):
    """``(model, processor)``; arguments as ``loading.load_qwen2_5_vl``, whose errors cover what fails here."""
    with redirect_stdout(sys.stderr):  # it prints while it is imported
        config_class, model_class = of_type(MODEL_TYPE, "paddlemix")[1].classes()

    where = {} if cache_dir is None else {"cache_dir": str(cache_dir)}
    attention = "sdpa" if paddle.get_device().startswith("gpu") else "eager"  # its SDPA class has no CPU dtype
    files = torch_files(name)
    if not files:
        model = model_class.from_pretrained(name, dtype=dtype, attn_implementation=attention, **where)
    else:
        config = config_class.from_pretrained(name)
        of_type(config.model_type, "paddlemix")  # refuses another
        config.dtype = dtype
        usual = paddle.get_default_dtype()
        paddle.set_default_dtype(dtype)
        try:
            model = model_class(config, attn_implementation=attention)
        finally:
            paddle.set_default_dtype(usual)
        set_torch_weights(model, files)
    return model, Processor(*_tokenizer_and_images(name, where))


def _tokenizer_and_images(name: str, where: dict):
    from paddlemix.models.qwen2_5_vl import MIXQwen2_5_Tokenizer
    from paddlemix.processors.qwen2_5_vl_processing import Qwen2_5_VLImageProcessor

    class Tokenizer(MIXQwen2_5_Tokenizer):
        """Also reads the chat_template.json of a Hugging Face folder."""

        def init_chat_template(self, chat_template):
            if isinstance(chat_template, str) and os.path.isfile(chat_template):
                given = json.loads(Path(chat_template).read_text(encoding="utf-8"))
                chat_template = given.get("chat_template", chat_template)
            super().init_chat_template(chat_template)

    tokenizer = Tokenizer.from_pretrained(name, **where)
    settings = Path(name) / "preprocessor_config.json"
    limits = json.loads(settings.read_text(encoding="utf-8")) if settings.is_file() else {}
    limits = {key: limits[key] for key in ("min_pixels", "max_pixels") if key in limits}
    return tokenizer, lambda **changes: Qwen2_5_VLImageProcessor(**{**limits, **changes})


def torch_files(name: str) -> list[Path]:
    """The safetensors files of a folder that torch wrote, whose matrices are transposed; none elsewhere."""
    files = sorted(Path(name).glob("*.safetensors")) if Path(name).is_dir() else []
    return [file for file in files if _header(file)[0].get("__metadata__", {}).get("format") == "pt"]


def _header(file: Path) -> tuple[dict, int]:
    """The JSON header of a safetensors file, and where its data start."""
    with open(file, "rb") as stream:
        size = int.from_bytes(stream.read(8), "little")
        if not 0 < size < 100 << 20:
            raise ValueError(f"{file.name} is not a safetensors file")
        return json.loads(stream.read(size)), 8 + size


def set_torch_weights(model, files: list[Path]) -> None:
    """Fill every parameter of the model from torch's files, one tensor at a time.

    Raises:
        ValueError: a parameter that no file has, or one of another shape.
    """
    missing = dict(model.state_dict())
    tables = {f"{name}.weight" for name, part in model.named_sublayers() if isinstance(part, nn.Embedding)}
    if model.config.tie_word_embeddings:
        missing.pop("lm_head.weight", None)
    for file in files:
        header, start = _header(file)
        data = np.memmap(file, np.uint8, "r", start)
        for name in sorted(set(header) & set(missing)):
            entry, target = header[name], missing.pop(name)
            if entry["dtype"] not in STORED:
                raise ValueError(f"{name} is stored as {entry['dtype']}, which is not a floating-point format")
            first, last = entry["data_offsets"]
            value = data[first:last].view(STORED[entry["dtype"]]).reshape(entry["shape"])
            if value.ndim == 2 and name not in tables:
                value = value.T
            if list(value.shape) != list(target.shape):
                raise ValueError(f"{name} is {list(value.shape)} in {file.name}, the model needs {list(target.shape)}")
            target.set_value(paddle.to_tensor(np.ascontiguousarray(value)).astype(target.dtype))
    if missing:
        raise ValueError(f"{len(missing)} weights are in none of its files, such as {min(missing)}")


class Processor:
    """PaddleMIX's tokenizer and image processor behind the calls that ``QwenVLInference`` makes of PaddleFormers'.

    Args:
        tokenizer: PaddleMIX's.
        images: keyword arguments -> PaddleMIX's image processor.
    """

    def __init__(self, tokenizer, images) -> None:
        self.tokenizer, self._images = tokenizer, images

    def apply_chat_template(self, messages, tokenize=False, add_generation_prompt=True) -> str:
        """The text of the messages, as the tokenizer's method of this name."""
        return self.tokenizer.apply_chat_template(
            messages, tokenize=tokenize, add_generation_prompt=add_generation_prompt
        )

    def __call__(
        self, text, images=None, videos=None, fps=None, do_resize=True, images_kwargs=None, return_tensors="pd"
    ):
        """Tensors for ``generate``: one pad token becomes one for every merged patch.

        images: PIL images; videos: uint8 [T, H, W, 3] each, whose sizes are already multiples of 28; fps: frames a
        second of the videos; images_kwargs: ``min_pixels`` and ``max_pixels``.
        """
        found, texts = {}, list(text)
        for kind, given in (("images", images), ("videos", videos)):
            if given is None:
                continue
            limits = (images_kwargs or {}) if kind == "images" else {}
            processor = self._images(**limits) if do_resize else self._unresized(given)
            features = processor(**{"images": None, "videos": None, kind: given}, return_tensors=return_tensors)
            found.update(features)
            grid = features[f"{kind[:-1]}_grid_thw"]
            counts = [math.prod(int(n) for n in row) // processor.merge_size**2 for row in grid.tolist()]
            texts = _repeat_pads(texts, PADS[kind], counts)
            if kind == "videos":
                seconds = processor.temporal_patch_size / (2.0 if fps is None else fps)
                found["second_per_grid_ts"] = paddle.full([len(counts)], seconds)
        return {**self.tokenizer(texts, return_tensors=return_tensors), **found}

    def _unresized(self, videos):
        """An image processor whose limits leave the frames as they are."""
        pixels = [int(np.prod(video.shape[1:3])) for video in videos]
        return self._images(min_pixels=min(pixels), max_pixels=max(pixels))


def _repeat_pads(texts: list[str], pad: str, counts: list[int]) -> list[str]:
    """Each pad token, in order, as many times as its picture has merged patches."""
    left = iter(counts)
    return ["".join(part + pad * next(left) for part in text.split(pad)[:-1]) + text.split(pad)[-1] for text in texts]
