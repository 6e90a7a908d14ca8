"""The shapes of a model that memory and time follow from, of a configuration or of the published sizes."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

DEMO = Path(__file__).resolve().parents[1] / "demo" / "checkpoint"


@dataclass(frozen=True)
class TowerShape:
    """A vision tower; lengths in numbers, patches of ``patch`` x ``patch`` pixels of two frames.

    gated: three matrices and RMSNorm in a layer (Qwen2.5-VL), or two and LayerNorm (Qwen3-VL); positions: learnt ones;
    branches: layers beside the last one whose output enters the text model.
    """

    hidden: int
    intermediate: int
    layers: int
    out: int
    patch: int
    gated: bool
    positions: int = 0
    branches: int = 0

    @property
    def parameters(self) -> int:
        """Number of weights."""
        h, i, wide = self.hidden, self.intermediate, 4 * self.hidden
        norm = h if self.gated else 2 * h
        mlp = 3 * h * i + 2 * i + h if self.gated else 2 * h * i + i + h
        layer = 4 * h * h + 4 * h + mlp + 2 * norm
        patches = 3 * 2 * self.patch**2 * h + (0 if self.gated else h)
        merger = wide * wide + wide + wide * self.out + self.out
        branches = self.branches * (merger + 2 * wide)
        return patches + self.positions * h + self.layers * layer + norm + merger + branches


@dataclass(frozen=True)
class ModelShape:
    """A language model of dense layers, with or without a vision tower.

    tied: the last layer's weights are the embedding's; qkv_bias, out_bias: whether these projections have one; qk_norm:
    whether queries and keys are normalised.
    """

    name: str
    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    tied: bool = False
    qkv_bias: bool = False
    out_bias: bool = False
    qk_norm: bool = False
    tower: TowerShape | None = None

    @property
    def matrices(self) -> int:
        """Weights of all layers' matrices, by which every token is multiplied."""
        width = (2 * self.heads + 2 * self.kv_heads) * self.head_dim
        return self.layers * self.hidden * (width + 3 * self.intermediate)

    @property
    def embeddings(self) -> int:
        """Weights of the embedding and of the last layer."""
        return self.vocabulary * self.hidden * (1 if self.tied else 2)

    @property
    def vectors(self) -> int:
        """Biases and norms."""
        biases = self.qkv_bias * (self.heads + 2 * self.kv_heads) * self.head_dim + self.out_bias * self.hidden
        return self.layers * (biases + self.qk_norm * 2 * self.head_dim + 2 * self.hidden) + self.hidden

    @property
    def parameters(self) -> int:
        """All weights, the tower's too."""
        return self.matrices + self.embeddings + self.vectors + (self.tower.parameters if self.tower else 0)


Sizes = tuple[int, int, int, int, int, int, int]


def _qwen2_5_vl(name: str, sizes: Sizes, tower: int = 3420, tied: bool = False) -> ModelShape:
    shape = ModelShape(f"Qwen2.5-VL-{name}", *sizes, tied=tied, qkv_bias=True)
    return replace(shape, tower=TowerShape(1280, tower, 32, shape.hidden, 14, True))


def _qwen3_vl(
    name: str, sizes: Sizes, tower: tuple[int, int, int] = (1152, 4304, 27), tied: bool = False
) -> ModelShape:
    shape = ModelShape(f"Qwen3-VL-{name}", *sizes, tied=tied, qk_norm=True)
    return replace(shape, tower=TowerShape(*tower, shape.hidden, 16, False, positions=2304, branches=3))


