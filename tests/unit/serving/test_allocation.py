"""Σ requests + Σ idle = Σ replica-seconds × price, exactly, for any history, however time is cut."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.allocation import Shares, allocate, by_largest_remainder
from serving.cost import MICROSECONDS, CostCurve, Life, Price, cost_units
from serving.idle import IDLE_CAUSES, Claim, IdleCauses, Minimum
from serving.work import Phase, Served, Work, work_of
from tests.unit.serving.histories import LASTS_S, START, claims, fleets, minimums, prices, requests

UNITS_PER_USD = 10**12
EVER = (START - 10, START + 2 * LASTS_S)
seconds = st.integers(*EVER)


def shared(claim, *, known, works, window=EVER, fleet=None, floors=()):
    start, end = window
    causes = IdleCauses(
        fleet or [claim], floors, start_us=start * MICROSECONDS, end_us=max(start, end) * MICROSECONDS
    )
    curve = CostCurve(claim.life, known)
    return allocate(claim, curve=curve, causes=causes, works=works, start=start, end=end)


def works_of(served):
    return [work for one in served if (work := work_of(one)) is not None]


def added(*parts: Shares) -> Shares:
    total = Shares()
    for part in parts:
        for into, of in ((total.requests, part.requests), (total.idle, part.idle)):
            for name, units in of.items():
                into[name] = into.get(name, 0) + units
    return total


def without_zeros(shares: Shares) -> tuple[dict[str, int], dict[str, int]]:
    return tuple({k: v for k, v in part.items() if v} for part in (shares.requests, shares.idle))


@given(fleets(), prices, minimums, st.lists(requests(), min_size=4, max_size=4))
def test_requests_and_idle_are_exactly_the_replica_seconds_times_price(fleet, known, floors, asked):
    everything = [
        shared(claim, known=known, works=works_of(served), fleet=fleet, floors=floors)
        for claim, served in zip(fleet, asked, strict=False)
    ]
    paid = sum(cost_units(claim.life, prices=known, end=EVER[1]) for claim in fleet)
    assert sum(shares.total for shares in everything) == paid
    assert all(units >= 0 for s in everything for units in (*s.requests.values(), *s.idle.values()))
    assert {cause for s in everything for cause in s.idle} <= set(IDLE_CAUSES)


@given(fleets(), prices, minimums, requests(), st.lists(seconds, min_size=3, max_size=6))
def test_windows_can_be_cut_anywhere_and_every_request_still_pays_the_same(fleet, known, floors, asked, cuts):
    cuts, works = sorted(cuts), works_of(asked)

    def within(start, end):
        return shared(fleet[0], known=known, works=works, fleet=fleet, floors=floors, window=(start, end))

    parts = [within(a, b) for a, b in zip(cuts, cuts[1:], strict=False)]
    assert without_zeros(added(*parts)) == without_zeros(within(cuts[0], cuts[-1]))


@given(claims(), prices, requests(), st.randoms())
def test_the_order_of_requests_does_not_matter(claim, known, asked, random):
    works = works_of(asked)
    shuffled = random.sample(works, len(works))
    assert shared(claim, known=known, works=works) == shared(claim, known=known, works=shuffled)


@given(claims(), prices, seconds)
def test_the_curve_says_what_cost_units_say(claim, known, end):
    assert CostCurve(claim.life, known).upto(end * MICROSECONDS) == cost_units(
        claim.life, prices=known, end=float(end)
    )


@given(st.integers(0, 10**15), st.lists(st.integers(0, 10**9), min_size=1, max_size=40))
def test_rounding_loses_nothing_and_is_never_off_by_a_whole_unit(units, weights):
    weights[0] += 1
    parts = by_largest_remainder(units, weights)
    assert sum(parts) == units
    total = sum(weights)
    assert all(
        abs(part * total - units * weight) < total for part, weight in zip(parts, weights, strict=True)
    )


# --- who pays what -----------------------------------------------------------------------------------------

HOUR = [Price(0, Decimal(3600))]
"""A dollar a second."""


def claim(*, started=0, ready=0.0, draining=None, ended=None, name="r1"):
    return Claim(
        name, Life(START + started, None if ended is None else START + ended, 1),
        None if ready is None else START + ready, None if draining is None else START + draining,
    )  # fmt: skip


def work(name, begin, end, *phases):
    us = [MICROSECONDS * (START + at) for at in (begin, end)]
    parts = [Phase(int(MICROSECONDS * (START + a)), int(MICROSECONDS * (START + b)), w) for a, b, w in phases]
    return Work(name, int(us[0]), int(us[1]), tuple(parts))


def usd(shares):
    return {k: Decimal(v) / UNITS_PER_USD for k, v in {**shares.requests, **shares.idle}.items() if v}


def test_a_second_is_shared_by_the_work_in_it_and_the_rest_of_time_is_idle():
    works = [work("a", 0, 2, (0, 2, 80)), work("b", 1, 2, (1, 2, 120))]
    shares = shared(claim(), known=HOUR, works=works, window=(START, START + 3))
    assert usd(shares) == {"a": Decimal("1.25"), "b": Decimal("0.75"), "scale_down_delay": 1}


def test_who_waits_in_the_queue_pays_nothing_while_others_work():
    works = [work("waits", 0, 2, (1, 2, 100)), work("works", 0, 2, (0, 2, 200))]
    shares = shared(claim(), known=HOUR, works=works, window=(START, START + 2))
    assert usd(shares) == {"works": Decimal("1.5"), "waits": Decimal("0.5")}


def test_requests_whose_work_nobody_knows_share_by_their_time():
    works = [work("a", 0, 1), work("b", 0.5, 1)]
    shares = shared(claim(), known=HOUR, works=works, window=(START, START + 1))
    assert shares.requests == {"a": 666_666_666_667, "b": 333_333_333_333}


def test_a_price_change_acts_within_the_second_in_which_it_falls():
    known = [Price(0, Decimal(3600)), Price(START + 0.5, Decimal(7200))]
    shares = shared(claim(), known=known, works=[work("a", 0, 1)], window=(START, START + 1))
    assert usd(shares) == {"a": Decimal("1.5")}


@pytest.mark.parametrize(
    ("facts", "floor", "cause"),
    [
        ({"ready": None}, 1, "starting"),
        ({"ready": 5}, 1, "starting"),
        ({"draining": 1.0}, 1, "draining"),
        ({"ready": None, "draining": 1.0}, 1, "draining"),
        ({}, 1, "kept_warm"),
        ({}, 0, "scale_down_delay"),
    ],
)
def test_the_cause_of_idle_time(facts, floor, cause):
    shares = shared(
        claim(**facts), known=HOUR, works=[], window=(START + 2, START + 3), floors=[Minimum(0, floor)]
    )
    assert usd(shares) == {cause: 1}


def test_the_oldest_ready_replicas_are_the_ones_kept_warm():
    fleet = [
        claim(name="drains", draining=0.5),
        claim(name="old", started=0.1),
        claim(name="new", started=0.2),
    ]
    causes = {
        one.replica_id: set(
            shared(
                one, known=HOUR, works=[], fleet=fleet, floors=[Minimum(0, 1)], window=(START + 1, START + 2)
            ).idle
        )
        for one in fleet
    }
    assert causes == {"drains": {"draining"}, "old": {"kept_warm"}, "new": {"scale_down_delay"}}


def test_a_minimum_acts_from_its_time_on():
    floors = [Minimum(0, 1), Minimum(START + 2, 0)]
    shares = shared(claim(), known=HOUR, works=[], floors=floors, window=(START, START + 3))
    assert usd(shares) == {"kept_warm": 2, "scale_down_delay": 1}


# --- what work a request was -------------------------------------------------------------------------------


def test_a_stream_reads_before_its_first_token_and_writes_after_it():
    found = work_of(
        Served(
            id="q", started_at=START, finished_at=START + 10, gateway_s=1.0, queue_s=1.0, prefill_s=2.0,
            ttft_s=4.0, decode_s=5.0, prompt_tokens=100, cached_tokens=40, completion_tokens=7,
        )
    )  # fmt: skip
    assert found == work("q", 1, 10, (2, 4, 60 * 10 + 40), (4, 9, 7 * 40))


def test_one_answer_in_one_piece_is_placed_by_the_engines_durations():
    found = work_of(
        Served(
            id="q", started_at=START, finished_at=START + 10, stream=False, gateway_s=0.0, queue_s=1.0,
            prefill_s=2.0, ttft_s=10.0, decode_s=0.0, prompt_tokens=1, completion_tokens=1,
        )
    )  # fmt: skip
    assert found == work("q", 0, 10, (1, 3, 10), (3, 10, 40))


@pytest.mark.parametrize(
    ("given", "ready", "begins"),
    [
        ({"ttft_s": 30.0, "prefill_s": 1.0, "queue_s": 1.0}, None, 28),
        ({"stream": False}, START + 25, 25),
        ({"stream": False, "prefill_s": 2.0}, START + 99, 38),
        ({"stream": False}, None, 0),
    ],
)
def test_one_that_woke_the_deployment_does_not_pay_for_the_start(given, ready, begins):
    found = work_of(
        Served(id="q", started_at=START, finished_at=START + 40, woke=True, **given), ready_at=ready
    )
    assert found.begin_us == (START + begins) * MICROSECONDS


def test_one_that_was_held_while_a_replica_was_replaced_does_not_pay_for_the_wait():
    found = work_of(
        Served(id="q", started_at=START, finished_at=START + 21, gateway_s=0.0, held_s=20.0, prefill_s=0.5)
    )
    assert found.begin_us == (START + 20) * MICROSECONDS


def test_a_request_that_claims_days_counts_with_its_last_hours():
    found = work_of(Served(id="q", started_at=0, finished_at=START))
    assert found.end_us - found.begin_us == 6 * 3600 * MICROSECONDS


def test_a_request_without_time_costs_nothing():
    assert work_of(Served(id="q", started_at=START, finished_at=START)) is None


@given(requests(most=1))
def test_phases_lie_within_the_request_and_none_is_empty(asked):
    for found in works_of(asked):
        assert all(found.begin_us <= p.begin_us < p.end_us <= found.end_us for p in found.phases)
