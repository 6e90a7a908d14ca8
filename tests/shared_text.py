"""Tiny models of PaddleFormers, and a stand-in for paddlefleet, which PyPI does not have.

It stands in while PaddleFormers' modules that import paddlefleet are imported; the models that the tests build from
them (``...Deprecated``) take nothing of it.
"""

import sys
import types
from contextlib import contextmanager
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec

import paddle

from psa_paddle.integrations.language.families import Family

NAMES = ("paddlefleet", "paddlefleet_ops")


class _Module(types.ModuleType):
    __path__ = ()

    def __getattr__(self, name: str):
        if name.startswith("__"):
            raise AttributeError(name)
        return (
            (lambda: False) if name.startswith("is_") else type(name, (), {"encoder_or_decoder": None})
        )  # a default somewhere


class _StandIn(MetaPathFinder, Loader):
    def find_spec(self, name, path, target=None):
        if name.partition(".")[0] not in NAMES:
            return None
        spec = ModuleSpec(name, self, origin="stand-in", is_package=True)
        spec.has_location = True
        return spec

    def create_module(self, spec):
        return _Module(spec.name)

    def exec_module(self, module):
        pass


@contextmanager
def paddlefleet():
    """Whatever is imported from paddlefleet inside is an empty class; afterwards it is missing as before."""
    if find_spec(NAMES[0]) is not None:
        yield
        return
    finder = _StandIn()
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
        for name in [name for name in sys.modules if name.partition(".")[0] in NAMES]:
            del sys.modules[name]


TEXT = {
    "vocab_size": 64, "hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 1, "head_dim": 32, "max_position_embeddings": 4096, "pad_token_id": 0, "bos_token_id": 0,
    "eos_token_id": 1, "initializer_range": 0.3, "use_cache": True,
    "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32, "shared_expert_intermediate_size": 32,
}  # fmt: skip
VISION = {"depth": 1, "hidden_size": 32, "intermediate_size": 32, "num_heads": 2, "out_hidden_size": 64,
          "deepstack_visual_indexes": []}  # fmt: skip


def build(family: Family, **changes):
    """A tiny random model of a row of PaddleFormers, in evaluation mode; changes: of its text's configuration."""
    with paddlefleet():
        config_class, model_class = family.layouts["paddleformers"].classes()
    if family.vision_tokens:
        text = {**TEXT, **changes, "rope_scaling": {"rope_type": "default", "mrope_section": [4, 6, 6]}}
        config = config_class(text_config=text, vision_config=VISION, image_token_id=60, video_token_id=61)
    else:
        config = config_class(**{**TEXT, **changes})
    for part in (config, *(getattr(config, name, None) for name in ("text_config", "vision_config"))):
        if part is not None:
            part.fuse_rms_norm, part._attn_implementation = False, "sdpa"
    paddle.seed(0)
    model = model_class(config)
    model.eval()
    return model
