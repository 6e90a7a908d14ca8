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
        """The configuration's class and the model's; the library is imported here."""
        places = (path.split(":") for path in (self.config, self.model))
        config, model = (getattr(import_module(module), name) for module, name in places)
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
    frames, none for a model of text alone; pixel_factor: pixels a side of one vision token, None without vision.
    """

    name: str
    model_type: str
    layouts: Mapping[str, Layout]
    vision_tokens: tuple[str, ...] = ()
    pixel_factor: int | None = None

    def vision_ids(self, config) -> list[int]:
        """The token ids that stand for pictures and frames."""
        return [token for name in self.vision_tokens if (token := getattr(config, name)) is not None]

    def vision_factor(self) -> int:
        """``pixel_factor``; ValueError for a model of text alone."""
        if self.pixel_factor is None:
            raise ValueError(f"{self.name} reads text alone; take a model with vision.")
        return self.pixel_factor


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
    wanted = [layout.model.split(":")[1] for layout in layouts]
    return f"expected PaddleFormers' {' or '.join(wanted)}, got {type(model).__name__}."


def of_type(model_type: str, library: str) -> tuple[Family, Layout]:
    """The family that a checkpoint's configuration names, and how the library builds it.

    Raises:
        ValueError: none that the library has.
    """
    known = [family for family in FAMILIES if library in family.layouts]
    for family in known:
        if family.model_type == model_type:
            return family, family.layouts[library]
    raise ValueError(f"it is a '{model_type}' model, not {' or '.join(family.name for family in known)}")
