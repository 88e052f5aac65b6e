"""Latency histograms: exact merging, quantiles within one bucket of the truth."""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving import histogram

durations = st.floats(min_value=1e-4, max_value=9_000, allow_nan=False)


def counted(values: list[float]) -> histogram.Counts:
    counts: histogram.Counts = {}
    for value in values:
        histogram.observe(counts, value)
    return counts


def test_neighbouring_bounds_are_at_most_five_percent_apart():
    ratios = [upper / lower for lower, upper in zip(histogram.BOUNDS, histogram.BOUNDS[1:], strict=False)]
    assert max(ratios) <= 1.05 + 1e-12
    assert histogram.BOUNDS[0] == 1e-4
    assert histogram.BOUNDS[-1] >= 1e4


@given(st.lists(durations, min_size=1, max_size=200), st.sampled_from([0.0, 0.5, 0.9, 0.95, 0.99, 1.0]))
def test_a_quantile_is_within_five_percent_of_the_true_order_statistic(values, q):
    true = sorted(values)[max(1, math.ceil(q * len(values))) - 1]
    assert histogram.quantile(counted(values), q) == pytest.approx(true, rel=0.0501)


@given(st.lists(st.lists(durations, max_size=30), max_size=8))
def test_merging_parts_equals_observing_everything_at_once(parts):
    whole = counted([value for part in parts for value in part])
    assert histogram.merged(counted(part) for part in parts) == whole


@given(st.lists(durations, max_size=50))
def test_a_histogram_survives_its_column(values):
    counts = counted(values)
    assert histogram.decode(histogram.encode(counts)) == counts


@given(st.dictionaries(st.integers(0, 2000), st.integers(1, 2**63), max_size=60))
def test_every_histogram_survives_its_column_whatever_its_gaps_and_counts(counts):
    assert histogram.decode(histogram.encode(counts)) == counts


def test_sixty_requests_take_a_fraction_of_what_json_takes():
    counts = counted([0.2 + 0.01 * i for i in range(60)])
    assert len(histogram.encode(counts)) * 4 < len(json.dumps({str(i): n for i, n in counts.items()}))
    assert histogram.encode({}) == b""
    assert histogram.decode(b"") == {}


@pytest.mark.parametrize("stored", [b"\x03ab", b"\x01a", b"\x02abcd", b"x"])
def test_bytes_that_are_no_histogram_are_refused(stored):
    with pytest.raises(ValueError, match="no histogram"):
        histogram.decode(stored)


@given(st.lists(durations, max_size=80), durations)
def test_what_counts_as_within_a_limit_surely_is_and_misses_at_most_five_percent_below(values, limit_s):
    counts = counted(values)
    held_s = histogram.held_limit_s(limit_s)
    assert histogram.within(counts, limit_s) == sum(value < held_s for value in values)
    assert histogram.within(counts, limit_s) == histogram.within(counts, held_s)
    assert held_s <= limit_s < held_s * 1.0501


def test_the_quantile_of_a_sum_is_not_the_mean_of_quantiles():
    quick, slow = counted([0.1] * 98), counted([10.0] * 2)
    assert histogram.quantile(histogram.merged([quick, slow]), 0.95) == pytest.approx(0.1, rel=0.05)


def test_empty_means_not_measured():
    assert histogram.quantile({}, 0.5) is None


@pytest.mark.parametrize(("value", "bucket"), [(0.0, 0), (9.9e-5, 0), (1e-4, 1), (1e9, histogram.LAST)])
def test_extremes_have_buckets_of_their_own(value, bucket):
    assert histogram.bucket_of(value) == bucket


def test_the_overflow_bucket_answers_with_its_lower_bound():
    assert histogram.quantile(counted([5e6]), 0.5) == histogram.BOUNDS[-1]


@pytest.mark.parametrize("value", [-0.1, math.nan, math.inf])
def test_what_is_no_duration_is_refused(value):
    with pytest.raises(ValueError, match="finite number of seconds"):
        histogram.bucket_of(value)
