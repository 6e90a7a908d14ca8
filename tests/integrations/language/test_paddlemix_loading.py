"""Loading for PaddleMIX: weights that torch wrote, its processor behind PaddleFormers' calls, and the choice."""

import importlib.util
import json
from types import SimpleNamespace

import numpy as np
import paddle
import pytest
from paddle import nn

from psa_paddle.integrations.language.inference import QwenVLInference
from psa_paddle.integrations.language.loading import check_library
from psa_paddle.integrations.language.paddlemix.loading import Processor, set_torch_weights, torch_files


class Tiny(nn.Layer):
    def __init__(self, tied=False):
        super().__init__()
        self.embed, self.square, self.conv = nn.Embedding(4, 4), nn.Linear(4, 4), nn.Conv3D(3, 2, 2)
        self.lm_head = nn.Linear(4, 4, bias_attr=False)
        self.config = SimpleNamespace(tie_word_embeddings=tied)


def weights(seed=0):
    """As torch stores them: matrices [out, in], tables [rows, width]."""
    rng = np.random.default_rng(seed)
    shapes = {"embed.weight": (4, 4), "square.weight": (4, 4), "square.bias": (4,), "conv.weight": (2, 3, 2, 2, 2)}
    shapes.update({"conv.bias": (2,), "lm_head.weight": (4, 4)})
    return {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}


def write_safetensors(path, tensors, kind="F32", written_by="pt"):
    header, data = {"__metadata__": {"format": written_by}}, b""
    for name, value in tensors.items():
        raw = value.tobytes() if kind == "F32" else (value.view(np.uint32) >> 16).astype(np.uint16).tobytes()
        place = [len(data), len(data) + len(raw)]
        header[name] = {"dtype": kind, "shape": list(value.shape), "data_offsets": place}
        data += raw
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)
    return path


@pytest.mark.parametrize("kind", ["F32", "BF16"])
def test_weights_of_torch_are_transposed_where_they_are_matrices(kind, tmp_path):
    want = weights()
    halves = [{n: want[n] for n in list(want)[:3]}, {n: want[n] for n in list(want)[3:]}]
    for i, half in enumerate(halves):
        write_safetensors(tmp_path / f"model-{i}.safetensors", half, kind)
    files = torch_files(str(tmp_path))
    assert [file.name for file in files] == ["model-0.safetensors", "model-1.safetensors"]
    model = Tiny()
    set_torch_weights(model, files)
    if kind == "BF16":
        want = {n: (v.view(np.uint32) >> 16 << 16).view(np.float32) for n, v in want.items()}
    for name, value in model.state_dict().items():
        expected = want[name].T if name in ("square.weight", "lm_head.weight") else want[name]
        assert np.array_equal(value.numpy(), expected), name


def test_tied_head_needs_no_weight_of_its_own(tmp_path):
    some = weights()
    del some["lm_head.weight"]
    file = write_safetensors(tmp_path / "model.safetensors", some)
    set_torch_weights(Tiny(tied=True), [file])
    with pytest.raises(ValueError, match="1 weights are in none of its files, such as lm_head.weight"):
        set_torch_weights(Tiny(), [file])


def test_refuses_weights_of_another_shape_or_kind(tmp_path):
    some = weights()
    some["square.weight"] = some["square.weight"][:3]
    with pytest.raises(ValueError, match=r"square.weight is \[4, 3\] in a.safetensors, the model needs \[4, 4\]"):
        set_torch_weights(Tiny(), [write_safetensors(tmp_path / "a.safetensors", some)])
    text = json.dumps({"embed.weight": {"dtype": "I64", "shape": [4, 4], "data_offsets": [0, 128]}}).encode()
    bad = tmp_path / "b.safetensors"
    bad.write_bytes(len(text).to_bytes(8, "little") + text + bytes(128))
    with pytest.raises(ValueError, match="stored as I64"):
        set_torch_weights(Tiny(), [bad])
    bad.write_bytes(b"no safetensors file")
    with pytest.raises(ValueError, match="b.safetensors is not a safetensors file"):
        torch_files(str(tmp_path))


def test_paddles_own_weights_are_left_to_paddlemix(tmp_path):
    write_safetensors(tmp_path / "model.safetensors", weights(), written_by="np")
    assert torch_files(str(tmp_path)) == [] and torch_files("Qwen/Qwen2.5-VL-7B-Instruct") == []


class Images:
    """PaddleMIX's image processor, as far as it is called."""

    merge_size, temporal_patch_size = 2, 2
    made: list = []

    def __init__(self, **settings):
        self.made.append(settings)

    def __call__(self, images, videos, return_tensors):
        kind, given = ("image", images) if images is not None else ("video", videos)
        grid = paddle.to_tensor([[max(1, len(x) // 2) if kind == "video" else 1, 4, 6] for x in given])
        name = "pixel_values" if kind == "image" else "pixel_values_videos"
        return {name: paddle.ones([int(grid.prod(axis=1).sum()), 3]), f"{kind}_grid_thw": grid}


def test_processor_repeats_each_pad_as_its_picture_needs():
    texts = []
    processor = Processor(lambda text, return_tensors: texts.extend(text) or {"input_ids": "ids"}, Images)
    videos = [np.zeros((4, 56, 84, 3), np.uint8), np.zeros((8, 56, 84, 3), np.uint8)]
    text = "a<|video_pad|>b<|image_pad|>c<|video_pad|>d"
    found = processor(text=[text], images=["one"], videos=videos, fps=4.0, images_kwargs={"max_pixels": 99})
    assert texts == ["a" + "<|video_pad|>" * 12 + "b" + "<|image_pad|>" * 6 + "c" + "<|video_pad|>" * 24 + "d"]
    assert found["second_per_grid_ts"].tolist() == [0.5, 0.5] and found["input_ids"] == "ids"
    assert Images.made[0] == {"max_pixels": 99}
    processor(text=["<|video_pad|>"], videos=videos[:1], fps=1.0, do_resize=False)
    assert Images.made[-1] == {"min_pixels": 56 * 84, "max_pixels": 56 * 84}, "frames stay as they are"


@pytest.mark.parametrize(
    "choice,installed,want",
    [
        ("auto", ("paddleformers", "paddlemix"), "paddleformers"),
        ("auto", ("paddlemix",), "paddlemix"),
        ("paddlemix", ("paddleformers", "paddlemix"), "paddlemix"),
        ("auto", (), "pip install paddleformers==1.2.0"),
        ("paddlemix", ("paddleformers",), "docs/paddlemix.md"),
        ("paddleformers", ("paddlemix",), "paddleformers is not installed; pip install paddleformers==1.2.0."),
        ("transformers", ("paddleformers",), "must be auto"),
    ],
)
def test_library(choice, installed, want, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name if name in installed else None)
    if want in ("paddleformers", "paddlemix"):
        assert check_library(choice) == want
    else:
        with pytest.raises(ValueError, match=want):
            check_library(choice)


def test_inference_refuses_a_library_that_is_not_installed(monkeypatch):
    with pytest.raises(ValueError, match="must be auto"):
        QwenVLInference("demo", library="torch")
    if importlib.util.find_spec("paddlemix") is None:
        with pytest.raises(ValueError, match="paddlemix is not installed; docs/paddlemix.md says how"):
            QwenVLInference("demo", library="paddlemix")
