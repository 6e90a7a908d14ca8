"""The bundled Qwen2.5-VL, loaded as the real one is, and the stub video pipelines."""

import numpy as np
import pytest
from shared_demo import ROOT
from stub_video import STUBS, StubVideoPipeline

from psa_paddle.integrations.language.loading import load_qwen2_5_vl


@pytest.fixture(scope="session")
def demo():
    """(model, processor)"""
    return load_qwen2_5_vl(str(ROOT / "demo" / "checkpoint"), "float32")


@pytest.fixture(scope="session")
def golden():
    with np.load(ROOT / "tests" / "golden" / "demo_logits.npz") as file:
        return dict(file)


@pytest.fixture(scope="session")
def prompts(demo):
    """Two prompts of different length about two clips, and the left-padded batch of both."""
    _, processor = demo
    rng = np.random.default_rng(0)
    clips = [np.repeat(rng.integers(0, 255, (n, 6, 8, 3)), 28, 1).repeat(28, 2).astype(np.uint8) for n in (12, 8)]
    texts = []
    for question in ("请描述这个视频", "How many red circles are there, and which way do they move?"):
        content = [{"type": "video"}, {"type": "text", "text": question}]
        message = [{"role": "user", "content": content}]
        texts.append(processor.apply_chat_template(message, tokenize=False, add_generation_prompt=True))

    def make(texts, clips):
        settings = {"fps": 2.0, "do_resize": False, "padding": True, "return_tensors": "pd"}
        return processor(text=texts, videos=clips, **settings)

    return make(texts[:1], clips[:1]), make(texts[1:], clips[1:]), make(texts, clips)


@pytest.fixture(params=list(STUBS))
def pipe(request):
    return StubVideoPipeline(request.param)


@pytest.fixture
def cogvideox():
    return StubVideoPipeline("stub-cogvideox")


@pytest.fixture
def wan():
    return StubVideoPipeline("stub-wan")
