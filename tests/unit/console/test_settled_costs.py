"""Sums of ended replicas: exact, reckoned once, and thrown away when what they rest on changes."""

from __future__ import annotations

import random
from decimal import Decimal

import pytest

from console import actions, costs, settled_costs
from console.models import PriceChange, Replica
from console.settled_costs import SettledCosts
from serving.cost import Life
from tests.unit.workers.fleet import make_deployment, make_replica

pytestmark = pytest.mark.django_db
T = 1_800_000_000.0


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> list[Life]:
    """Every life that is made of a row of the database."""
    made: list[Life] = []

    def life(started_at: float, ended_at: float | None, accelerators: int) -> Life:
        made.append(Life(started_at, ended_at, accelerators))
        return made[-1]

    monkeypatch.setattr(settled_costs, "Life", life)
    return made


def test_ten_thousand_ended_replicas_are_loaded_once_not_every_second(
    loaded: list[Life], django_assert_num_queries
):
    deployment = make_deployment(price="3.6")
    Replica.objects.bulk_create(
        Replica(
            deployment=deployment, deployment_name="demo", replica_id=f"old-{i}", state="STOPPING",
            started_at=T - 10_000 + i, last_seen_at=T, ended_at=T - 9_990 + i,
        )
        for i in range(9_000)
    )  # fmt: skip
    Replica.objects.bulk_create(
        Replica(
            deployment=deployment, deployment_name="demo", replica_id=f"short-{i}", state="STOPPING",
            started_at=T - 20, last_seen_at=T, ended_at=T - 10,
        )
        for i in range(1_000)
    )  # fmt: skip
    make_replica(deployment, "lives", started_at=T)
    sums = SettledCosts()
    first = sums.book(until=T)
    assert len(loaded) == 10_001
    for second in range(1, 4):
        loaded.clear()
        with django_assert_num_queries(2):
            book = sums.book(until=T + second)
        assert len(loaded) == 1
        spent = costs.in_usd(book.units_by_deployment(end=T + second)[deployment.pk])
        assert spent == Decimal(100) + Decimal(second) / 1000
    assert first.units_by_deployment(end=T) == costs.book().units_by_deployment(end=T)


def test_second_after_second_it_says_what_the_whole_book_says(loaded: list[Life]):
    """Replicas come, go, end in mid-second or are noticed late; prices change."""
    chance = random.Random(5)
    fleet = [make_deployment(name, price="1.234567") for name in ("one", "two", "three")]
    sums, living, number = SettledCosts(), [], 0
    for second in range(120):
        now = T + second
        if chance.random() < 0.5:
            number += 1
            start = now - chance.random() * 3
            living.append(make_replica(chance.choice(fleet), f"r{number}", started_at=start))
        if living and chance.random() < 0.4:
            gone = living.pop(chance.randrange(len(living)))
            # Up to a second ahead of the second that is being stored, or seen last some time ago.
            gone.ended_at = now + chance.uniform(-2, 1.4)
            gone.save()
        if chance.random() < 0.1:
            PriceChange.objects.create(
                deployment=chance.choice(fleet),
                from_at=now - chance.choice([0, 0, 30]),
                price_per_accelerator_hour_usd=Decimal(chance.randrange(10**8)) / 10**6,
            )
        book = sums.book(until=now)
        for end in (now, now + 0.7):
            assert book.units_by_deployment(end=end) == costs.book().units_by_deployment(end=end)
    assert number > 30


def test_a_deleted_deployment_keeps_its_share_and_a_replica_without_one_costs_nothing():
    deployment = make_deployment(price="3.6")
    make_replica(deployment, "a", started_at=T - 2000, ended_at=T - 1000)
    Replica.objects.create(
        deployment=None, deployment_name="?", replica_id="b", state="RUNNING", started_at=T, last_seen_at=T
    )
    number = deployment.pk
    sums = SettledCosts()
    sums.book(until=T)
    actions.delete_deployment(actor=actions.SYSTEM, name=deployment.name)
    assert sums.book(until=T + 1).units_by_deployment(end=T + 1) == {number: 10**12}


def test_a_price_that_comes_after_the_fact_is_reckoned_with():
    deployment = make_deployment(price="3.6")
    PriceChange.objects.all().delete()
    make_replica(deployment, "a", started_at=T - 2000, ended_at=T - 1000)
    sums = SettledCosts()
    assert sums.book(until=T).units_by_deployment(end=T) == {deployment.pk: 0}
    PriceChange.objects.create(
        deployment=deployment, from_at=T, price_per_accelerator_hour_usd=Decimal("3.6")
    )
    assert sums.book(until=T).units_by_deployment(end=T) == {deployment.pk: 10**12}


def test_a_replica_that_lives_again_is_not_counted_twice():
    deployment = make_deployment(price="3.6")
    replica = make_replica(deployment, "a", started_at=T - 2000, ended_at=T - 1000)
    sums = SettledCosts()
    sums.book(until=T)
    Replica.objects.filter(pk=replica.pk).update(ended_at=None)
    assert sums.book(until=T).units_by_deployment(end=T) == {deployment.pk: 2 * 10**12}


def test_what_was_spent_before_the_settled_time_is_not_made_up():
    book = SettledCosts().book(until=T)
    with pytest.raises(ValueError, match="settled"):
        book.units_by_deployment(end=T - 1)
