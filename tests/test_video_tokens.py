"""Which tokens of a clip stay."""

import numpy as np
import paddle
import pytest

from psa_paddle.video_tokens import EVERY, SAME, check_video_tokens, choose


def clip(cosines) -> paddle.Tensor:
    """Tokens [frames, places, 2] of which each has these cosines [frames - 1, places] with the one a frame earlier:
    turned by so much, and of any length."""
    turned = np.cumsum(np.arccos(np.clip(cosines, -1, 1)), 0)
    angles = np.concatenate([np.zeros((1, turned.shape[1])), turned])
    lengths = np.random.default_rng(0).uniform(0.5, 2, (*angles.shape, 1))
    return paddle.to_tensor((np.stack([np.cos(angles), np.sin(angles)], -1) * lengths).astype(np.float32))


@pytest.mark.parametrize("share", [0.75, 0.5])
def test_a_share_keeps_what_is_least_like_the_frame_before(share):
    cosines = np.random.default_rng(3).uniform(-1, 1, (39, 6))
    kept, in_turn = choose(clip(cosines), share), np.zeros((40, 6), bool)
    in_turn[::8, ::2] = in_turn[4::8, 1::2] = in_turn[0] = True
    assert kept[in_turn].all()
    rest, cosines = kept[1:] & ~in_turn[1:], cosines.astype(np.float32)
    assert rest.any() and cosines[rest].max() < cosines[~kept[1:]].min()


@pytest.mark.parametrize("share", [1.0, 0.9, 0.5, 0.25, 0.1, 0.05, 0.001])
def test_a_share_is_met_and_the_first_frame_stays_whole(share):
    kept = choose(clip(np.random.default_rng(1).uniform(-1, 1, (89, 6))), share)
    assert kept[0].all() and kept.sum() == max(6, round(share * 540))


@pytest.mark.parametrize("places", [20, 21])
def test_auto_shows_half_of_a_still_scene_every_second_frame(places):
    kept = choose(clip(np.full((79, places), 0.999999)), "auto")
    assert kept[0].all() and not kept[1::2].any()
    assert (kept[2::4] == np.arange(places) % 2).all() and (kept[4::4] == 1 - np.arange(places) % 2).all()


@pytest.mark.parametrize("share", [0.75, 0.25])
def test_a_share_keeps_each_place_every_eighth_frame(share):
    kept = choose(noisy(80, 20), share)
    assert max(np.diff(np.flatnonzero(place)).max() for place in kept.T) <= 8


def test_what_stays_in_turn_is_at_most_half_of_a_share():
    """Places that stand still, and one that moves: a share of a tenth has room for it."""
    cosines = np.full((199, 40), 0.999999)
    cosines[:, 7] = 0.0
    kept = choose(clip(cosines), 0.1)
    assert kept[:, 7].all() and kept.sum() == 800
    assert max(np.diff(np.flatnonzero(place)).max() for place in kept.T) == 2 / 0.1


def noisy(frames, places) -> paddle.Tensor:
    """Tokens that differ a little, at random."""
    return clip(np.random.default_rng(2).uniform(0.9, 1, (frames - 1, places)))


def test_of_equal_tokens_the_earlier_stays():
    kept = choose(paddle.ones([40, 2, 3]), 0.5).sum(1)
    assert set(kept[:16]) == {2} and set(kept[20:]) <= {0, 1}


def test_auto_gives_most_of_a_still_scene_away_and_nothing_of_a_busy_one():
    still, busy = choose(clip(np.full((80, 40), 0.999999)), "auto"), choose(clip(np.full((80, 40), 0.5)), "auto")
    assert still.mean() < 1 / EVERY + 1 / 80 and busy.all()


def test_auto_adds_slow_changes_up():
    """Turned by 7 degrees a frame, of which 18 count: no frame is new beside the one before, the third is."""
    assert 16 < np.degrees(np.arccos(SAME)) < 20
    kept = choose(clip(np.full((80, 3), np.cos(np.radians(7)))), "auto")
    for place in kept.T:
        assert np.diff(np.flatnonzero(place)).max() == 3 and place.sum() > 80 / 3


@pytest.mark.parametrize("how", ["auto", 0.5])
def test_a_token_that_is_no_number_stays(how):
    tokens = np.ones((4, 3, 2), np.float32)
    tokens[2, 1] = np.nan
    assert choose(paddle.to_tensor(tokens), how)[2, 1]


@pytest.mark.parametrize("how", ["auto", 0.3, 1.0])
def test_one_frame_stays(how):
    assert choose(paddle.ones([1, 4, 2]), how).all()


def test_low_precision_is_compared_in_full():
    """Cosines around the threshold, which bfloat16 does not tell apart."""
    tokens = clip(np.random.default_rng(4).uniform(SAME - 0.01, SAME + 0.01, (6, 40))).astype("bfloat16")
    kept = choose(tokens, "auto")
    assert kept.tolist() == choose(tokens.astype("float32"), "auto").tolist()
    assert kept[1:].any() and not kept[1:].all()


def test_a_token_without_length_stays():
    tokens = np.ones((3, 2, 4), np.float32)
    tokens[1, 0] = 0
    assert choose(paddle.to_tensor(tokens), "auto")[1, 0]


@pytest.mark.parametrize("value", [None, "auto", 0.5, 1, np.float32(0.25)])
def test_settings(value):
    assert check_video_tokens(value) == value and isinstance(check_video_tokens(value), (float, str, type(None)))


@pytest.mark.parametrize("value", ["0.5", "half", True, np.True_, [0.5], 0, 1.01, -0.5, float("nan"), float("inf")])
def test_what_is_no_setting(value):
    with pytest.raises((TypeError, ValueError), match="video_tokens must be 'auto' or"):
        check_video_tokens(value)
