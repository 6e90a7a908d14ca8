"""What a recorder keeps of a request, against what the statistics say of it."""

import numpy as np
import paddle
import pytest
from PIL import Image
from shared_demo import LAYERS, ROOT, SPARSE

from psa_paddle.geometry import Geometry
from psa_paddle.integrations.language.attention import plug_of
from psa_paddle.integrations.language.inference import QwenVLInference
from psa_paddle.integrations.qwen2_5_vl import video_tokens_in
from psa_paddle.report import Recorder, capture, dense_in, figure, recording
from psa_paddle.report.capture import CELLS, WAYS, check_layers, make_level_map
from psa_paddle.report.figures import COLOURS, level_image, rgb

VIDEO = ROOT / "demo" / "sample.mp4"
CONFIG = SPARSE.replace(block_means=True)
CLIP = dict(prompt="请描述这个视频", max_tokens=3, max_frames=10)


@pytest.fixture(scope="module")
def model():
    return QwenVLInference("demo", dtype="float32", use_psa=True, psa_config=CONFIG)


@pytest.fixture(scope="module")
def recorded(model):
    """(recorder, answer, stats) of a request that all layers were recorded of."""
    with recording(model, range(LAYERS)) as record:
        answer = model.inference_video(VIDEO, streamer=record, **CLIP)
    return record, answer, model.stats()


def test_density_of_the_maps_is_that_of_the_statistics(model, recorded):
    record, _, stats = recorded
    heads = record.heads()
    for row in stats["layers"]:
        (found,) = record.maps[row["layer"]]
        np.testing.assert_allclose(1.0 - np.array(found.per_head_density), heads[row["layer"]], atol=1e-6)
        assert np.mean(heads[row["layer"]]) == pytest.approx(row["sparsity"], abs=1e-9)
        work = [1, 1 / 2, 1 / 4, 1 / 8, 1 / CONFIG.key_block, 0]
        assert np.dot(found.shares, work) == pytest.approx(1.0 - row["sparsity"], abs=1e-6)
        assert sum(found.shares) == pytest.approx(1.0)
    assert len(stats["layers"]) == LAYERS and 0.1 < stats["average_sparsity"] < 0.9


def test_without_a_recorder_nothing_is_computed(model, recorded, monkeypatch):
    def never(*arguments, **keywords):
        raise AssertionError("nobody asked for this")

    monkeypatch.setattr(capture, "key_mass", never)
    monkeypatch.setattr(capture, "level_map", never)
    assert plug_of(model).recorder is None
    assert model.inference_video(VIDEO, **CLIP) == recorded[1]


