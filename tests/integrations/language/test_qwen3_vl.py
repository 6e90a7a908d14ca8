"""Qwen3-VL of PaddleFormers, with random weights: loaded, equal to transformers, plugged, restored."""

import json

import numpy as np
import paddle
import pytest
from shared_checkpoints import CASES, DEPTH, LAYERS, STEP, pictures_of, video_of, write_qwen3_vl
from shared_demo import ROOT, greedy
from shared_tiny import TINY_ONE, TINY_SPARSE, closeness, tiny_prompts

from psa_paddle.cli import main
from psa_paddle.integrations.language.attention import layer_statistics, plug_of, psa_attention_in
from psa_paddle.integrations.language.families import check, find
from psa_paddle.integrations.language.generation import cached_generation
from psa_paddle.integrations.language.inference import QwenVLInference
from psa_paddle.integrations.language.loading import load_qwen2_5_vl
from psa_paddle.integrations.language.paddleformers import tower
from psa_paddle.integrations.language.paddleformers.fast import fast_layers_in
from psa_paddle.integrations.language.paddleformers.linear_memory import linear_memory_in
from psa_paddle.integrations.language.request import chat
from psa_paddle.integrations.language.samples import clip_times
from psa_paddle.utils.media import Clip

GOLDEN = ROOT / "tests" / "golden" / "qwen3_vl_logits.npz"


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    """(model, processor)"""
    return load_qwen2_5_vl(str(write_qwen3_vl(tmp_path_factory.mktemp("qwen3-vl"))), "float32")


@pytest.fixture(scope="module")
def golden():
    with np.load(GOLDEN) as file:
        return dict(file)


def inputs_of(loaded, case: str) -> dict:
    """What the processor makes of a case, as a request has it."""
    model, processor = loaded
    text = processor.apply_chat_template(
        chat(CASES[case], "Describe this."), tokenize=False, add_generation_prompt=True
    )
    settings = {"text": [text], "return_tensors": "pd"}
    if pictures := pictures_of(case):
        settings["images"] = pictures
    if clip := video_of(case):
        clip = Clip(*clip, factor=32)
        settings |= {"videos": [clip.frames], "do_resize": False, **clip_times(clip, find(model).family)}
    return dict(processor(**settings).items())


def logits_of(model, inputs):
    with paddle.no_grad():
        return model(**inputs, use_cache=False).logits[0].numpy()


@pytest.mark.parametrize("case", ["image", "images", "video"])  # the library's own forward fails for both kinds
def test_logits_and_answers_agree_with_transformers(loaded, golden, case):
    """tests/golden/make_qwen3_vl.py wrote them: the prompt with its time stamps, logits, and greedy tokens."""
    model, _ = loaded
    inputs = inputs_of(loaded, case)
    assert np.array_equal(inputs["input_ids"].numpy(), golden[f"{case}.input_ids"])
    want, tokens = golden[f"{case}.logits"], [golden[f"{case}.tokens"].tolist()]
    with linear_memory_in(model), fast_layers_in(model):
        assert closeness(logits_of(model, inputs)[::-1][::STEP], want) < 1e-4
    with cached_generation(model):
        assert greedy(model, inputs, 6) == tokens
    with psa_attention_in(model, TINY_ONE):
        assert closeness(logits_of(model, inputs)[::-1][::STEP], want) < 1e-4
        assert greedy(model, inputs, 6) == tokens
        rows = layer_statistics(model)
        assert len(rows) == LAYERS and all(row["sparse_calls"] == row["calls"] == 2 for row in rows)


def see(model, *grids):
    """What the vision tower makes of pictures (t, h, w) of random patches, float32 [n, D]."""
    rng = np.random.default_rng(0)
    pixels = rng.standard_normal((sum(t * h * w for t, h, w in grids), 1536)).astype(np.float32)
    with paddle.no_grad():
        return model.model.visual(paddle.to_tensor(pixels), paddle.to_tensor(grids))[0].numpy()


@pytest.mark.parametrize(
    "grids,rows",
    [
        ([(4, 8, 12)], [(4, 96)]),
        ([(1, 8, 8), (1, 8, 12), (2, 4, 6)], [(2, 24), (1, 64), (1, 96)]),
        ([(2, 28, 40)], [(2, 1120)]),
    ],
    ids=["a clip", "pictures and a clip", "large frames"],
)
def test_tower_sees_frame_by_frame(loaded, grids, rows, monkeypatch):
    """No frame meets another one, which the library masks among all patches of all frames; all of a length at once."""
    model, seen, whole = loaded[0], [], tower.attend
    own = see(model, *grids)

    def noting(q, *rest):
        seen.append(tuple(q.shape[1:3]))
        return whole(q, *rest)

    monkeypatch.setattr(tower, "attend", noting)
    with fast_layers_in(model):
        fast = see(model, *grids)
    assert seen == rows * DEPTH
    assert closeness(fast, own) < 1e-5 and np.array_equal(see(model, *grids), own)


