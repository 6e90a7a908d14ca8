"""Layers with less work: the same numbers, undone exactly."""

import copy
import json
import subprocess
import sys

import numpy as np
import paddle
import pytest
from shared_demo import ROOT, SPARSE, greedy

from psa_paddle import eager
from psa_paddle.integrations.language.attention import psa_attention_in
from psa_paddle.integrations.language.paddleformers import tower
from psa_paddle.integrations.language.paddleformers.fast import fast_layers_in, use_fast_layers, use_own_layers
from psa_paddle.integrations.language.paddleformers.norms import normed


def forwards(model) -> dict:
    """The instances' own ``forward``, by layer."""
    return {name: vars(layer)["forward"] for name, layer in model.named_sublayers() if "forward" in vars(layer)}


@pytest.fixture
def model(demo):
    """The demo model with nothing plugged in, before and after."""
    assert forwards(demo[0]) == {}
    yield demo[0]
    assert forwards(demo[0]) == {} and not [name for name in vars(demo[0]) if name.startswith("_psa")]


@pytest.fixture
def taken(monkeypatch):
    """Segments and their length of each call that attends."""
    shapes, whole = [], tower.attend

    def noting(q, *rest):
        shapes.append(tuple(q.shape[1:3]))
        return whole(q, *rest)

    monkeypatch.setattr(tower, "attend", noting)
    return shapes


def see(model, *grids):
    """What the vision tower makes of pictures (t, h, w) of random patches, [n, D]."""
    rng = np.random.default_rng(0)
    patches = sum(t * h * w for t, h, w in grids)
    pixels = paddle.to_tensor(rng.standard_normal((patches, 1176)).astype(np.float32))
    return model.model.visual(pixels, paddle.to_tensor(grids))


@pytest.mark.parametrize(
    "grids,windows,frames",
    [
        ([(1, 40, 40)], [(25, 64)], [(1, 1600)]),
        ([(1, 40, 32), (1, 8, 8), (1, 26, 60)], [(1, 8), (7, 16), (3, 32), (42, 64)], [(1, 64), (1, 1280), (1, 1560)]),
        ([(3, 18, 24)], [(9, 16), (18, 64)], [(3, 432)]),
        ([(1, 2, 4), (2, 8, 2)], [(1, 8), (2, 16)], [(1, 8), (2, 16)]),
    ],
    ids=["a picture", "three pictures", "a clip", "less than a window"],
)
def test_vision_tower_sees_the_same(model, taken, grids, windows, frames):
    """All windows of a size in one call, and all frames."""
    with paddle.no_grad():
        own = see(model, *grids).numpy()
        assert taken == []
        with fast_layers_in(model):
            fast = see(model, *grids).numpy()
        assert np.array_equal(see(model, *grids).numpy(), own)
    assert taken == windows * 3 + frames
    assert np.abs(fast - own).max() <= 1e-5 * np.abs(own).max()


def test_pictures_do_not_see_each_other(model):
    with paddle.no_grad(), fast_layers_in(model):
        together = see(model, (1, 40, 32), (1, 40, 32)).numpy()
        alone = see(model, (1, 40, 32)).numpy()
    assert np.abs(together[: len(alone)] - alone).max() <= 1e-5 * np.abs(alone).max()
    assert np.abs(together[len(alone) :] - alone).max() > 0.1


def test_nothing_is_kept_between_calls(model):
    """Other pictures of as many patches, and none after an error."""
    with paddle.no_grad(), fast_layers_in(model):
        see(model, (1, 16, 24))
        turned = see(model, (1, 24, 16)).numpy()
        with pytest.raises(ValueError):
            model.model.visual(paddle.zeros([8, 1176]), paddle.to_tensor([[1, 4, 4]]))
        assert np.array_equal(see(model, (1, 24, 16)).numpy(), turned)
        plug = model.model.visual.blocks[0].attn.forward.func.__self__
        assert plug._segments == []
    with paddle.no_grad():
        assert np.abs(see(model, (1, 24, 16)).numpy() - turned).max() <= 1e-5 * np.abs(turned).max()


