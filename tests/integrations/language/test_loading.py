"""Checkpoints as others save them, folders that are not ours to write to, and what a load that fails leaves behind."""

import json
import os
import shutil
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import paddle
import pytest
from paddleformers.transformers import PretrainedConfig
from safetensors.numpy import load_file, save_file
from shared_demo import ROOT

from psa_paddle.integrations.language import loading
from psa_paddle.integrations.language.loading import load_qwen2_5_vl

CHECKPOINT = ROOT / "demo" / "checkpoint"
BESIDE = ("architectures", "model_type", "vision_start_token_id", "vision_end_token_id", "vision_token_id",
          "image_token_id", "video_token_id", "torch_dtype", "vision_config")  # fmt: skip


@pytest.fixture(scope="module")
def weights():
    return load_file(CHECKPOINT / "model.safetensors")


def save_as_transformers_5(folder, weights, tied, inside, head, shards=1, theta=1e6):
    """A copy of the demo checkpoint with a ``text_config``, as transformers 5.3 writes it.

    tied: what ``tie_word_embeddings`` says, inside of ``text_config`` or beside it; None: nothing; head: whether the
    weights have one.
    """
    shutil.copytree(CHECKPOINT, folder, ignore=shutil.ignore_patterns("model.safetensors", "*.metadata"))
    text = json.loads((CHECKPOINT / "config.json").read_text(encoding="utf-8"))
    top = {name: text.pop(name) for name in BESIDE}
    del text["tie_word_embeddings"], text["rope_theta"]
    text["model_type"] = "qwen2_5_vl_text"
    sections = text.pop("rope_scaling")["mrope_section"]
    text["rope_parameters"] = {"rope_type": "default", "rope_theta": theta, "mrope_section": sections}
    if tied is not None:
        (text if inside else top)["tie_word_embeddings"] = tied
    (folder / "config.json").write_text(json.dumps({**top, "text_config": text}), encoding="utf-8")
    kept = {name: value for name, value in weights.items() if head or name != "lm_head.weight"}
    if shards == 1:
        save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
        return folder
    where = {name: f"model-{i % shards + 1:05}-of-{shards:05}.safetensors" for i, name in enumerate(sorted(kept))}
    for file in set(where.values()):
        save_file({n: kept[n] for n in kept if where[n] == file}, folder / file, metadata={"format": "pt"})
    index = {"metadata": {"total_size": 0}, "weight_map": where}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    return folder


def logits(model) -> np.ndarray:
    ids = paddle.to_tensor(np.random.default_rng(0).integers(2, 1000, (1, 30)))
    with paddle.no_grad():
        return model(ids).logits.numpy()


SAVED = {
    "tied, said beside": (dict(tied=True, inside=False, head=False), True),
    "tied, said inside": (dict(tied=True, inside=True, head=False), True),
    "tied in shards": (dict(tied=True, inside=False, head=False, shards=3), True),
    "tied, said by the weights alone": (dict(tied=None, inside=False, head=False), True),
    "tied with a head of its own": (dict(tied=True, inside=False, head=True), True),
    "not tied": (dict(tied=False, inside=False, head=True), False),
    "not tied, says nothing": (dict(tied=None, inside=False, head=True, shards=2), False),
}


@pytest.mark.parametrize("case", SAVED)
def test_checkpoints_of_transformers_5(case, tmp_path, demo, weights):
    settings, tied = SAVED[case]
    model, _ = load_qwen2_5_vl(str(save_as_transformers_5(tmp_path / "model", weights, **settings)), "float32")
    head = model.lm_head.weight.numpy()
    embedding = model.model.language_model.embed_tokens.weight.numpy()
    assert np.array_equal(
        head.reshape(embedding.shape) if tied else head, embedding if tied else demo[0].lm_head.weight
    )
    with paddle.no_grad():
        ids = paddle.to_tensor([[5, 6, 7, 8]])
        assert np.array_equal(model.model(ids)[0].numpy(), demo[0].model(ids)[0].numpy())
    if not tied:
        assert np.array_equal(logits(model), logits(demo[0]))


def test_what_stands_beside_goes_before_what_stands_inside(tmp_path, demo, weights):
    """As transformers 5 reads it: a model whose head was trained apart, from one that was tied."""
    folder = save_as_transformers_5(tmp_path / "model", weights, tied=False, inside=False, head=True)
    config = json.loads((folder / "config.json").read_text())
    config["text_config"]["tie_word_embeddings"] = True
    (folder / "config.json").write_text(json.dumps(config))
    model, _ = load_qwen2_5_vl(str(folder), "float32")
    assert np.array_equal(logits(model), logits(demo[0]))


