"""Load a model through PaddleFormers 1.2."""

from __future__ import annotations

import importlib
import json
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import paddle

from ..families import Family, of_type
from ..team import ALONE, Team, split

WRITTEN_BESIDE_WEIGHTS = (".metadata", ".lock")  # by PaddleFormers, at every load
HEAD = "lm_head.weight"


def family_of(name: str, _, cache_dir: str | None = None) -> Family:
    """The family that ``config.json`` names; arguments as those of ``load``."""
    from paddleformers.transformers import PretrainedConfig

    where = {} if cache_dir is None else {"cache_dir": str(cache_dir)}
    return of_type(PretrainedConfig.get_config_dict(name, **where)[0].get("model_type"), "paddleformers")[0]


def load(name: str, dtype: str, cache_dir=None, team: Team = ALONE):
    """``(model, processor)``; arguments as ``language.loading.load_qwen2_5_vl``, whose errors cover what fails here."""
    from paddleformers.transformers import AutoProcessor, AutoTokenizer, PretrainedConfig

    where = {} if cache_dir is None else {"cache_dir": str(cache_dir)}
    with _private_folder(name) as place:
        written = PretrainedConfig.get_config_dict(place, **where)[0]
        family, layout = of_type(written.get("model_type"), "paddleformers")
        config_class, model_class = layout.classes()
        config = config_class.from_pretrained(place, **where)
        config.tie_word_embeddings = _is_tied(written, Path(place))
        inner = (getattr(config, name, None) for name in ("text_config", "vision_config"))
        for part in (config, *(part for part in inner if part is not None)):
            part.use_cache = True  # of which ERNIE-4.5 says no
            part.fuse_rms_norm = paddle.get_device().startswith("gpu")  # the fused kernel exists for GPUs only
            part._attn_implementation = "sdpa"
        split(config, team)
        try:
            via_cpu = team.size > 1  # else a GPU would hold its part of the files beside its part of the model
            model = model_class.from_pretrained(place, config=config, dtype=dtype, load_via_cpu=via_cpu, **where)
        finally:  # a load that fails leaves its metadata, which the next one would take for its own
            importlib.import_module("paddle.distributed.flex_checkpoint.dcp.load_state_dict")._metadata_manager.clear()
    if not family.vision_tokens:
        return model, TokenizerAlone(AutoTokenizer.from_pretrained(name, **where))
    return model, AutoProcessor.from_pretrained(name, **where)


@dataclass(frozen=True)
class TokenizerAlone:
    """What a model of text alone has for a processor."""

    tokenizer: Any

    def __call__(self, text: list[str], **settings):
        """``input_ids`` and ``attention_mask`` of texts, as the tokenizer returns them."""
        return self.tokenizer(text, **settings)

    def apply_chat_template(self, messages: list[dict], **settings) -> str:
        """The messages as the model was taught them; the bare text where it was taught none."""
        if self.tokenizer.chat_template is None:
            return "\n\n".join(text_of(message) for message in messages)
        plain = [{**message, "content": text_of(message)} for message in messages]  # templates of text take no parts
        return self.tokenizer.apply_chat_template(plain, **settings)


def text_of(message: dict) -> str:
    """The text of a message."""
    content = message["content"]
    return content if isinstance(content, str) else "".join(part["text"] for part in content)


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
