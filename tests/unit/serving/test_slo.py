"""Objectives: shares from buckets, burn rates, when alerts open and resolve."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from serving import histogram, slo
from serving.slo import RULES, Share, SloSpec

FAST, SLOW = RULES


def spec(**values: Any) -> SloSpec:
    return SloSpec(**values)


def shares(long: tuple[int, int], short: tuple[int, int], rule: slo.Rule = FAST) -> dict[int, Share]:
    return {rule.long_s: Share(*long), rule.short_s: Share(*short)}


def test_without_values_there_is_no_objective() -> None:
    assert spec().objectives == ()
    assert spec(ttft_s=0.5, success_target=0.99).objectives == ("ttft", "errors")


@pytest.mark.parametrize(
    "values",
    [{"ttft_s": 0}, {"tpot_s": 61}, {"latency_target": 1.0}, {"success_target": 0.4}, {"window_days": 8},
     {"ttft_s": float("nan")}, {"ttft_s": float("inf")}, {"other": 1}],
)  # fmt: skip
def test_what_cannot_be_promised_is_refused(values: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        spec(**values)


@given(st.lists(st.floats(1e-3, 100), min_size=1, max_size=60), st.floats(2e-3, 90))
def test_a_request_is_good_only_when_it_surely_was(values: list[float], limit_s: float) -> None:
    counts: histogram.Counts = {}
    for value in values:
        histogram.observe(counts, value)
    share = slo.share_of(spec(ttft_s=limit_s), "ttft", counts={"ttft": counts}, ok=0, failed=0)
    truly_bad = sum(value > limit_s for value in values)
    surely_bad = sum(value >= limit_s / 1.0501 for value in values)
    assert share.total == len(values)
    assert truly_bad <= share.bad <= surely_bad


def test_errors_are_counted_as_they_are_and_budgets_are_exact() -> None:
    chosen = spec(success_target=0.99)
    share = slo.share_of(chosen, "errors", counts={}, ok=985, failed=15)
    assert share == Share(1000, 15)
    assert share.burn(0.99) == pytest.approx(1.5)
    found = slo.judged(chosen, "errors", budget=share, shares={300: Share(20, 1), 3600: Share(0, 0)})
    assert found["budget_left"] == pytest.approx(-0.5)
    assert found["good_share"] == 0.985
    assert found["burn_rates"] == {"300": pytest.approx(5.0), "3600": None}
    assert found["is_over"] is True


@pytest.mark.parametrize(
    ("long", "short", "opens"),
    [
        ((1000, 144), (100, 15), True),
        ((1000, 143), (100, 15), False),  # the long window burns a little slower
        ((1000, 144), (100, 14), False),  # it is over already
        ((4, 4), (4, 4), False),  # too few bad ones to call it an incident
        ((5, 5), (5, 5), True),
        ((1000, 500), (0, 0), False),
    ],
)
def test_both_windows_must_burn_for_an_alert(long: Any, short: Any, opens: bool) -> None:
    assert slo.alert_opens(FAST, shares(long, short), 0.99) is opens


@pytest.mark.parametrize(
    ("long", "short", "resolves"),
    [
        ((1000, 500), (100, 8), False),  # 8 times is below 14.4 but not below half of it
        ((1000, 500), (100, 7), True),
        ((1000, 500), (0, 0), False),  # nobody asks: no proof that it is well
        ((1000, 10), (0, 0), True),
        ((0, 0), (0, 0), True),
    ],
)
def test_an_alert_resolves_well_below_its_factor(long: Any, short: Any, resolves: bool) -> None:
    assert slo.alert_resolves(FAST, shares(long, short), 0.99) is resolves


def test_a_low_target_has_a_factor_that_can_be_reached() -> None:
    assert slo.factor_of(FAST, 0.99) == 14.4
    assert slo.factor_of(FAST, 0.95) == 14.4
    assert slo.factor_of(FAST, 0.9) == pytest.approx(8.0)
    assert slo.alert_opens(FAST, shares((100, 100), (100, 100)), 0.9)
    assert slo.factor_of(SLOW, 0.9) == 6.0


def test_a_handful_of_requests_is_not_over_the_objective() -> None:
    assert not slo.is_over({300: Share(9, 9)}, 0.95)
    assert slo.is_over({300: Share(10, 1)}, 0.95)
    assert not slo.is_over({300: Share(100, 5)}, 0.95)