def test_the_base_of_the_positions_is_read_inside(tmp_path, demo, weights):
    folder = save_as_transformers_5(tmp_path / "model", weights, tied=False, inside=False, head=True, theta=1e3)
    model, _ = load_qwen2_5_vl(str(folder), "float32")
    assert (
        model.model.language_model.rotary_emb.inv_freq[1] > demo[0].model.language_model.rotary_emb.inv_freq[1] + 0.01
    )


@pytest.fixture(autouse=True)
def own_temporary_folder(tmp_path_factory, monkeypatch):
    """Other tests make private folders at the same time."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path_factory.mktemp("private")))


def private_folders() -> set:
    return {name for name in os.listdir(tempfile.gettempdir()) if name.startswith("psa_paddle_")}


def test_the_model_folder_is_left_alone(tmp_path, demo):
    """Not even a file that comes and goes: the folder's own time of change stays."""
    folder = tmp_path / "shared"
    shutil.copytree(CHECKPOINT, folder, ignore=shutil.ignore_patterns("*.metadata"))
    (folder / "flex-ckpt.auto_generated.metadata").write_bytes(b"somebody else's")
    (folder / "flex-ckpt.auto_generated.metadata.lock").touch()  # of a process that died, say
    folder.chmod(0o555)
    try:
        before, changed, others = sorted(os.listdir(folder)), folder.stat().st_mtime_ns, private_folders()
        model, processor = load_qwen2_5_vl(str(folder), "float32")
        assert sorted(os.listdir(folder)) == before and folder.stat().st_mtime_ns == changed
        assert private_folders() == others
        assert np.array_equal(logits(model), logits(demo[0]))
        assert processor.tokenizer.name_or_path == str(folder)
        processor.save_pretrained(tmp_path / "saved")  # needs the files that it was read from
        assert (tmp_path / "saved" / "tokenizer.json").is_file()
    finally:
        folder.chmod(0o755)


def test_a_relative_name_and_links_load(tmp_path, monkeypatch, demo):
    """Weights that are links already, as in the cache of a hub."""
    (tmp_path / "model").mkdir()
    for file in CHECKPOINT.iterdir():
        (tmp_path / "model" / file.name).symlink_to(file)
    monkeypatch.chdir(tmp_path)
    assert np.array_equal(logits(load_qwen2_5_vl("model", "float32")[0]), logits(demo[0]))


def test_a_load_that_fails_leaves_nothing_behind(tmp_path, demo, weights):
    broken = save_as_transformers_5(tmp_path / "model", weights, tied=False, inside=False, head=True)
    save_file({"lm_head.weight": weights["lm_head.weight"]}, broken / "model.safetensors", metadata={"format": "pt"})
    others, dtype = private_folders(), paddle.get_default_dtype()
    with pytest.raises(ValueError, match="could not be loaded"):
        load_qwen2_5_vl(str(broken), "bfloat16")
    assert private_folders() == others and paddle.get_default_dtype() == dtype
    model, processor = load_qwen2_5_vl(str(CHECKPOINT), "float32")
    assert np.array_equal(logits(model), logits(demo[0])) and not model.training
    assert processor.tokenizer.padding_side == "left"


def test_threads_load_one_after_another(monkeypatch):
    """Paddle keeps the metadata of what it is loading in the process."""
    inside, most = [], []

    def slow(*_, **__):
        inside.append(1)
        time.sleep(0.1)
        most.append(len(inside))
        inside.pop()
        raise OSError("nothing here")

    monkeypatch.setattr(loading.paddleformers_loading, "load", slow)
    with ThreadPoolExecutor(3) as pool:
        loads = [pool.submit(load_qwen2_5_vl, "Some/Model", "float32") for _ in range(3)]
    assert most == [1] * 3 and all(isinstance(load.exception(), ValueError) for load in loads)


def test_the_dtype_is_the_one_that_was_asked_for():
    model, _ = load_qwen2_5_vl(str(CHECKPOINT), "bfloat16")
    assert {str(p.dtype) for p in model.parameters()} == {"paddle.bfloat16"}
    names = {part._attn_implementation for part in (model.config.text_config, model.config.vision_config)}
    assert names == {"sdpa"}


@pytest.mark.parametrize("cache_dir", [None, "kept/here"])
def test_a_name_of_a_hub_goes_to_the_library_with_its_cache(cache_dir, monkeypatch):
    seen = []

    def unreachable(name, **where):
        seen.append((name, where))
        raise OSError("nobody answers.\nA second line")

    monkeypatch.setattr(PretrainedConfig, "get_config_dict", unreachable)
    with pytest.raises(ValueError, match=r"^model 'Some/Model' could not be loaded: nobody answers\.$"):
        load_qwen2_5_vl("Some/Model", "float32", cache_dir)
    assert seen == [("Some/Model", {} if cache_dir is None else {"cache_dir": cache_dir})]
