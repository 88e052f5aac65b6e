"""Costs add up exactly, however time is split and replicas are ordered."""

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.cost import Life, Price, cost_units, in_usd

moments = st.floats(min_value=1.7e9, max_value=1.9e9, allow_nan=False)
money = st.decimals(min_value=0, max_value=100_000, places=6)
prices = st.lists(st.builds(Price, moments, money), min_size=1, max_size=6)


def cost_usd(life, *, prices, end):
    return in_usd(cost_units(life, prices=prices, end=end))


@st.composite
def lives(draw):
    started = draw(moments)
    lasted = draw(st.none() | st.floats(min_value=0, max_value=1e7))
    return Life(started, None if lasted is None else started + lasted, draw(st.integers(1, 64)))


def test_two_accelerators_for_half_an_hour_cost_one_hour():
    life = Life(1_800_000_000.0, 1_800_001_800.0, 2)
    assert cost_usd(life, prices=[Price(0, Decimal("2.5"))], end=1_900_000_000.0) == Decimal("2.5")


def test_a_price_change_acts_from_its_time_on_and_history_stays():
    life = Life(1_800_000_000.0, None, 1)
    old, new = Price(1_800_000_000.0, Decimal(1)), Price(1_800_003_600.0, Decimal(3))
    assert cost_usd(life, prices=[old], end=1_800_003_600.0) == Decimal(1)
    assert cost_usd(life, prices=[new, old], end=1_800_003_600.0) == Decimal(1)
    assert cost_usd(life, prices=[old, new], end=1_800_007_200.0) == Decimal(4)


@given(lives(), prices, st.lists(moments, min_size=2, max_size=8))
def test_splitting_time_changes_nothing(life, known, cuts):
    cuts = sorted(cuts)
    parts = [cost_units(life, prices=known, start=a, end=b) for a, b in zip(cuts, cuts[1:], strict=False)]
    assert sum(parts) == cost_units(life, prices=known, start=cuts[0], end=cuts[-1])
    assert all(part >= 0 for part in parts)


@given(lives(), prices, moments, st.randoms())
def test_the_order_of_prices_does_not_matter(life, known, end, random):
    distinct = list({price.from_at: price for price in known}.values())
    shuffled = random.sample(distinct, len(distinct))
    assert cost_units(life, prices=distinct, end=end) == cost_units(life, prices=shuffled, end=end)


@given(st.lists(st.tuples(lives(), prices), max_size=12), moments)
def test_the_sum_over_replicas_is_the_total_in_dollars_too(pairs, end):
    units = [cost_units(life, prices=known, end=end) for life, known in pairs]
    assert sum((in_usd(part) for part in units), Decimal(0)) == in_usd(sum(units))


@given(lives(), prices, moments, moments)
def test_cost_never_shrinks_with_time(life, known, a, b):
    early, late = sorted((a, b))
    assert 0 <= cost_usd(life, prices=known, end=early) <= cost_usd(life, prices=known, end=late)


@given(lives(), money)
def test_one_price_gives_seconds_times_accelerators_times_price(life, price):
    end = (life.ended_at or life.started_at + 1000.0) + 10
    seconds = Decimal(round((min(life.ended_at or end, end)) * 1e6) - round(life.started_at * 1e6)) / 10**6
    expected = seconds * life.accelerators * price / 3600
    assert cost_usd(life, prices=[Price(0, price)], end=end) == pytest.approx(expected, abs=Decimal("1e-11"))


def test_without_any_price_nothing_is_invented():
    assert cost_units(Life(0, 10, 1), prices=[], end=10) == 0


@pytest.mark.parametrize(("at", "price"), [(5, 1), (10, 1), (19.9, 1), (20, 2), (99, 2)])
def test_the_price_of_a_moment(at, price):
    known = [Price(20, Decimal(2)), Price(10, Decimal(1))]
    moment = Life(at, at + 0.036, 1)  # a hundred-thousandth of an hour
    assert cost_usd(moment, prices=known, end=99.1) == Decimal(price) / 100_000
