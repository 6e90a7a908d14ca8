"""Which rows each rank computes, and by which plan."""

import pytest

from psa_paddle import AttentionConfig
from psa_paddle.context_split import chunk_pattern, chunk_plan, chunk_spans, context_spans
from psa_paddle.plan import Plan
from psa_paddle.triangle_pattern import Pattern


@pytest.mark.parametrize("length", [641, 1024, 1300, 131072, 131073])
@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_chunks_are_the_prompt(length, ranks):
    chunks = chunk_spans(length, ranks)
    assert len(chunks) == 2 * ranks and chunks[0][0] == 0 and chunks[-1][1] == length
    assert all(a[1] == b[0] and b[0] % 128 == 0 for a, b in zip(chunks, chunks[1:], strict=False))
    sizes = [-(-(stop - start) // 128) for start, stop in chunks]
    assert max(sizes) - min(sizes) <= 1 and min(sizes) >= 1


def test_ranks_take_an_early_and_a_late_chunk_and_see_as_many_keys():
    chunks, ranks = chunk_spans(8192, 4), 4
    taken = [span for rank in range(ranks) for span in context_spans(8192, ranks, rank)]
    assert sorted(taken) == list(chunks)
    seen = [sum(sum(range(*span)) for span in context_spans(8192, ranks, rank)) for rank in range(ranks)]
    assert max(seen) == min(seen)


@pytest.mark.parametrize(
    "length, ranks, rank, says",
    [
        (896, 4, 0, "4 ranks need a prompt of more than 896 tokens (8 chunks of 128), got 896; use fewer ranks."),
        (4096, 0, 0, "ranks must be at least 1, got 0."),
        (4096, 2, 2, "rank must lie in [0, 2), got 2."),
        (4096, 2, -1, "rank must not be negative, got -1."),
    ],
)
def test_what_cannot_be_is_refused(length, ranks, rank, says):
    with pytest.raises(ValueError) as error:
        context_spans(length, ranks, rank)
    assert str(error.value) == says
    assert context_spans(897, 4, 0)[1] == (896, 897)


def test_a_length_is_a_number():
    context_spans(4096, 2, 0)
    with pytest.raises(TypeError, match="^length must be an integer, got 4096.0"):
        context_spans(4096.0, 2, 0)


@pytest.mark.parametrize("stop, text", [(1000, 0), (4000, 0), (4596, 500), (4196, 100), (4096, 0)])
def test_what_the_end_of_the_prompt_forces_ends_with_it(stop, text):
    plan = Plan.of(AttentionConfig(text_length=500), 1.0)
    assert chunk_plan(plan, 4596, stop, 4).forced_text == text
    assert chunk_pattern(Pattern(8, 64, 500), 4596, stop) == Pattern(8, 64, text)


def test_the_whole_decides_whether_it_runs_dense_and_shares_the_audit():
    plan = Plan.of(AttentionConfig(dense_below=4096), 1.0, audit_rows=64)
    assert chunk_plan(plan, 4096, 128, 4).why_dense(128) == ""
    assert chunk_plan(plan, 4095, 4095, 4).why_dense(4095) == "shorter than 4096 keys"
    assert chunk_plan(plan.replace(dense="decode"), 9999, 128, 4).why_dense(128) == "decode"
    assert [chunk_plan(plan, 4096, 128, n).audit_rows for n in (4, 6)] == [16, 11]
    assert chunk_plan(plan.replace(audit_rows=0), 4096, 128, 4).audit_rows == 0
