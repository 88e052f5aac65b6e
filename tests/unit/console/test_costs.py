"""Costs from rows: exact, additive, two queries; a deployment costs what its replicas held, when they did."""

from __future__ import annotations

import uuid
from decimal import Decimal

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from console import actions, costs
from console.models import PriceChange, Replica
from tests.unit.workers.fleet import make_deployment, make_replica

pytestmark = pytest.mark.django_db
T = 1_800_000_000.0  # 15 January 2027, 08:00 UTC


def test_a_replica_costs_from_its_start_to_its_end():
    deployment = make_deployment(price="3.6")
    make_replica(deployment, "a", accelerators=2, started_at=T, ended_at=T + 100)
    make_replica(deployment, "b", started_at=T + 50)
    assert costs.cost_so_far_usd(deployment, T + 50) == Decimal("0.1")
    assert costs.cost_so_far_usd(deployment, T + 1050) == Decimal("0.2") + Decimal(1)


def test_a_new_price_acts_from_its_time_on():
    deployment = make_deployment(price="3.6")
    make_replica(deployment, "a", started_at=T)
    before = costs.cost_so_far_usd(deployment, T + 100)
    PriceChange.objects.create(
        deployment=deployment, from_at=T + 100, price_per_accelerator_hour_usd=Decimal("7.2")
    )
    assert costs.cost_so_far_usd(deployment, T + 100) == before
    assert costs.cost_so_far_usd(deployment, T + 200) == before * 3


def test_month_to_date_begins_on_the_first_in_utc():
    start = costs.month_start(T)
    assert (T - start) / 86_400 == pytest.approx(14 + 8 / 24)
    deployment = make_deployment(price="3.6")
    make_replica(deployment, "a", started_at=start - 5000, ended_at=start - 1000)
    make_replica(deployment, "b", started_at=start - 5000, ended_at=start + 1000)
    assert costs.month_to_date_usd(T) == Decimal(1)
    assert costs.cost_so_far_usd(deployment, T) == Decimal(10)


def test_deleting_a_deployment_does_not_move_the_months_cost():
    deployment = make_deployment(price="3.6")
    make_replica(deployment, "a", started_at=T - 2000, ended_at=T - 1000)
    before = costs.month_to_date_usd(T)
    actions.delete_deployment(actor=actions.SYSTEM, name=deployment.name)
    assert costs.month_to_date_usd(T) == before == Decimal(1)


def test_what_runs_now_costs_per_hour():
    one, two = make_deployment("one", price="2"), make_deployment("two", price="0.5")
    make_replica(one, "a", accelerators=4)
    make_replica(one, "old", accelerators=4, ended_at=T)
    make_replica(two, "b")
    assert costs.running_cost_per_hour_usd(one) == Decimal(8)
    assert costs.running_cost_per_hour_usd(None) == Decimal("8.5")
    assert costs.running_cost_per_hour_usd(make_deployment("three")) == 0


def test_what_still_drains_of_a_deleted_deployment_costs_per_hour_what_the_month_counts():
    deployment = make_deployment(price="3.6")
    make_replica(deployment, "a", accelerators=2, started_at=T)
    PriceChange.objects.create(
        deployment=deployment, from_at=T + 10, price_per_accelerator_hour_usd=Decimal("7.2")
    )
    actions.delete_deployment(actor=actions.SYSTEM, name=deployment.name)
    per_hour = costs.running_cost_per_hour_usd(None)
    assert per_hour == Decimal("14.4")
    assert costs.month_to_date_usd(T + 10 + 3600) - costs.month_to_date_usd(T + 10) == per_hour


def test_queries_do_not_grow_with_rows(django_assert_num_queries):
    deployment = make_deployment()
    for count in (1, 30):
        for i in range(count):
            make_replica(deployment, f"{count}-{i}", started_at=T)
        with django_assert_num_queries(2):
            costs.month_to_date_usd(T + 10)
        with django_assert_num_queries(2):
            costs.cost_so_far_usd(deployment, T + 10)
        with django_assert_num_queries(1):
            costs.running_cost_per_hour_usd(None)


spans = st.tuples(st.floats(0, 40 * 86_400), st.none() | st.floats(0, 30 * 86_400), st.integers(1, 8))


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    histories=st.lists(st.lists(spans, max_size=4), min_size=1, max_size=3),
    changes=st.lists(st.tuples(st.floats(0, 40 * 86_400), st.decimals(0, 500, places=6)), max_size=4),
    cuts=st.lists(st.floats(0, 60 * 86_400), min_size=1, max_size=5),
)
def test_deployments_sum_to_the_total_and_time_can_be_split(histories, changes, cuts):
    Replica.objects.all().delete()
    PriceChange.objects.all().delete()
    deployments = []
    for number, history in enumerate(histories):
        deployment = make_deployment(uuid.uuid4().hex[:20], price="1.234567")
        deployments.append(deployment)
        for i, (start, lasted, accelerators) in enumerate(history):
            ended = None if lasted is None else T + start + lasted
            make_replica(
                deployment, f"{number}-{i}", started_at=T + start, ended_at=ended, accelerators=accelerators
            )
        for at, price in changes:
            PriceChange.objects.create(
                deployment=deployment, from_at=T + at, price_per_accelerator_hour_usd=price
            )
    moments = [T + cut for cut in sorted(cuts)]
    end = moments[-1]
    book = costs.book()
    assert sum((costs.cost_so_far_usd(d, end) for d in deployments), Decimal(0)) == book.usd(end=end)
    parts = [book.usd(start=a, end=b) for a, b in zip(moments, moments[1:], strict=False)]
    assert sum(parts, Decimal(0)) == book.usd(start=moments[0], end=end)
    assert all(part >= 0 for part in parts)
    assert book.usd_at(moments) == [book.usd(end=moment) for moment in moments]