def test_mass_is_all_of_the_questions_attention(recorded):
    record, _, stats = recorded
    assert [x.sum() for x in record.mass.values()] == pytest.approx([1.0] * LAYERS)
    frames = record.mass_of_frames(CLIP["max_frames"] // 2)
    assert frames.shape == (LAYERS, CLIP["max_frames"] // 2)
    first = np.flatnonzero(record.vision)[0]
    tokens = stats["vision_tokens"] // (CLIP["max_frames"] // 2)
    np.testing.assert_allclose(frames[2, 1], record.mass[2][first + tokens : first + 2 * tokens].sum())
    assert record.question_rows == min(16, stats["sequence_length"] - first - stats["vision_tokens"])
    assert record.mass_of_frames(7) is None  # 540 tokens are not 7 equal parts


def test_dropped_video_tokens_leave_the_frames_in_their_places(model):
    with video_tokens_in(model.model, 0.5), recording(model, [0]) as record:
        model.inference_video(VIDEO, streamer=record, **CLIP)
        stats = model.stats()
    (clip,) = stats["video_tokens"]["clips"]
    kept = clip["tokens_of_a_frame"] - np.array(clip["dropped_of_frames"])
    assert record.stay.sum() == len(record.mass[0]) == stats["prefill_tokens"] < stats["sequence_length"]
    found, first = record.mass_of_frames(len(kept)), np.flatnonzero(record.vision)[0]
    for frame, end in enumerate(first + np.cumsum(kept)):
        np.testing.assert_allclose(found[3, frame], record.mass[3][end - kept[frame] : end].sum())


def test_pictures_of_different_size_are_told_apart():
    record = Recorder(None, [], [9])
    record.put(paddle.to_tensor([[1, 9, 9, 2, 9, 9, 9, 9, 3, 3]]))
    record.mass[0] = np.arange(10) / 45
    np.testing.assert_allclose(record.mass_of_frames(2), [[3 / 45, 22 / 45]])
    assert record.question_rows == 2 and record.mass_of_frames(4) is None


def test_chunks_give_the_map_and_the_rows_of_one_call():
    rng = np.random.default_rng(0)
    q, k = (paddle.to_tensor(rng.standard_normal((1, h, 512, 32)).astype(np.float32)) for h in (2, 1))
    config = SPARSE.replace(text_length=0)
    whole, parts = (Recorder(None, [0], [9]) for _ in range(2))
    call = type("Call", (), {"mode": "sparse"})
    for record in (whole, parts):
        record.put(np.array([[9] * 500 + [1] * 12]))
    whole.see(0, q, k, None, config, call)
    for stop in (128, 256, 512):
        start = {128: 0, 256: 128, 512: 256}[stop]
        parts.see(0, q[:, :, start:stop], k[:, :, :stop], None, config, call)
    assert len(parts.maps[0]) == 3
    np.testing.assert_allclose(parts.mass[0], whole.mass[0], atol=1e-7)
    one, three = (np.asarray(level_image(record.maps[0]), int) for record in (whole, parts))
    assert np.abs(one - three).max() <= 1 and len(np.unique(one)) > 3


def test_a_chunk_that_ran_dense_is_drawn_at_level_one():
    """Early chunks are short; a layer all of whose calls ran dense has no map."""
    rng = np.random.default_rng(0)
    q, k = (paddle.to_tensor(rng.standard_normal((1, h, 256, 32)).astype(np.float32)) for h in (2, 1))
    record = Recorder(None, [0, 1], [9])
    record.put(np.array([[9] * 250 + [1] * 6]))
    dense, sparse = (type("Call", (), {"mode": mode}) for mode in ("dense", "sparse"))
    for layer, second in ((0, sparse), (1, dense)):
        record.see(layer, q[:, :, :128], k[:, :, :128], None, SPARSE.replace(text_length=0), dense)
        record.see(layer, q[:, :, 128:], k, None, SPARSE.replace(text_length=0), second)
    assert list(record.maps) == [0] and record.maps[0][0].per_head_density == [1.0]
    pixels = np.asarray(level_image(record.maps[0]))
    assert (pixels[0, 0] == rgb(COLOURS["1"])).all() and (pixels[0, 7] == 255).all() and len(pixels) == 8


def test_a_map_of_100k_tokens_is_small_and_loses_no_pair():
    geo = Geometry(100_000, 100_000, 128, 64, True)
    columns = np.arange(geo.n_j)
    valid = columns < np.array([geo.n_valid(i) for i in range(geo.n_i)])[:, None]
    levels = np.where(valid, np.array([1, 2, 4, 8, 0])[columns % 5], 0).astype(np.int8)[None, None]
    found = make_level_map(levels, geo, True)
    assert found.cells.shape == (len(WAYS), CELLS, CELLS) and found.cells.dtype == np.float32
    sizes = np.outer(*(np.diff(np.arange(CELLS + 1) * n // CELLS) for n in (geo.n_i, geo.n_j)))
    np.testing.assert_allclose((found.cells * sizes).sum((1, 2)) / geo.n_pairs(), found.shares, rtol=1e-4)
    assert found.shares[WAYS.index("means")] > 0.19 and 0 < found.shares[WAYS.index("skipped")] < 0.001
    assert level_image([found]).size == (CELLS, CELLS)


def test_colours_of_a_map_say_what_blocks_did():
    geo = Geometry(256, 256, 64, 64, True)
    levels = np.zeros((1, 1, 4, 4), np.int8)
    levels[0, 0, range(4), range(4)] = 1
    levels[0, 0, 3, 0] = 8
    pixels = np.asarray(level_image([make_level_map(levels, geo, False)]))
    ways = {(0, 0): "1", (3, 0): "8", (2, 0): "skipped"}
    for place, way in ways.items():
        assert (pixels[place] == rgb(COLOURS[way])).all()
    assert (pixels[0, 3] == 255).all()
    with_means = np.asarray(level_image([make_level_map(levels, geo, True)]))
    assert (with_means[2, 0] == rgb(COLOURS["means"])).all()


def test_figures_are_pictures(recorded, tmp_path):
    record = recorded[0]
    for what, more in (("levels", {"layer": 2}), ("heads", {}), ("frames", {"frames": CLIP["max_frames"] // 2})):
        figure(record, what, **more).save(tmp_path / "figure.png")
        with Image.open(tmp_path / "figure.png") as saved:
            assert min(saved.size) > 100 and len(saved.getcolors(1 << 20)) > 5
    for more, words in (
        ({"what": "levels"}, "there is no level map"),
        ({"what": "levels", "layer": 77}, "there is no level map"),
        ({"what": "x"}, "'levels', 'heads' or 'frames', got 'x'"),
        ({"what": "frames"}, "'frames' needs frames="),
        ({"what": "frames", "frames": 7}, "has not 7 pairs of frames"),
    ):
        with pytest.raises(ValueError, match=words):
            figure(record, **more)


def test_layers():
    assert check_layers(None, 28) == [0, 9, 18, 27] and check_layers(None, 2) == [0, 1]
    assert check_layers([5, 1, 5], 28) == [1, 5]
    with pytest.raises(ValueError, match="no layer 28; the model's layers are 0 to 27"):
        check_layers([28], 28)


def test_refusals(model):
    with pytest.raises(ValueError, match="one request"):
        Recorder(None, [], [9]).put(np.zeros((2, 3)))
    with pytest.raises(RuntimeError, match="nothing was recorded"):
        _ = Recorder(None, [], [9]).vision
    with dense_in(model), pytest.raises(ValueError, match="dense attention has nothing to record"):
        with recording(model):
            pass
