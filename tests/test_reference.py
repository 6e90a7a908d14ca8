"""The reference itself, against numbers worked out by hand and against plain loops."""

import numpy as np
import pytest
from shared import smooth_qkv

from psa_paddle import reference
from psa_paddle.plan import Plan


def test_all_level_one_is_dense_attention():
    q, k, v = (x[0].astype(np.float64) for x in smooth_qkv(70, 150, 4, 2, 32))
    levels = np.where(reference.block_grid(70, 150, 64, 32, True)[0], 1, 0)[None].repeat(4, 0)
    dense = reference.dense_attention(q, k, v, 0.2, True)
    assert np.abs(reference.attend(q, k, v, levels, Plan(0.2, True, 64, 32)) - dense).max() < 1e-14


def test_pooled_key_stands_for_its_run():
    """Two equal keys at level 2 weigh what they weigh apart; the value is their mean."""
    k = np.zeros((1, 32, 2))
    k[0, 4:6] = [1.0, 0.0]
    v = np.arange(32.0).reshape(1, 32, 1)
    q = np.array([[[3.0, 0.0]]])
    out = reference.attend(q, k, v, np.array([[[2]]]), Plan(1.0, False, 64, 32))
    weights = np.ones(32)
    weights[4:6] = np.exp(3.0)
    assert out.item() == pytest.approx((weights * v[0, :, 0]).sum() / weights.sum(), rel=1e-12)


def test_mean_of_a_skipped_block_stands_for_its_keys():
    """Three blocks of 32 keys: the first at level 1, the second by its means, the third, ragged, not at all."""
    k, v, q = np.zeros((1, 80, 1)), np.arange(80.0).reshape(1, 80, 1), np.array([[[3.0]]])
    k[0, 32:64:2] = 1.0  # mean 0.5; the values' is 47.5
    weights = [*[1.0] * 32, 32 * np.exp(1.5)]
    values = [*range(32), 47.5]
    levels = np.array([[[1, 0, 0]]])
    out = reference.attend(q, k, v, levels, Plan(1.0, False, 64, 32, block_means=True))
    assert out.item() == pytest.approx(np.dot(weights, values) / np.sum(weights), rel=1e-12)
    assert reference.attend(q, k, v, levels, Plan(1.0, False, 64, 32)).item() == pytest.approx(15.5, rel=1e-12)
    assert reference.sparsity(levels, 1, 80, 64, 32, False, block_means=True) == pytest.approx(1 - (1 + 1 / 32) / 3)


def test_means_are_of_the_blocks_before_the_first_row():
    """Causal, 64 queries at the end of 128 keys: blocks 0 and 1 are wholly visible to all, 2 and 3 are not."""
    q, k, v = (x[0].astype(np.float64) for x in smooth_qkv(64, 128, 1, 1, 32))
    out = reference.attend(q, k, v, np.zeros((1, 1, 4), int), Plan(0.2, True, 64, 32, block_means=True))
    weights = reference.softmax(0.2 * q @ k[:, :64].reshape(1, 2, 32, 32).mean(2).swapaxes(1, 2))
    assert np.abs(out - weights @ v[:, :64].reshape(1, 2, 32, 32).mean(2)).max() < 1e-14
    assert reference.sparsity(np.zeros((1, 1, 4)), 64, 128, 64, 32, True, block_means=True) == 1 - 2 / 32 / 4


def test_energy_is_the_share_before_the_block():
    """Masses .5 .3 .2: shares before are 0, .5, .8; a rule that includes the block would pool the heaviest one."""
    importance = np.array([[[0.3, 0.5, 0.2]]])
    cap = np.full((1, 3), 8)
    intervals = ((1, 0.0, 0.4), (4, 0.4, 0.7), (0, 0.7, 1.0))
    plan = Plan(1.0, False, 64, 32, intervals, "energybound")
    levels = reference.select_levels(importance, cap, plan, 64, 96)
    assert levels.tolist() == [[[1, 1, 0]]]  # block 0 would be 4 and is forced to 1
    levels = reference.select_levels(importance[..., ::-1], cap, plan, 64, 96)
    assert levels.tolist() == [[[1, 1, 4]]]


def test_topk_counts_ranks_among_valid_blocks():
    importance = np.array([[[0.1, 0.4, 0.3, 0.2]]])
    intervals = ((1, 0.0, 0.5), (2, 0.5, 0.75), (0, 0.75, 1.0))
    levels = reference.select_levels(importance, np.full((1, 4), 8), Plan(1.0, False, 64, 32, intervals), 64, 128)
    assert levels.tolist() == [[[1, 1, 1, 2]]]