def state_of(model) -> dict:
    return {name: (value.data_ptr(), value.numpy().copy()) for name, value in model.state_dict().items()}


def test_restore_is_bitwise(loaded):
    model, inputs = loaded[0], inputs_of(loaded, "video")
    want, before = logits_of(model, inputs), state_of(model)
    with psa_attention_in(model, TINY_SPARSE):
        assert closeness(logits_of(model, inputs), want) > 1e-3
        assert all(row["sparsity"] > 0 for row in layer_statistics(model))
    after = state_of(model)
    assert plug_of(model) is None and np.array_equal(logits_of(model, inputs), want)
    assert {name: pointer for name, (pointer, _) in after.items()} == {name: old for name, (old, _) in before.items()}
    assert all(np.array_equal(after[name][1], value) for name, (_, value) in before.items())


@pytest.mark.parametrize("config", [None, TINY_ONE], ids=["dense", "level 1"])
def test_left_padded_prompts_of_text_answer_as_each_alone(loaded, config):
    """Whose positions the library would take from the first sample."""
    model = loaded[0]
    both = tiny_prompts([150, 110], seed=3)
    alone = [{name: both[name][i : i + 1, pad:] for name in both} for i, pad in enumerate((0, 40))]
    with cached_generation(model) if config is None else psa_attention_in(model, config):
        assert greedy(model, both) == [greedy(model, one)[0] for one in alone]


def test_tied_weights_answer_from_the_embedding(tmp_path):
    model, _ = load_qwen2_5_vl(str(write_qwen3_vl(tmp_path, tied=True)), "float32")
    assert np.array_equal(model.lm_head.weight.numpy(), model.model.language_model.embed_tokens.weight.numpy())


def test_the_class_that_has_no_registry_is_refused():
    """Qwen3VLForConditionalGeneration is of paddlefleet's layers; without paddlefleet it cannot even be imported."""

    class Qwen3VLForConditionalGeneration(paddle.nn.Layer):
        pass

    with pytest.raises(TypeError, match="load the weights as Qwen3VLForConditionalGenerationDeprecated[.]$"):
        check(Qwen3VLForConditionalGeneration())


def test_command_answers_about_a_clip(tmp_path, capsys):
    """``--model`` is known by its config.json: frames in multiples of 32 pixels, their times in the prompt."""
    folder, stats = write_qwen3_vl(tmp_path / "model"), tmp_path / "stats.json"
    clip = ["--type", "video", "--input", str(ROOT / "demo" / "sample.mp4"), "--max-frames", "12"]
    flags = ["--max-pixels", "65536", "--max-tokens", "3", "--attention", "psa", "--stats-json", str(stats)]
    assert main(["ask", "--model", str(folder), *clip, *flags]) == 0
    saved = json.loads(stats.read_text())
    assert saved["vision_tokens"] == 12 // 2 * (192 // 32) * (288 // 32) and saved["new_tokens"] == 3
    assert saved["frame_times_s"][:2] == [0.0, 2.5] and len(saved["layers"]) == LAYERS
    capsys.readouterr()
    assert main(["ask", "--model", str(folder), *clip[:4], "--max-pixels", "900"]) == 2
    assert "must be an integer of at least 1024, got 900" in capsys.readouterr().err


@pytest.mark.parametrize("chunk", [None, 128], ids=["whole", "chunks"])
def test_conversations_agree_with_transformers(loaded, tmp_path, golden, chunk):
    """The prompt, its time stamps, deepstack and positions, taken apart: pictures, clips, and both in one question."""
    model = QwenVLInference(str(write_qwen3_vl(tmp_path)), "float32", prefill_chunk=chunk)
    for case in ["images", "video", "both", "image"]:
        shown = [{"type": "image", "image": picture} for picture in pictures_of(case)]
        if clip := video_of(case):
            shown.append({"type": "video", "video": Clip(*clip, factor=32)})
        session = model.session()
        session.ask([*shown, {"type": "text", "text": "Describe this."}], 6)
        assert session.ids == [*golden[f"{case}.input_ids"][0], *golden[f"{case}.tokens"]]
    session.ask("And now?", 3)
    ids = paddle.to_tensor([session.ids[:-3]])
    with cached_generation(loaded[0]):
        assert greedy(loaded[0], {**inputs_of(loaded, "image"), "input_ids": ids, "attention_mask": None}, 3) == [
            session.ids[-3:]
        ]


def test_batch_answers_as_each_alone(tmp_path):
    model = QwenVLInference(str(write_qwen3_vl(tmp_path)), "float32", use_psa=True, psa_config=TINY_ONE)
    asked = {"type": "text", "text": "Describe this."}
    clip = {"type": "video", "video": Clip(*video_of("video"), factor=32)}
    picture = {"type": "image", "image": pictures_of("image")[0]}
    conversations = [[{"role": "user", "content": shown}] for shown in ([clip, asked], [picture, clip, asked], "Hello")]
    assert model.inference_batch(conversations, 5) == [model.chat(one, 5) for one in conversations]
