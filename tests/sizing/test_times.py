"""Times of a prefill against measured rows."""

import pytest
from shared_results import rows_of

from psa_paddle.plan import DENSE_BELOW
from psa_paddle.sizing import KNOWN, OPERATOR, Request, prefill_seconds
from psa_paddle.sizing.measured import FLOOR_MS, FLOOR_TOKENS, HEADS, SUM_BYTES, SUM_MS
from psa_paddle.sizing.times import operator_ms

SEVEN = KNOWN["Qwen2.5-VL-7B"]


def test_the_figures_are_those_of_the_rows():
    for row in rows_of("operator_presets.csv"):
        own, tokens = OPERATOR[row["case"]], int(row["L"])
        assert own.by_tokens[tokens] == float(row["psa_ms"]) and int(row["heads"]) == HEADS
        if row["case"] == "balanced":
            assert OPERATOR["dense"].by_tokens[tokens] == float(row["dense_cudnn_ms"])
        if tokens == max(own.by_tokens):
            assert own.attend == float(row["attend_ms"])
            assert own.estimate == pytest.approx(float(row["importance_ms"]) + float(row["select_ms"]), abs=0.01)
    assert OPERATOR["dense"].attend == OPERATOR["dense"].by_tokens[131072]
    (floor,) = {float(row["floor_ms"]) for row in rows_of("prefill.csv") if int(row["L"]) == FLOOR_TOKENS}
    assert floor == FLOOR_MS
    (row,) = [row for row in rows_of("tensor_parallel.csv") if row["L"] == "131072"]
    assert float(row["reduce_ms"]) == pytest.approx(SUM_MS, rel=5e-3)
    assert SUM_BYTES == 131072 * int(row["heads"]) * int(row["D"]) * 2


@pytest.mark.parametrize("row", rows_of("prefill.csv"), ids=lambda row: f"{row['case']}-{row['L']}")
def test_prefill_is_about_the_measured_one(row):
    """A row is one model, whose clock sinks as it works; the sum is of parts that were timed alone."""
    request = Request(int(row["L"]))
    for preset, column in (("dense", "dense_ms"), (row["case"], "psa_ms")):
        got = prefill_seconds(SEVEN, request, preset).total
        assert got == pytest.approx(float(row[column]) / 1e3, rel=0.05)


def test_longer_prompts_than_the_table_are_about_the_measured_ones():
    (row,) = [row for row in rows_of("context_parallel.csv") if row["how"] == "ranks together" and row["L"] == "524288"]
    assert operator_ms(OPERATOR["balanced"], 524288, 1.5) == pytest.approx(float(row["one_ms"]), rel=0.12)


def test_between_and_before_the_lengths():
    own = OPERATOR["balanced"]
    assert operator_ms(own, 65536, 1.5) == pytest.approx(own.by_tokens[65536])
    assert own.by_tokens[32768] < operator_ms(own, 50000, 1.5) < own.by_tokens[65536]
    half = own.by_tokens[32768] ** 2 / own.by_tokens[65536]  # on the line through the two, in logarithms
    assert operator_ms(own, 16384, 1.5) == pytest.approx(half)
    assert operator_ms(OPERATOR["dense"], 262144, 2.0) == pytest.approx(4 * 210.0)


def test_how_time_follows_the_model_and_the_gpus():
    request = Request(131072)
    one, two = (prefill_seconds(SEVEN, Request(131072, gpus=n), "fast") for n in (1, 2))
    assert (two.attention, two.rest) == pytest.approx((one.attention / 2, one.rest / 2))
    assert one.sums == 0 and two.sums == pytest.approx(2 * 28 * SUM_MS / 1e3)
    assert prefill_seconds(SEVEN, Request(131072, gpus=4), "fast").sums == pytest.approx(1.5 * two.sums)
    assert two.total == two.attention + two.rest + two.sums and not two.measured and not one.measured
    large = prefill_seconds(KNOWN["Qwen2.5-VL-72B"], request, "fast")
    assert large.attention / one.attention == pytest.approx(80 * 64 / (28 * 28))
    assert large.rest / one.rest == pytest.approx(KNOWN["Qwen2.5-VL-72B"].matrices / SEVEN.matrices)
    longer = Request(262144)
    for preset, factor in (("dense", 4.0), ("fast", (7.51 + 1.02) / 14.72 * 4 + 6.17 / 14.7 * 2**1.5)):
        short, long = (prefill_seconds(SEVEN, one, preset).attention for one in (request, longer))
        assert long / short == pytest.approx(factor, rel=0.01)
    assert prefill_seconds(SEVEN, Request(65536), "fast").measured
    short = Request(DENSE_BELOW["triton"] - 1)
    assert prefill_seconds(SEVEN, short, "fast") == prefill_seconds(SEVEN, short, "dense")