def test_norms_of_the_text_model(model):
    """Not further from float64 than those of the library."""
    norm = model.model.language_model.norm
    x = np.random.default_rng(1).standard_normal((2, 300, norm.weight.size)).astype(np.float32)
    exact = x.astype(np.float64) / np.sqrt((x.astype(np.float64) ** 2).mean(-1, keepdims=True) + norm.variance_epsilon)
    exact = exact * norm.weight.numpy()
    errors = []
    with paddle.no_grad():
        for run in (norm, lambda x: normed(norm, x)):
            errors.append(np.abs(run(paddle.to_tensor(x)).numpy() - exact).max())
        with fast_layers_in(model):
            assert norm.forward.func is normed
    assert errors[1] <= 1.5 * errors[0] < 1e-5


def test_answers_are_the_same_beside_sparse_attention(model, prompts):
    """In either order."""
    with psa_attention_in(model, SPARSE):
        alone = greedy(model, prompts[0], 3)
        with fast_layers_in(model):
            assert greedy(model, prompts[0], 3) == alone
    with fast_layers_in(model), psa_attention_in(model, SPARSE):
        assert greedy(model, prompts[0], 3) == alone


def test_where_gradients_are_wanted_layers_attend_as_before(model, taken):
    weight = model.model.visual.blocks[0].attn.qkv.weight
    found = []
    for fast in (False, True):
        with fast_layers_in(model) if fast else paddle.set_grad_enabled(True):
            see(model, (1, 16, 24)).sum().backward()
        found.append(weight.grad.numpy().copy())
        model.clear_gradients()
    assert taken == []
    assert np.abs(found[1] - found[0]).max() <= 1e-4 * np.abs(found[0]).max() > 0


@pytest.mark.parametrize("run", [tower.by_paddle, lambda *x: tower.by_kernel(*x, 72**-0.5)], ids=["Paddle", "ours"])
def test_the_ways_of_a_gpu_give_the_same(run):
    q, k, v = paddle.randn([3, 2, 5, 40, 72]).unbind(0)
    want = eager.dense_attention(q, k, v, False, 72**-0.5)
    got = run(q, k, v)
    assert got.shape == want.shape and float((got - want).abs().max()) < 1e-5


def test_plug_is_undone(model):
    state = {k: id(v) for k, v in model.state_dict().items()}
    assert use_fast_layers(model) is model and use_fast_layers(model) is model
    plugged = forwards(model)
    twin = copy.deepcopy(model)
    assert forwards(twin).keys() == plugged.keys()
    assert all(forwards(twin)[name].args[:1] != run.args[:1] for name, run in plugged.items() if run.args)
    assert use_own_layers(twin) is twin and forwards(twin) == {}
    with fast_layers_in(model):
        pass
    assert forwards(model) == plugged
    use_own_layers(use_own_layers(model))
    assert forwards(model) == {} and {k: id(v) for k, v in model.state_dict().items()} == state
    with pytest.raises(RuntimeError), fast_layers_in(model):
        raise RuntimeError


def test_refuses():
    with pytest.raises(TypeError, match="got Linear"):
        use_fast_layers(paddle.nn.Linear(2, 2))


PHOTO = """
import json, resource
from PIL import Image
from psa_paddle.integrations.language.inference import QwenVLInference
model = QwenVLInference("demo", dtype="float32")
photo = Image.open("demo/sample.jpg").resize((1232, 924))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
model.inference_image(photo, "Describe this image.", 1)
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(json.dumps([(peak - before) // 1024, model.stats()["vision_tokens"]]))
"""


def test_photo_in_little_memory():
    """5,808 patches: one matrix of their weights takes 515 MiB in 4 heads, and Paddle's own attention makes two."""
    done = subprocess.run([sys.executable, "-c", PHOTO], cwd=ROOT, capture_output=True, text=True)
    mebibytes, tokens = json.loads(done.stdout.splitlines()[-1])
    assert tokens == 5808 // 4 and mebibytes < 300
