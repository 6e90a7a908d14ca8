"""Which tokens of a clip stay."""

import numpy as np
import paddle
import pytest

from psa_paddle.integrations.language.video_tokens import SAME, WHOLE_EVERY, check_video_tokens, choose


def clip(cosines) -> paddle.Tensor:
    """Tokens [frames, places, 2] of which each has these cosines [frames - 1, places] with the one a frame earlier:
    turned by so much, and of any length."""
    turned = np.cumsum(np.arccos(np.clip(cosines, -1, 1)), 0)
    angles = np.concatenate([np.zeros((1, turned.shape[1])), turned])
    lengths = np.random.default_rng(0).uniform(0.5, 2, (*angles.shape, 1))
    return paddle.to_tensor((np.stack([np.cos(angles), np.sin(angles)], -1) * lengths).astype(np.float32))


def places(kept) -> list[list[int]]:
    """The places that stay of each frame."""
    return [np.flatnonzero(frame).tolist() for frame in kept]


def test_a_share_keeps_what_is_least_like_the_frame_before():
    cosines = [[0.9, 0.1, 0.8, 0.95], [0.2, 0.99, 0.3, 0.7]]
    assert places(choose(clip(cosines), 0.5)) == [[0, 1, 2, 3], [1], [0]]
    assert places(choose(clip(cosines), 0.75)) == [[0, 1, 2, 3], [1, 2], [0, 2, 3]]


@pytest.mark.parametrize("share", [1.0, 0.9, 0.5, 0.25, 0.1, 0.05])
def test_a_share_counts_whole_frames_which_are_at_most_half_of_it(share):
    kept = choose(clip(np.random.default_rng(1).uniform(-1, 1, (89, 6))), share)
    assert kept.sum() == max(6, round(share * 540))
    whole = range(0, 90, WHOLE_EVERY if share >= 2 / WHOLE_EVERY else round(2 / share))
    assert kept[list(whole)].all() and (share == 1 or not kept[1:].all(1)[: WHOLE_EVERY - 1].all())


def test_of_equal_tokens_the_earlier_stays():
    frames = paddle.ones([4, 2, 3])
    assert places(choose(frames, 0.5)) == [[0, 1], [0, 1], [], []]


def test_auto_gives_a_still_scene_away_and_nothing_of_a_busy_one():
    still, busy = choose(clip(np.full((7, 5), 0.999999)), "auto"), choose(clip(np.full((7, 5), 0.5)), "auto")
    assert still[0].all() and not still[1:].any() and busy.all()


def test_auto_keeps_every_eighth_frame_of_a_still_scene():
    kept = choose(clip(np.full((40, 3), 0.999999)), "auto")
    assert np.flatnonzero(kept.any(1)).tolist() == [0, 8, 16, 24, 32, 40] and kept[::8].all()


def test_auto_adds_slow_changes_up():
    """Turned by 4 degrees a frame, of which 18 count: no frame is new beside the one before, the fifth is."""
    assert 16 < np.degrees(np.arccos(SAME)) < 20
    kept = choose(clip(np.full((80, 1), np.cos(np.radians(4)))), "auto")[:, 0]
    assert np.flatnonzero(kept).tolist() == [i for i in range(81) if i % WHOLE_EVERY in (0, 5)]


@pytest.mark.parametrize("how", ["auto", 0.5])
def test_a_token_that_is_no_number_stays(how):
    tokens = np.ones((4, 3, 2), np.float32)
    tokens[2, 1] = np.nan
    assert choose(paddle.to_tensor(tokens), how)[2, 1]


@pytest.mark.parametrize("how", ["auto", 0.3, 1.0])
def test_one_frame_stays(how):
    assert choose(paddle.ones([1, 4, 2]), how).all()


def test_low_precision_is_compared_in_full():
    """A cosine just below the threshold, of tokens whose lengths a sum in bfloat16 would not hold."""
    tokens = clip(np.full((6, 40), SAME - 0.01)).astype("bfloat16")
    assert choose(tokens, "auto").tolist() == choose(tokens.astype("float32"), "auto").tolist()


@pytest.mark.parametrize("value", [None, "auto", 0.5, 1, np.float32(0.25)])
def test_settings(value):
    assert check_video_tokens(value) == value and isinstance(check_video_tokens(value), (float, str, type(None)))


@pytest.mark.parametrize("value", ["0.5", "half", True, np.True_, [0.5], 0, 1.01, -0.5, float("nan"), float("inf")])
def test_what_is_no_setting(value):
    with pytest.raises((TypeError, ValueError), match="video_tokens must be 'auto' or"):
        check_video_tokens(value)
