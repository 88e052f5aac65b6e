"""A deployment's own measurements move its prediction, the further the more of them agree."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.planner.corrections import Observation, corrected, correction_of
from serving.planner.corrections_plan import corrected_plan
from serving.planner.plan import make_plan
from serving.planner.result import Latency, Range
from tests.unit.planner.latency_cases import ask

START = datetime(2026, 3, 1, 12, tzinfo=UTC)
PREDICTED = Latency(
    ttft_unloaded_s=Range(0.05, 0.1, 0.2),
    tpot_s=Range(0.008, 0.010, 0.014),
    parts_s={"weights": 0.006, "layers": 0.004},
    band_note="Range of the fit.",
)


def windows(
    *tpots: float, requests: int = 50, concurrency: float = 1.0, ttft: float | None = None
) -> list[Observation]:
    return [
        Observation(
            concurrency=concurrency,
            prompt_tokens=1000,
            output_tokens=200,
            requests=requests,
            started_at=START + timedelta(minutes=5 * index),
            ended_at=START + timedelta(minutes=5 * index + 5),
            tpot_s=tpot,
            ttft_s=ttft,
        )
        for index, tpot in enumerate(tpots)
    ]


def after(observations: list[Observation]) -> Latency:
    return corrected(PREDICTED, correction_of(observations, lambda _: PREDICTED))


def test_without_measurements_the_prediction_stays_what_it_was() -> None:
    assert after([]) is PREDICTED
    assert after(windows(0.02, requests=4)) is PREDICTED
    assert corrected(PREDICTED, correction_of(windows(0.02), lambda _: None)) is PREDICTED


def test_one_window_moves_half_of_the_way_and_many_nearly_all_of_it() -> None:
    moved = [after(windows(*[0.0125] * count)).tpot_s.expected for count in (1, 3, 10, 100)]
    assert moved[0] == pytest.approx(0.010 * 1.25**0.5)
    assert moved == sorted(moved)
    assert moved[-1] == pytest.approx(0.0125, rel=0.005)


def test_the_band_narrows_and_keeps_its_order() -> None:
    widths = []
    for count in (1, 5, 50):
        tpot = after(windows(*[0.011] * count)).tpot_s
        assert tpot.low < tpot.expected < tpot.high
        widths.append(tpot.high / tpot.low)
    assert PREDICTED.tpot_s.high / PREDICTED.tpot_s.low * 1.001 > widths[0] > widths[1] > widths[2]


def test_windows_that_disagree_leave_a_wider_band_than_windows_that_agree() -> None:
    agreeing, scattered = after(windows(*[0.011] * 8)), after(windows(*[0.0085, 0.0142] * 4))
    assert scattered.tpot_s.high / scattered.tpot_s.low > agreeing.tpot_s.high / agreeing.tpot_s.low


@settings(max_examples=80, deadline=None)
@given(tpots=st.lists(st.floats(1e-4, 1.0), min_size=1, max_size=40))
def test_a_correction_lies_between_the_prediction_and_the_measurements(tpots: list[float]) -> None:
    tpot = after(windows(*tpots)).tpot_s
    assert min(0.010, *tpots) * 0.999 <= tpot.expected <= max(0.010, *tpots) * 1.001
    assert 0 < tpot.low <= tpot.expected <= tpot.high


def test_it_says_how_many_requests_and_when() -> None:
    latency = after(windows(0.012, 0.012, requests=1200))
    assert latency.basis == "corrected by measurements"
    assert "2,400 requests in 2 windows from 2026-03-01 12:00 to 2026-03-01 12:10" in latency.band_note
    assert "slower than predicted" in latency.band_note and "Range of the fit." in latency.band_note
    assert sum(latency.parts_s.values()) == pytest.approx(latency.tpot_s.expected)


def test_the_first_token_is_corrected_by_quiet_windows_only() -> None:
    quiet = after(windows(*[0.010] * 6, ttft=0.15))
    busy = after(windows(*[0.010] * 6, ttft=0.15, concurrency=8.0))
    assert quiet.ttft_unloaded_s.expected > 0.13
    assert busy.ttft_unloaded_s == PREDICTED.ttft_unloaded_s


def test_each_window_is_compared_at_its_own_load() -> None:
    seen: list[float] = []

    def predict_at(observation: Observation) -> Latency:
        seen.append(observation.concurrency)
        scale = observation.concurrency
        return Latency(PREDICTED.ttft_unloaded_s, Range(0.008 * scale, 0.010 * scale, 0.014 * scale), {})

    observations = windows(0.010) + windows(0.040, concurrency=4.0)
    correction = correction_of(observations, predict_at)
    assert correction is not None and correction.tpot.value == pytest.approx(1.0)
    assert seen == [1.0, 4.0]


def test_a_plan_is_corrected_with_its_prices() -> None:
    request = ask(concurrency=4)
    plan = make_plan(request)
    assert plan.latency is not None and plan.money is not None
    slower = windows(*[plan.latency.tpot_s.expected * 1.3] * 30, concurrency=4.0)
    same_load = [replace(one, prompt_tokens=request.prompt_tokens, output_tokens=256) for one in slower]
    changed, correction = corrected_plan(plan, request, same_load)
    assert correction is not None and changed.latency is not None and changed.money is not None
    assert changed.latency.tpot_s.expected == pytest.approx(plan.latency.tpot_s.expected * 1.3, rel=0.02)
    assert changed.money.usd_per_hour == plan.money.usd_per_hour
    for name in ("usd_per_million_output_tokens", "usd_per_million_output_tokens_full_load"):
        assert Decimal("1.2") < getattr(changed.money, name) / getattr(plan.money, name) < Decimal("1.32")
    assert changed.memory is plan.memory and changed.verdict == plan.verdict
    assert corrected_plan(plan, request, []) == (plan, None)
