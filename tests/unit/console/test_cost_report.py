"""Reports add up to the replica-seconds × price of console/costs.py, to the last unit."""

from __future__ import annotations

from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import pytest

from console import cost_report, costs, spending
from console.cost_csv import as_csv
from console.cost_report import Days, Line, month_of
from console.models import (
    ChatMessage,
    ClusterStatus,
    Conversation,
    CostEntry,
    Deployment,
    Replica,
    RequestRecord,
    User,
)
from serving.cost import UNITS_PER_USD, in_usd
from tests.unit.workers.fleet import make_deployment, make_key
from workers import accounting

pytestmark = pytest.mark.django_db
DAY = 86_400
MIDNIGHT = int(datetime(2026, 11, 20, tzinfo=UTC).timestamp())
NOW = MIDNIGHT + 3 * 3600 + 123.456789
BYS = ("deployment", "key", "day", "conversation", "user")
MONTH = Days(date(2026, 11, 1), date(2026, 11, 30))


@pytest.fixture(autouse=True)
def _connection_stays_open(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accounting, "close_old_connections", lambda: None)


def replica(deployment: Deployment, name: str, *, started: float, ended: float | None = None) -> Replica:
    return Replica.objects.create(
        deployment=deployment, deployment_name=deployment.name, replica_id=name, state="RUNNING",
        started_at=started, ready_at=started + 20, ended_at=ended, last_seen_at=NOW, accelerators=3,
    )  # fmt: skip


def ask(name: str, on: Replica, begin: float, took: float, **values: Any) -> None:
    given = {
        "deployment_name": on.deployment_name, "status": 200, "outcome": "ok", "prompt_tokens": 700,
        "cached_tokens": 100, "completion_tokens": 300, **values,
    }  # fmt: skip
    RequestRecord.objects.create(
        id=name, replica=on.replica_id, started_at=begin, finished_at=begin + took, **given
    )


@pytest.fixture
def people(db: None) -> list[User]:
    return [User.objects.create_user(name, password="long enough") for name in ("ann", "bob")]


@pytest.fixture
def world(people: list[User]) -> list[Deployment]:
    """Two deployments, one with an API's price, with requests by two keys over the turn of a day."""
    alpha, beta = make_deployment("alpha", price="1.234567"), make_deployment("beta", price="0.7")
    Deployment.objects.filter(pk=alpha.pk).update(
        api_input_usd_per_million_tokens=Decimal("0.5"), api_output_usd_per_million_tokens=Decimal("1.5")
    )
    keys = [make_key("one"), make_key("two")]
    ClusterStatus.objects.create(pk=1, observed_at=NOW)
    ids = [
        replica(alpha, "a1", started=MIDNIGHT - 7000.5),
        replica(alpha, "a2", started=MIDNIGHT - 50.25, ended=MIDNIGHT + 4000.125),
        replica(beta, "b1", started=MIDNIGHT + 10.0),
    ]
    for index in range(30):
        ask(
            f"q{index}", ids[index % 3], MIDNIGHT - 30 + index * 7.3, 11.1, key=keys[index % 2],
            user_name=["ann", ""][index % 2],
        )  # fmt: skip
    accounting.share_out(NOW)
    return [alpha, beta]


@pytest.mark.parametrize("by", BYS)
@pytest.mark.parametrize("whose", [None, 0, 1])
def test_every_report_adds_up_to_the_replica_seconds_times_price(by, whose, world, people):
    deployment = None if whose is None else world[whose]
    for days in (MONTH, Days(date(2026, 11, 19), date(2026, 11, 19)), Days(date(2026, 11, 20), MONTH.last)):
        found = cost_report.report(by, days, now=NOW, deployment=deployment, user=people[0])
        book = costs.book(deployment=deployment)
        assert found.total.total_units == book.units(start=days.start, end=min(days.end, NOW))
        assert sum(line.total_units for line in found.lines) == found.total.total_units


def test_the_month_is_what_the_overview_says(world):
    total = cost_report.report("deployment", MONTH, now=NOW).total
    assert in_usd(total.total_units) == costs.month_to_date_usd(NOW)
    assert total.waiting_units > 0 and total.request_units > 0
    assert all(total.idle_units[cause] for cause in ("scale_down_delay", "starting"))