# hidden, intermediate, layers, heads, kv heads, head dimension, vocabulary: as the config.json of each model has them.
KNOWN = {
    shape.name: shape
    for shape in (
        _qwen2_5_vl("3B", (2048, 11008, 36, 16, 2, 128, 151936), tied=True),
        _qwen2_5_vl("7B", (3584, 18944, 28, 28, 4, 128, 152064)),
        _qwen2_5_vl("32B", (5120, 27648, 64, 40, 8, 128, 152064), tower=3456),
        _qwen2_5_vl("72B", (8192, 29568, 80, 64, 8, 128, 152064), tower=3456),
        _qwen3_vl("2B", (2048, 6144, 28, 16, 8, 128, 151936), tower=(1024, 4096, 24), tied=True),
        _qwen3_vl("4B", (2560, 9728, 36, 32, 8, 128, 151936), tower=(1024, 4096, 24), tied=True),
        _qwen3_vl("8B", (4096, 12288, 36, 32, 8, 128, 151936)),
        _qwen3_vl("32B", (5120, 25600, 64, 64, 8, 128, 151936)),
    )
}
# config.json's model_type -> (a bias on q, k and v, norms of queries and keys)
TEXT_TYPES = {
    "qwen2_5_vl": (True, False), "qwen3_vl": (False, True), "qwen2": (True, False), "qwen3": (False, True),
    "llama": (False, False), "phi3": (False, False),
}  # fmt: skip


def shape_of(model: str) -> ModelShape:
    """The shapes of a folder with a config.json, of ``"demo"``, or of a known size: ``"Qwen2.5-VL-7B"``, or by its name
    on the hub, ``"Qwen/Qwen2.5-VL-7B-Instruct"``.

    Raises:
        ValueError: neither, a config.json that cannot be read, or a kind of model that is not sized.
    """
    folder = DEMO if model == "demo" else Path(model)
    if model.strip() and folder.is_dir():
        path = folder / "config.json"
        try:
            config = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, json.JSONDecodeError, UnicodeDecodeError) as error:
            raise ValueError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}.") from None
        if not isinstance(config, dict):
            raise ValueError(f"{path} cannot be read: it holds no JSON object.")
        return shape_of_config(config, model)
    name = model.rsplit("/", 1)[-1].removesuffix("-Instruct").removesuffix("-Thinking")
    for known, shape in KNOWN.items():
        if name.lower() == known.lower():
            return shape
    known = ", ".join(["demo", *KNOWN])
    raise ValueError(f"{model} is neither a folder nor a size that is known: {known}.")


def shape_of_config(config: dict, name: str) -> ModelShape:
    """The shapes that a config.json says.

    Raises:
        ValueError: another kind of model, or a number that is missing or that no model can have.
    """
    kind = config.get("model_type")
    if kind not in TEXT_TYPES:
        known = ", ".join(TEXT_TYPES)
        raise ValueError(f"{name} is a model of the kind {kind!r}, which is not sized; these are: {known}.")
    text, vision = {**config, **(config.get("text_config") or {})}, config.get("vision_config")
    bias, norm = TEXT_TYPES[kind]

    def size(part: dict, key: str, otherwise: int | None = None) -> int:
        value = otherwise if part.get(key) is None else part[key]
        if value is None:
            raise ValueError(f"the config.json of {name} does not say {key!r}.")
        if type(value) is not int or value < 1:
            raise ValueError(f"the config.json of {name} must say a whole number from 1 on for {key!r}, not {value!r}.")
        return value

    hidden, heads = size(text, "hidden_size"), size(text, "num_attention_heads")
    shape = ModelShape(
        name, hidden, size(text, "intermediate_size"), size(text, "num_hidden_layers"), heads,
        size(text, "num_key_value_heads", heads), size(text, "head_dim", hidden // heads), size(text, "vocab_size"),
        bool(config.get("tie_word_embeddings", text.get("tie_word_embeddings", False))),
        bool(text.get("attention_bias", False)) or bias, bool(text.get("attention_bias", False)), norm,
    )  # fmt: skip
    if vision is None:
        return shape
    positions = size(vision, "num_position_embeddings") if "num_position_embeddings" in vision else 0
    tower = TowerShape(
        size(vision, "hidden_size"), size(vision, "intermediate_size"), size(vision, "depth"),
        size(vision, "out_hidden_size"), size(vision, "patch_size", 14), kind == "qwen2_5_vl", positions,
        len(vision.get("deepstack_visual_indexes", ())),
    )  # fmt: skip
    return replace(shape, tower=tower)
