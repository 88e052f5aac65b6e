"""The ledger of costs: whatever order records come in and wherever a worker is killed, no unit is lost or
doubled, and everybody ends with the share that reckoning it all at once gives."""

from __future__ import annotations

import random
import time
from collections import Counter
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

import pytest
from django.db.models import Sum

from console import costs
from console.models import (
    ClusterStatus,
    CostAccounting,
    CostEntry,
    Deployment,
    MinReplicasChange,
    PriceChange,
    Replica,
    RequestRecord,
)
from serving.allocation import allocate
from serving.cost import MICROSECONDS, UNITS_PER_USD, CostCurve
from serving.idle import IdleCauses, Minimum
from tests.unit.workers.fleet import make_deployment, make_key
from workers import accounting, cost_facts, cost_ledger, lease

pytestmark = [pytest.mark.django_db, pytest.mark.database]
START = 1_800_000_000 // 3600 * 3600 + 3000
"""Ten minutes before an hour ends, so that histories cross one."""
ENDS_AT = START + 1500


@dataclass
class World:
    """What happens, with when it becomes known; `at` brings the database there."""

    deployments: list[Deployment]
    lives: list[dict[str, Any]] = field(default_factory=list)
    records: list[tuple[float, RequestRecord]] = field(default_factory=list)

    def at(self, now: float) -> None:
        """The database as reconciler and collector would have left it at this moment."""
        ClusterStatus.objects.update_or_create(pk=1, defaults={"observed_at": now, "reachable": True})
        for life in self.lives:
            if life["started_at"] <= now:
                known = {k: v if v is None or v <= now else None for k, v in life["facts"].items()}
                Replica.objects.update_or_create(
                    replica_id=life["replica_id"],
                    defaults={**known, "last_seen_at": min(now, life["facts"]["ended_at"] or now)},
                    create_defaults={
                        **known, "last_seen_at": now, "started_at": life["started_at"], "state": "RUNNING",
                        "deployment": life["deployment"], "deployment_name": life["deployment"].name,
                        "accelerators": life["accelerators"],
                    },
                )  # fmt: skip
        due = [record for at, record in self.records if at <= now]
        self.records = [(at, record) for at, record in self.records if at > now]
        RequestRecord.objects.bulk_create(due)


def make_world(seed: int) -> World:
    dice = random.Random(seed)
    keys = [make_key("one"), make_key("two")]
    world = World([make_deployment(name, price=f"{dice.random():.6f}") for name in ("alpha", "beta")])
    for deployment in world.deployments:
        for _ in range(dice.randrange(3)):
            price = Decimal(dice.randrange(10**7)) / 10**6
            at = START + dice.random() * 900
            PriceChange.objects.create(
                deployment=deployment, from_at=at, price_per_accelerator_hour_usd=price
            )
            MinReplicasChange.objects.create(
                deployment=deployment, from_at=at, min_replicas=dice.randrange(3)
            )
        for number in range(dice.randrange(1, 4)):
            _add_life(world, dice, deployment, number, keys)
    return world


def _add_life(world: World, dice: random.Random, deployment: Deployment, number: int, keys: list) -> None:
    facts = sorted(START + dice.random() * 1200 for _ in range(4))
    ready, draining, ended = facts[1:]
    life = {
        "replica_id": f"{deployment.name}-{number}",
        "deployment": deployment,
        "accelerators": dice.randrange(1, 5),
        "started_at": facts[0],
        "facts": {
            "ready_at": dice.choice([ready, None]),
            "draining_at": dice.choice([draining, None]),
            "ended_at": dice.choice([ended, None]),
        },
    }
    world.lives.append(life)
    for index in range(dice.randrange(12)):
        began = facts[0] - 20 + dice.random() * (ENDS_AT - facts[0])
        took = dice.choice([0.0, dice.random(), dice.random() * 30, dice.random() * 500])
        late_s = dice.choice([0.2, 1.0, 40.0, 100.0, 700.0, 4000.0])
        record = RequestRecord(
            id=f"{life['replica_id']}-{index}", key=dice.choice([*keys, None]), deployment=deployment,
            deployment_name=deployment.name, replica=dice.choice([life["replica_id"]] * 9 + ["gone"]),
            path="/v1", stream=dice.random() < 0.7, started_at=began, finished_at=began + took, e2e_s=took,
            gateway_s=dice.choice([None, 0.001]), prefill_s=dice.choice([None, took / 4]),
            queue_s=dice.choice([None, took / 8]), ttft_s=took / 2, decode_s=took / 2,
            prompt_tokens=dice.randrange(900), cached_tokens=dice.choice([None, dice.randrange(90)]),
            completion_tokens=dice.choice([None, dice.randrange(500)]), status=200, outcome="ok",
            woke=dice.random() < 0.1,
        )  # fmt: skip
        world.records.append((began + took + late_s, record))