def test_keys_and_deployments_for_those_who_hold_budgets(world):
    now = NOW
    by_deployment = spending.spent_units_by_deployment("month", now)
    assert by_deployment == costs.book().units_by_deployment(start=costs.month_start(now), end=now)
    today = costs.book().units_by_deployment(start=float(MIDNIGHT), end=now)
    assert spending.spent_units_by_deployment("day", now) == today
    by_key = spending.spent_units_by_key("month", now)
    assert sum(by_key.values()) == cost_report.report("key", MONTH, now=now).total.request_units
    assert len(by_key) == 2 and 0 not in by_key
    assert sum(spending.spent_units_by_key("day", now).values()) < sum(by_key.values())


def test_a_deleted_deployment_stays_in_the_report(world):
    Deployment.objects.filter(name="beta").update(current_revision=None)
    Deployment.objects.filter(name="beta").delete()
    lines = {line.name: line for line in cost_report.report("deployment", MONTH, now=NOW).lines}
    assert lines["beta"].is_deleted and lines["beta"].total_units > 0
    assert not lines["alpha"].is_deleted


def test_conversations_are_ones_own_and_the_rest_is_one_line(world, people):
    talks = [Conversation.objects.create(user=one, title=f"{one}’s", deployment_name="a") for one in people]
    for talk, ids in zip(talks, (["q0", "q1", "q2"], ["q3"]), strict=True):
        for request_id in ids:
            message = ChatMessage.objects.create(
                conversation=talk, role="assistant", stats={"request_id": request_id}
            )
            ChatMessage.objects.filter(pk=message.pk).update(created_at=datetime.fromtimestamp(NOW, UTC))
    found = cost_report.report("conversation", MONTH, now=NOW, user=people[0])
    assert [line.name for line in found.lines] == ["ann’s", "(no kept conversation)", "(idle)"]
    own = RequestRecord.objects.filter(pk__in=["q0", "q1", "q2"]).values_list("cost_units", flat=True)
    assert found.lines[0].request_units == sum(own)
    # One of the thirty ended before its replica had begun: it was on none.
    assert found.lines[0].requests == 3 and found.lines[1].requests == 26


def test_effective_prices_beside_good_load_and_an_api():
    line = Line(
        "x", prompt_tokens=2_000_000, completion_tokens=500_000, request_units=4 * UNITS_PER_USD,
        idle_units={"kept_warm": 6 * UNITS_PER_USD}, api_prices=(Decimal("0.5"), Decimal("1.5")),
    )  # fmt: skip
    assert line.busy_share == 0.4
    assert line.usd_per_million == 20
    assert line.usd_per_million_at_good_load == 10
    assert line.api_usd == Decimal("1.75")
    assert line.api_usd_per_million == Decimal("3.5")
    assert line.api_difference_usd == Decimal("8.25")


def test_without_output_tokens_or_an_api_price_nothing_is_invented():
    line = Line("x", request_units=5)
    assert line.usd_per_million is None and line.usd_per_million_at_good_load is None
    assert line.api_usd is None and line.api_difference_usd is None and Line("y").busy_share is None


@pytest.mark.parametrize(
    ("day", "today", "days"),
    [
        (date(2026, 2, 3), date(2026, 11, 5), (date(2026, 2, 1), date(2026, 2, 28))),
        (date(2026, 11, 3), date(2026, 11, 5), (date(2026, 11, 1), date(2026, 11, 5))),
        (date(2026, 12, 3), date(2027, 1, 1), (date(2026, 12, 1), date(2026, 12, 31))),
        (date(2027, 5, 3), date(2026, 11, 5), (date(2027, 5, 1), date(2027, 5, 1))),
    ],
)
def test_a_month_reaches_to_today(day, today, days):
    assert month_of(day, today=today) == Days(*days)


def test_a_csv_has_every_digit_and_no_formula(world):
    found = cost_report.report("user", MONTH, now=NOW)
    found.lines[0].name = "=cmd()"
    rows = as_csv(found).splitlines()
    assert rows[0].startswith("user,requests,prompt_tokens")
    assert rows[1].startswith("'=cmd()")
    assert rows[-1].split(",")[5] == format(in_usd(found.total.total_units), "f")
    total = sum(Decimal(row.split(",")[5]) for row in rows[1:-1])
    assert total == Decimal(rows[-1].split(",")[5])


@pytest.mark.parametrize(("by", "most"), [("deployment", 6), ("key", 6), ("day", 12), ("user", 6)])
def test_a_report_asks_a_fixed_number_of_times(by, most, world, django_assert_max_num_queries):
    CostEntry.objects.bulk_create(
        CostEntry(deployment_id=pk, deployment_name=f"d{pk}", at=MIDNIGHT - pk * 3600, kind="request")
        for pk in range(100, 160)
    )
    with django_assert_max_num_queries(most):
        cost_report.report(by, MONTH, now=NOW)