# (key_block, n) -> how many blocks are at level 1 and at level 8, of shares 1/8 and 1/8 at 8,192 keys
SQRT_COUNTS = {
    (64, 128): (16, 16),  # 8,192 keys: 1/8 and 1/8
    (64, 32): (8, 8),  # a quarter of the keys: 1/4 and 1/4
    (64, 512): (32, 32),  # four times the keys: 1/16 and 1/16
    (64, 2): (2, 0),  # 1/8 times 8 is the whole row
    (64, 50): (10, 10),  # 1/8 times 8/5
    (64, 3): (3, 0),  # 1/8 times sqrt(42.7) is 0.816: ranks 0, 1/3 and 2/3 are below
    (64, 5): (4, 1),  # 1/8 times sqrt(25.6) is 0.632: ranks up to 3/5 are below, 4/5 is below twice that
    (32, 256): (32, 32),
    (32, 64): (16, 16),
    (128, 64): (8, 8),
    (128, 256): (16, 16),
}


@pytest.mark.parametrize("key_block,n", SQRT_COUNTS)
def test_topk_sqrt_scales_the_shares_by_the_root_of_the_row(key_block, n):
    importance = np.arange(n, 0, -1.0).reshape(1, 1, n)
    intervals, cap = ((1, 0.0, 0.125), (8, 0.125, 0.25), (0, 0.25, 1.0)), np.full((1, n), 8)
    lk = n * key_block
    plan = Plan(1.0, False, 64, key_block, intervals, "topk_sqrt")
    levels = reference.select_levels(importance, cap, plan, 64, lk)
    ones, eights = SQRT_COUNTS[key_block, n]
    assert levels[0, 0].tolist() == [1] * ones + [8] * eights + [0] * (n - ones - eights)


def test_topk_sqrt_takes_the_length_of_each_row():
    """Causal rows of 2, 32 and 128 blocks; the last one, on the diagonal, is at level 1 whatever its rank."""
    importance = np.arange(128, 0, -1.0) * np.ones((1, 128, 1))
    intervals, cap = ((1, 0.0, 0.125), (0, 0.125, 1.0)), np.full((1, 128), 8)
    plan = Plan(1.0, True, 64, 64, intervals, "topk_sqrt")
    levels = reference.select_levels(importance, cap, plan, 8192, 8192)
    assert levels[0, [1, 31, 127]].sum(1).tolist() == [2, 8 + 1, 16 + 1]


@pytest.mark.parametrize("strides,terms", [((4, 4), 4), ((4, 4), 2), ((16, 4), 1)], ids=str)
def test_xattn_matches_plain_loops(strides, terms):
    q, k, _ = (x[0].astype(np.float64) for x in smooth_qkv(70, 100, 2, 1, 32))
    (r, s), scale, offset = strides, 0.3, 30

    def place(group, size, part):
        middle = size // terms * part + size // terms // 2
        return (middle + int(group**2 * 0.6180339887 % 1 * size if terms < size else 0)) % size

    logits = np.full((2, -(-70 // r), 25), -np.inf)
    for h, a, b in np.ndindex(logits.shape):
        if b * s > min(a * r + r - 1, 69) + offset:
            continue
        pairs = [(a * r + r - 1 - place(a + offset // r, r, t), b * s + place(b, s, t)) for t in range(terms)]
        logits[h, a, b] = scale / terms * sum(q[h, i] @ k[0, j] for i, j in pairs if i < 70 and j < 100)
    p = reference.softmax(logits)
    expected = np.stack([p[:, : 64 // r].sum(1), p[:, 64 // r :].sum(1)], 1)
    expected = np.stack([expected[..., j : j + 8].sum(-1) for j in range(0, 25, 8)], -1)
    got = reference.xattn_importance(q, k, scale, True, 64, 32, strides, terms)
    assert np.abs(got - expected).max() < 1e-12


def test_crossing_pairs_are_never_free():
    valid, free = reference.block_grid(100, 130, 64, 32, True)
    assert valid.tolist() == [[True, True, True, False, False], [True] * 5]
    assert free.tolist() == [[False] * 5, [True, True, False, False, False]]


def test_sparsity_counts_work_by_level():
    levels = np.array([[[1, 2], [8, 0]]])
    assert reference.sparsity(levels, 128, 64, 64, 32, False) == pytest.approx(1 - (1 + 0.5 + 0.125) / 4)
