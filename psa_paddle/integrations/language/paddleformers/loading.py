"""Load a model through PaddleFormers 1.2."""

from __future__ import annotations

import importlib
import json
import tempfile
from contextlib import contextmanager
from pathlib import Path

import paddle

from ..families import of_type

WRITTEN_BESIDE_WEIGHTS = (".metadata", ".lock")  # by PaddleFormers, at every load
HEAD = "lm_head.weight"


def load(name: str, dtype: str, cache_dir=None):
    """``(model, processor)``; arguments as ``language.loading.load_qwen2_5_vl``, whose errors cover what fails here."""
    from paddleformers.transformers import AutoProcessor, PretrainedConfig

    where = {} if cache_dir is None else {"cache_dir": str(cache_dir)}
    with _private_folder(name) as place:
        written = PretrainedConfig.get_config_dict(place, **where)[0]
        _, layout = of_type(written.get("model_type"), "paddleformers")
        config_class, model_class = layout.classes()
        config = config_class.from_pretrained(place, **where)
        config.tie_word_embeddings = _is_tied(written, Path(place))
        for part in (config, config.text_config, config.vision_config):
            part.fuse_rms_norm = paddle.get_device().startswith("gpu")  # the fused kernel exists for GPUs only
            part._attn_implementation = "sdpa"
        try:
            model = model_class.from_pretrained(place, config=config, dtype=dtype, **where)
        finally:  # a load that fails leaves its metadata, which the next one would take for its own
            importlib.import_module("paddle.distributed.flex_checkpoint.dcp.load_state_dict")._metadata_manager.clear()
    return model, AutoProcessor.from_pretrained(name, **where)


@contextmanager
def _private_folder(name: str):
    """A folder of links to a local model's files, as PaddleFormers writes beside the weights and the folder may be
    read-only or loaded by many processes at once; the name itself for a model of a hub."""
    if not Path(name).is_dir():
        yield name
        return
    with tempfile.TemporaryDirectory(prefix="psa_paddle_") as place:
        for file in Path(name).resolve().iterdir():
            if not file.name.endswith(WRITTEN_BESIDE_WEIGHTS):
                (Path(place) / file.name).symlink_to(file)
        yield place


def _is_tied(config: dict, folder: Path) -> bool:
    """Whether the output head is the embedding: transformers 5 says so beside ``text_config``, others inside or have no
    ``text_config``; and weights without a head leave no other."""
    said = config.get("tie_word_embeddings", config.get("text_config", {}).get("tie_word_embeddings", False))
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        return said or HEAD not in json.loads(index.read_text(encoding="utf-8"))["weight_map"]
    single = folder / "model.safetensors"
    if single.is_file():
        from safetensors import safe_open

        with safe_open(single, framework="np") as file:
            return said or HEAD not in file.keys()
    return said
