"""The language models that can be plugged: one row of ``FAMILIES`` each.

A row says what loading, plugs and requests have to know of a model; the rest of the room holds for every row.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import reduce
from importlib import import_module
from typing import Any, NamedTuple


def _part(model, path: str):
    """What stands at a path of attributes with dots; None where there is nothing."""
    return reduce(lambda part, name: getattr(part, name, None), path.split("."), model)


@dataclass(frozen=True)
class Layout:
    """How a library builds a model of a family.

    config, model: module and class of the configuration and of the whole model; attention: the class of the text
    model's attention layers, which others may extend; text: where the text model stands, whose ``layers`` have a
    ``self_attn`` each; tower: where the vision tower stands, None without one; mends: what ``generate`` needs beside
    its cache and its last logits alone, of ``generation.MENDS``; prunes_video: whether each clip stands in one piece
    among the tokens and meets them only before the first layer, so that some of its tokens can be dropped there.
    """

    config: str
    model: str
    attention: str
    text: str
    tower: str | None = None
    mends: tuple[str, ...] = ()
    prunes_video: bool = False

    def classes(self) -> tuple[type[Any], type[Any]]:
        """The configuration's class and the model's; the library is imported here.

        Raises:
            ImportError: what the library itself imports for this model is missing.
        """
        places = (path.split(":") for path in (self.config, self.model))
        try:
            config, model = (getattr(import_module(module), name) for module, name in places)
        except ImportError as error:
            if "paddlefleet" not in str(error):
                raise
            raise ImportError(FLEET_MISSING) from error
        return config, model

    def text_of(self, model):
        """The text model; None where there is nothing."""
        return _part(model, self.text)

    def tower_of(self, model):
        """The vision tower; None without one."""
        return None if self.tower is None else _part(model, self.tower)

    def fits(self, model) -> bool:
        """Whether all attention layers of the text model are of the class."""
        layers = list(getattr(self.text_of(model), "layers", None) or [])
        kinds = [type(getattr(layer, "self_attn", None)) for layer in layers]
        return bool(layers) and all(self.attention in (c.__name__ for c in kind.__mro__) for kind in kinds)


@dataclass(frozen=True)
class Family:
    """One kind of model.

    name: as people say it; model_type: as config.json says it; layouts: by library, ``"paddleformers"`` or
    ``"paddlemix"``; vision_tokens: where the configuration has the ids of the tokens that stand for pictures and
    frames, none for a model of text alone; pixel_factor: pixels a side of one vision token, None without vision;
    time_stamps: whether the prompt says in words when the frames of a clip are seen; if not, positions do.
    """

    name: str
    model_type: str
    layouts: Mapping[str, Layout]
    vision_tokens: tuple[str, ...] = ()
    pixel_factor: int | None = None
    time_stamps: bool = False

    def vision_ids(self, config) -> list[int]:
        """The token ids that stand for pictures and frames."""
        return [token for name in self.vision_tokens if (token := getattr(config, name)) is not None]

    def vision_factor(self) -> int:
        """``pixel_factor``; ValueError for a model of text alone."""
        if self.pixel_factor is None:
            raise ValueError(f"{self.name} reads text alone; take a model with vision.")
        return self.pixel_factor


FLEET_MISSING = (
    "PaddleFormers imports paddlefleet for this model, which PyPI does not have; its README says how to install "
    "paddleformers[paddlefleet]"
)


def _of_text(name: str, model_type: str, stem: str, kind: str = "ForCausalLM", attention: str = "") -> Family:
    """A model of text alone that PaddleFormers has: module ``model_type``, classes that begin with ``stem``."""
    module = f"paddleformers.transformers.{model_type}"
    layout = Layout(
        config=f"{module}.configuration:{stem}Config",
        model=f"{module}.modeling:{stem}{kind}",
        attention=attention or f"{stem}Attention",
        text="model",
        mends=("sliding cache",),
    )
    return Family(name, model_type, {"paddleformers": layout})


FLEET = "ForCausalLMDeprecated"  # ...ForCausalLM are paddlefleet's layers, which do not ask the registry
FAMILIES = (
    Family(
        name="Qwen2.5-VL",
        model_type="qwen2_5_vl",
        layouts={
            "paddleformers": Layout(
                config="paddleformers.transformers.qwen2_5_vl.configuration:Qwen2_5_VLConfig",
                model="paddleformers.transformers.qwen2_5_vl.modeling:Qwen2_5_VLForConditionalGeneration",
                attention="Qwen2_5_VLAttention",
                text="model.language_model",
                tower="model.visual",
                mends=("positions", "sliding cache"),
                prunes_video=True,
            ),
            "paddlemix": Layout(
                config="paddlemix.models.qwen2_5_vl:Qwen2_5_VLConfig",
                model="paddlemix.models.qwen2_5_vl.modeling_qwen2_5_vl:Qwen2_5_VLForConditionalGeneration",
                attention="Qwen2_5_VLAttention",
                text="model",
                tower="visual",
            ),
        },
        vision_tokens=("image_token_id", "video_token_id"),
        pixel_factor=28,
    ),
    Family(
        name="Qwen3-VL",
        model_type="qwen3_vl",
        layouts={
            "paddleformers": Layout(
                config="paddleformers.transformers.qwen3_vl.configuration:Qwen3VLConfig",
                # Qwen3VLForConditionalGeneration needs paddlefleet, and its attention does not ask the registry.
                model="paddleformers.transformers.qwen3_vl.modeling:Qwen3VLForConditionalGenerationDeprecated",
                attention="Qwen3VLTextAttention",
                text="model.language_model",
                tower="model.visual",
                mends=("positions",),
            ),
        },
        vision_tokens=("image_token_id", "video_token_id"),
        pixel_factor=32,
        time_stamps=True,
    ),
    _of_text("Llama", "llama", "Llama", attention="LLamaAttention"),
    _of_text("Phi-3", "phi3", "Phi3"),
    _of_text("ERNIE-4.5", "ernie4_5", "Ernie4_5"),
    _of_text("Qwen2", "qwen2", "Qwen2", FLEET),
    _of_text("Qwen2-MoE", "qwen2_moe", "Qwen2Moe", FLEET),
    _of_text("Qwen3", "qwen3", "Qwen3", FLEET),
    _of_text("Qwen3-MoE", "qwen3_moe", "Qwen3Moe", FLEET),
)


class Match(NamedTuple):
    """What a model is: its family, the library that built it, and that library's layout."""

    family: Family
    library: str
    layout: Layout


