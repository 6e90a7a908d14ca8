"""Chunks of a prompt's rows, as several GPUs compute them, against one call: bitwise, also where many blocks are all
but equally important."""

import pytest
from gpu.gpu_cases import DEVICE, torch
from gpu.launches import operator

from psa_paddle.config import AttentionConfig
from psa_paddle.context_split import chunk_pattern, chunk_plan, chunk_spans
from psa_paddle.kernels.triangle import triangle_fwd
from psa_paddle.plan import Plan
from psa_paddle.triangle_pattern import Pattern

pytestmark = pytest.mark.gpu
LENGTH, RANKS, DIM = 65536 + 65, 4, 128


def drawn(heads: int):
    """q, k, v of random numbers, two kv heads."""
    generator = torch.Generator(DEVICE).manual_seed(0)
    return [
        torch.randn(1, n, LENGTH, DIM, device=DEVICE, generator=generator).to(torch.bfloat16) for n in (heads, 2, 2)
    ]


@pytest.mark.parametrize("size", [1.0, 0.01], ids=["apart", "alike"])
@pytest.mark.parametrize("preset", ["balanced", "quality"])
@pytest.mark.parametrize("key_block", [32, 64, 128])
def test_chunks_are_bitwise_the_whole(preset, key_block, size):
    q, k, v = drawn(8)
    config = AttentionConfig.preset(preset, key_block=key_block, text_length=200)
    plan = Plan.of(config, size * DIM**-0.5)
    whole, work = operator(q, k, v, plan)
    rows, done = [], []
    for start, stop in chunk_spans(LENGTH, RANKS):
        own = chunk_plan(plan, LENGTH, stop, 2 * RANKS)
        part, counts = operator(q[:, :, start:stop], k[:, :, :stop], v[:, :, :stop], own)
        rows.append(part)
        done.append(counts)
    assert torch.equal(torch.cat(done, 2), work)
    differ = (torch.cat(rows, 2) != whole).any(-1).any(1)[0].nonzero()
    assert not len(differ), f"{len(differ)} rows differ, first {differ[:3].flatten().tolist()}"


@pytest.mark.parametrize("heads", [8, 14])
def test_chunks_of_trianglemix_are_bitwise_the_whole(heads):
    q, k, v = drawn(heads)
    pattern, scale = Pattern(8, 500, 128), DIM**-0.5
    parts = [
        triangle_fwd(q[:, :, start:stop], k[:, :, :stop], v[:, :, :stop], chunk_pattern(pattern, LENGTH, stop), scale)
        for start, stop in chunk_spans(LENGTH, RANKS)
    ]
    assert torch.equal(torch.cat(parts, 2), triangle_fwd(q, k, v, pattern, scale))
