"""What fits, and what would."""

from dataclasses import replace

from psa_paddle import AttentionConfig
from psa_paddle.sizing import KNOWN, Request, fewest_gpus, fits, largest_chunk, memory_of, possible_gpus, room

SEVEN, LARGE, CONFIG = KNOWN["Qwen2.5-VL-7B"], KNOWN["Qwen2.5-VL-72B"], AttentionConfig()


def test_gpus_that_heads_can_be_split_over():
    assert possible_gpus(SEVEN) == [1, 2, 4] and possible_gpus(LARGE) == [1, 2, 4, 8]
    assert possible_gpus(KNOWN["Qwen2.5-VL-3B"]) == [1, 2]
    assert possible_gpus(replace(LARGE, vocabulary=152066)) == [1, 2] == possible_gpus(replace(LARGE, intermediate=6))


def test_a_tenth_is_left():
    assert room("H100") == int(81559 * 2**20 * 0.9)


def test_the_fewest_gpus_are_enough_and_fewer_are_not():
    request = Request(65536)
    found = fewest_gpus(LARGE, request, CONFIG, "H100")
    assert found == 4
    assert fits(memory_of(LARGE, replace(request, gpus=4), CONFIG), "H100")
    assert not fits(memory_of(LARGE, replace(request, gpus=2), CONFIG), "H100")
    assert fewest_gpus(LARGE, Request(1 << 22), CONFIG, "H100") is None


def test_the_largest_chunk_is_enough_and_a_larger_one_is_not():
    request = Request(1 << 19)
    assert not fits(memory_of(SEVEN, request, CONFIG), "H100")
    found = largest_chunk(SEVEN, request, CONFIG, "H100")
    assert fits(memory_of(SEVEN, replace(request, chunk=found), CONFIG), "H100")
    assert found == 131072 or not fits(memory_of(SEVEN, replace(request, chunk=2 * found), CONFIG), "H100")
    assert largest_chunk(LARGE, request, CONFIG, "H100") is None
    assert largest_chunk(SEVEN, Request(1024), CONFIG, "H200") is None  # a chunk is shorter than the prompt
    assert largest_chunk(SEVEN, Request(1025), CONFIG, "H200") == 1024