def find(model) -> Match | None:
    """What a model is; None for one of no family."""
    for family in FAMILIES:
        for library, layout in family.layouts.items():
            if layout.fits(model):
                return Match(family, library, layout)
    return None


def check(model, *libraries: str) -> Match:
    """What a model is; libraries: those that may have built it, by default any.

    Raises:
        TypeError: a model of no family, or of another library.
    """
    found = find(model)
    if found is None or (libraries and found.library not in libraries):
        raise TypeError(refusal(model))
    return found


def refusal(model) -> str:
    """What to say of a model that cannot be plugged."""
    layouts = [family.layouts["paddleformers"] for family in FAMILIES if "paddleformers" in family.layouts]
    wanted, given = [layout.model.split(":")[1] for layout in layouts], type(model).__name__
    if f"{given}Deprecated" in wanted:
        return f"{given} does not ask PaddleFormers' attention registry; load the weights as {given}Deprecated."
    return f"expected PaddleFormers' {listed(wanted)}, got {given}."


def listed(names: list[str]) -> str:
    """Names as a sentence lists them."""
    return " or ".join([", ".join(names[:-1]), names[-1]] if names[1:] else names)


def of_type(model_type: str, library: str) -> tuple[Family, Layout]:
    """The family that a checkpoint's configuration names, and how the library builds it.

    Raises:
        ValueError: none that the library has.
    """
    known = [family for family in FAMILIES if library in family.layouts]
    for family in known:
        if family.model_type == model_type:
            return family, family.layouts[library]
    raise ValueError(f"it is a '{model_type}' model, not {listed([family.name for family in known])}")