def steps(now: float, *, most: int = 400) -> int:
    token = lease.acquire("accounting", holder="test", ttl_s=60, now=time.time())
    assert token is not None
    for done in range(most):
        if not accounting.take_step(now, token=token):
            return done
    pytest.fail("the accounting never came to an end")


def until() -> int:
    found = CostAccounting.objects.get(pk=1).until
    assert found is not None
    return found


def ledger() -> Counter[tuple[int, str]]:
    found: Counter[tuple[int, str]] = Counter()
    for row in CostEntry.objects.all():
        found[row.deployment_id, row.kind] += row.whole_usd * UNITS_PER_USD + row.rest_units
    return +found


def at_once(end: int) -> tuple[dict[str, int], Counter[tuple[int, str]]]:
    """Shares of requests, and amounts by use, of everything up to `end` reckoned in one go."""
    requests: dict[str, int] = {}
    kinds: Counter[tuple[int, str]] = Counter()
    for replica in Replica.objects.all():
        pk = replica.deployment_id
        claims = [cost_facts.claim_of(one) for one in Replica.objects.filter(deployment_id=pk)]
        floors = [
            Minimum(c.from_at, c.min_replicas) for c in MinReplicasChange.objects.filter(deployment_id=pk)
        ]
        records = RequestRecord.objects.filter(replica=replica.replica_id)
        works = [work for record in records if (work := cost_facts.work_on(replica, record))]
        begin = START - 3600
        shares = allocate(
            cost_facts.claim_of(replica),
            curve=CostCurve(cost_facts.claim_of(replica).life, costs.prices_by_deployment()[pk]),
            causes=IdleCauses(
                claims, floors, start_us=begin * MICROSECONDS, end_us=end * MICROSECONDS
            ),
            works=works, start=begin, end=end,
        )  # fmt: skip
        requests |= shares.requests
        kinds[pk, "request"] += sum(shares.requests.values())
        for cause, units in shares.idle.items():
            kinds[pk, cause] += units
    return requests, +kinds


def check_ledger() -> None:
    """The invariant: what is in the ledger is what replicas cost up to where it is shared out."""
    paid = costs.book().units_by_deployment(end=float(until()))
    in_ledger: Counter[int] = Counter()
    for (deployment_id, _), units in ledger().items():
        in_ledger[deployment_id] += units
    assert in_ledger == +Counter(paid)


@pytest.fixture(autouse=True)
def _connection_stays_open(monkeypatch: pytest.MonkeyPatch) -> None:
    """The task lets its thread's connection go, which here is the test's own."""
    monkeypatch.setattr(accounting, "close_old_connections", lambda: None)


class Killed(RuntimeError):
    """Stands for the worker's end at this very line."""


@pytest.mark.parametrize("seed", range(10))
def test_any_history_in_any_order_with_workers_killed_ends_with_the_same_shares(seed, monkeypatch):
    world, dice = make_world(seed), random.Random(seed)
    append, update = cost_ledger.append, RequestRecord.objects.bulk_update.__func__

    def maybe_killed(write):
        def writes(*args, **kwargs):
            if dice.random() < 0.15:
                raise Killed
            result = write(*args, **kwargs)
            if dice.random() < 0.15:
                raise Killed
            return result

        return writes

    monkeypatch.setattr(cost_ledger, "append", maybe_killed(append))
    monkeypatch.setattr(type(RequestRecord.objects), "bulk_update", maybe_killed(update))
    now = float(START)
    while now < ENDS_AT + 5000:
        now += dice.choice([5, 30, 30, 90, 400])
        world.at(now)
        try:
            steps(now)
        except Killed:
            continue
        if CostAccounting.objects.get(pk=1).until is None:
            continue
        check_ledger()
        if dice.random() < 0.3:
            cost_ledger.fold(until())
    monkeypatch.undo()
    world.at(now + 10_000)
    steps(now + 10_000)
    while cost_ledger.fold(until() + 50 * cost_ledger.DAY_S):
        continue
    requests, kinds = at_once(until())
    check_ledger()
    assert ledger() == kinds
    stored = dict(RequestRecord.objects.values_list("pk", "cost_units"))
    assert stored == {pk: requests.get(pk, 0) for pk in stored}
    counted = CostEntry.objects.aggregate(requests=Sum("requests"), tokens=Sum("prompt_tokens"))
    on_replicas = [
        record for replica in Replica.objects.all()
        for record in RequestRecord.objects.filter(replica=replica.replica_id)
        if cost_facts.work_on(replica, record) is not None
    ]  # fmt: skip
    assert (counted["requests"] or 0) == len(on_replicas)
    assert (counted["tokens"] or 0) == sum(record.prompt_tokens or 0 for record in on_replicas)


@pytest.fixture
def one_replica() -> Replica:
    deployment = make_deployment("alpha", price="3600")
    ClusterStatus.objects.create(pk=1, observed_at=START + 9000.0)
    return Replica.objects.create(
        deployment=deployment, deployment_name="alpha", replica_id="r1", state="RUNNING",
        started_at=float(START), ready_at=float(START), last_seen_at=START + 9000.0,
    )  # fmt: skip


def ask(name: str, begin: float, end: float, **values: Any) -> RequestRecord:
    given = {"replica": "r1", "deployment_name": "alpha", "status": 200, "outcome": "ok", **values}
    return RequestRecord.objects.create(id=name, started_at=START + begin, finished_at=START + end, **given)


def usd_by_kind() -> dict[str, Decimal]:
    return {kind: costs.in_usd(units) for (_, kind), units in ledger().items()}


class TestSteps:
    def test_nothing_is_shared_out_before_records_are_in_and_the_cluster_was_seen(self, one_replica):
        assert steps(START + 119) == 1
        assert until() == START
        assert steps(START + 120) == 1
        assert until() == START + 60
        ClusterStatus.objects.update(observed_at=START + 100.0)
        assert steps(START + 9000) == 0

    def test_a_replica_not_seen_for_long_holds_the_time_up(self, one_replica):
        Replica.objects.update(last_seen_at=START + 150.0)
        steps(START + 9000)
        assert until() == START + 120

    def test_a_late_record_is_paid_by_idle_time_and_neighbours(self, one_replica):
        ask("in-time", 0, 10)
        steps(START + 120)
        assert usd_by_kind() == {"request": 10, "scale_down_delay": 50}
        ask("late", 5, 25)
        steps(START + 121)
        assert usd_by_kind() == {"request": 25, "scale_down_delay": 35}
        shares = dict(RequestRecord.objects.values_list("pk", "cost_units"))
        assert shares == {"in-time": 7.5 * UNITS_PER_USD, "late": 17.5 * UNITS_PER_USD}

    def test_a_request_that_reached_no_replica_costs_nothing_and_is_done_with(self, one_replica):
        ask("refused", 1, 2, replica="")
        steps(START + 120)
        assert RequestRecord.objects.get().cost_units == 0
        assert not CostEntry.objects.filter(kind="request").exists()

    def test_a_replica_first_seen_after_its_time_was_shared_out_is_still_accounted_for(self, one_replica):
        steps(START + 600)
        Replica.objects.create(
            deployment=one_replica.deployment, deployment_name="alpha", replica_id="hidden", state="RUNNING",
            started_at=START + 3.5, last_seen_at=START + 9000.0,
        )  # fmt: skip
        steps(START + 600)
        check_ledger()
        assert usd_by_kind()["starting"] == Decimal("536.5")

    def test_an_ended_replica_is_looked_at_no_more(self, one_replica):
        Replica.objects.update(ended_at=START + 30.25)
        steps(START + 600)
        assert Replica.objects.get().settled
        assert usd_by_kind() == {"scale_down_delay": Decimal("30.25")}
        check_ledger()

    def test_a_deleted_deployment_keeps_its_history(self, one_replica):
        ask("one", 0, 10)
        Deployment.objects.filter(pk=one_replica.deployment_id).update(current_revision=None)
        Deployment.objects.all().delete()
        steps(START + 600)
        assert usd_by_kind()["request"] == 10
        assert set(CostEntry.objects.values_list("deployment_name", flat=True)) == {"alpha"}

    def test_of_two_workers_with_the_same_step_one_gets_through(self, one_replica, monkeypatch):
        reckoned = accounting._reckoned

        def overtaken(replicas, *, end):
            step = reckoned(replicas, end=end)
            CostAccounting.objects.update(version=7)
            return step

        monkeypatch.setattr(accounting, "_reckoned", overtaken)
        with pytest.raises(accounting.Overtaken):
            steps(START + 600)
        assert not CostEntry.objects.exists()
        assert Replica.objects.get().accounted_until is None

    def test_a_life_that_goes_on_while_its_end_was_reckoned_is_reckoned_again(self, one_replica, monkeypatch):
        Replica.objects.update(ended_at=START + 30.25)
        reckoned = accounting._reckoned

        def revived(replicas, *, end):
            step = reckoned(replicas, end=end)
            Replica.objects.update(ended_at=None)
            return step

        monkeypatch.setattr(accounting, "_reckoned", revived)
        with pytest.raises(accounting.Overtaken):
            steps(START + 600)
        monkeypatch.undo()
        monkeypatch.setattr(accounting, "close_old_connections", lambda: None)
        steps(START + 600)
        assert usd_by_kind() == {"scale_down_delay": 540}

    def test_a_worker_whose_lease_is_lost_writes_nothing(self, one_replica):
        token = lease.acquire("accounting", holder="test", ttl_s=60, now=time.time())
        lease.acquire("accounting", holder="test", ttl_s=60, now=time.time())
        with pytest.raises(accounting.Overtaken):
            accounting.take_step(START + 600.0, token=token)
        assert not CostEntry.objects.exists()

    def test_the_task_steps_folds_and_gives_its_lease_back(self, one_replica):
        assert accounting.share_out(START + 9000.0) > 2
        assert accounting.share_out(START + 9000.0) == 0
        assert not CostEntry.objects.filter(step__gt=0, at__lt=START + 3600).exists()
        check_ledger()

    def test_an_absurd_price_overflows_nothing(self, one_replica):
        PriceChange.objects.update(price_per_accelerator_hour_usd=Decimal("100000"))
        Replica.objects.update(accelerators=4096)
        ask("dear", 0, 8000)
        accounting.share_out(START + 9000.0)
        check_ledger()
        assert sum(usd_by_kind().values()) > 900_000_000

    def test_a_step_is_no_longer_than_its_requests_allow(self, one_replica, monkeypatch):
        monkeypatch.setattr(accounting, "MOST_REQUESTS", 10)
        for number in range(60):
            ask(f"q{number}", number * 10, number * 10 + 5)
        token = lease.acquire("accounting", holder="test", ttl_s=60, now=time.time())
        accounting.take_step(START + 900.0, token=token)  # up to where the first life began
        accounting.take_step(START + 900.0, token=token)
        assert until() - START <= 120
        steps(START + 900)
        check_ledger()
        assert usd_by_kind() == {"request": 300, "scale_down_delay": 540}

    def test_one_step_asks_the_database_a_fixed_number_of_times(
        self, one_replica, django_assert_max_num_queries
    ):
        for number in range(200):
            ask(f"q{number}", number / 10, number / 10 + 3, prompt_tokens=9)
        token = lease.acquire("accounting", holder="test", ttl_s=60, now=time.time())
        with django_assert_max_num_queries(22):
            accounting.take_step(START + 120.0, token=token)


class TestFolding:
    def entry(self, **values: Any) -> None:
        given = {
            "deployment_id": 1, "deployment_name": "alpha", "kind": "request", "at": START // 3600 * 3600,
            "whole_usd": 1, "rest_units": UNITS_PER_USD - 1, "requests": 1, **values,
        }  # fmt: skip
        CostEntry.objects.create(**given)

    def test_an_hour_becomes_one_row_per_use_and_person(self):
        for step in (1, 2, 3):
            self.entry(step=step, key_id=5)
        self.entry(step=3, key_id=6, user_name="ann")
        self.entry(step=4, key_id=5, whole_usd=-1, rest_units=0, requests=0)
        before = ledger()
        assert cost_ledger.fold(START + 600) == 0
        assert cost_ledger.fold(START // 3600 * 3600 + 4200) == 3
        assert ledger() == before
        row = CostEntry.objects.get(key_id=5)
        assert (row.step, row.requests, row.rest_units) == (0, 3, UNITS_PER_USD - 3)
        assert cost_ledger.fold(START // 3600 * 3600 + 4200) == 0

    def test_what_cancels_out_leaves_no_row(self):
        self.entry(step=1, whole_usd=0, rest_units=5, requests=0)
        self.entry(step=2, whole_usd=-1, rest_units=UNITS_PER_USD - 5, requests=0)
        cost_ledger.fold(START + 9000)
        assert not CostEntry.objects.exists()

    def test_days_are_folded_when_old_and_a_later_correction_joins_them(self):
        for hour in range(30):
            self.entry(at=START // 86400 * 86400 + hour * 3600)
        before, late = ledger(), START + 60 * 86400
        while cost_ledger.fold(late):
            continue
        assert ledger() == before
        assert CostEntry.objects.count() == 2
        self.entry(at=START // 86400 * 86400 + 7200, step=9)
        while cost_ledger.fold(late):
            continue
        assert CostEntry.objects.count() == 2
        assert sum(CostEntry.objects.values_list("requests", flat=True)) == 31
