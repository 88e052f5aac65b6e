"""The cost page: its sums are the ledger's, a month without cost says so, nobody needs to guess."""

from __future__ import annotations

import re
import time
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.test import Client

from console import costs
from console.models import ApiKey, ClusterStatus, CostAccounting, CostEntry, Deployment
from serving.cost import UNITS_PER_USD
from tests.unit.views.test_shell import INLINE
from tests.unit.workers.fleet import make_deployment, make_key, make_replica

TODAY = int(time.time() // 86_400 * 86_400)


def entry(deployment: Deployment, kind: str, units: int, **values: Any) -> CostEntry:
    given = {
        "deployment_id": deployment.pk, "deployment_name": deployment.name, "at": TODAY, "kind": kind,
        "whole_usd": units // UNITS_PER_USD, "rest_units": units % UNITS_PER_USD, **values,
    }  # fmt: skip
    return CostEntry.objects.create(**given)


@pytest.fixture
def spent(db: None) -> Deployment:
    """One deployment's day: a request, idle time of two causes, and a replica that still costs."""
    deployment = make_deployment("chat", price="3600")
    key = make_key("support-bot")
    entry(
        deployment, "request", 12 * UNITS_PER_USD + 345_678_901_234, key_id=key.pk, requests=3,
        prompt_tokens=40_000, completion_tokens=2_000_000,
    )  # fmt: skip
    entry(deployment, "kept_warm", 3 * UNITS_PER_USD)
    entry(deployment, "starting", 500_000_000_000)
    ClusterStatus.objects.create(pk=1, reachable=True, observed_at=time.time())
    CostAccounting.objects.create(pk=1, until=int(time.time()) - 5)
    return deployment


def test_the_sum_is_the_ledgers_and_what_is_not_shared_out_yet_to_the_last_unit(
    spent: Deployment, as_viewer: Client
) -> None:
    now = time.time()
    make_replica(spent, "r1", started_at=now - 3, ended_at=now - 1.5, accounted_until=int(now - 2))
    page = as_viewer.get("/cost/").content.decode()
    waiting = costs.book().units(start=float(int(now - 2)), end=now)
    shown = Decimal(re.findall(r'data-total="([\d.]+)"', page)[0])
    assert int(shown * UNITS_PER_USD) == 15_845_678_901_234 + waiting
    assert waiting > 0


def test_it_shows_who_used_what_and_what_was_idle_why(spent: Deployment, as_viewer: Client) -> None:
    page = as_viewer.get("/cost/").content.decode()
    for words in (
        "$15.85", "support-bot", "mostly kept warm", "$3.00", "$0.50", "Starting", "Draining", "$7.92",
        "$7.72 at 80 % load", "enter its price in a deployment’s form",
    ):  # fmt: skip
        assert words in page, words
    assert 'rect class="c1"' in page
    assert not INLINE.findall(page)


def test_an_api_price_stands_beside_with_the_difference(spent: Deployment, as_viewer: Client) -> None:
    Deployment.objects.update(
        api_input_usd_per_million_tokens=Decimal("2.5"), api_output_usd_per_million_tokens=Decimal(10)
    )
    page = as_viewer.get("/cost/").content.decode()
    assert "$10.05" in page and "−$4.25" in page


def test_a_deleted_deployment_and_a_revoked_key_keep_their_lines(
    spent: Deployment, as_viewer: Client
) -> None:
    ApiKey.objects.update(revoked_at=datetime.now(UTC))
    Deployment.objects.update(current_revision=None)
    Deployment.objects.all().delete()
    page = as_viewer.get("/cost/").content.decode()
    assert "deleted" in page and "support-bot" in page and "/deployments/chat/" not in page


def test_a_month_without_cost_says_what_begins_it(as_viewer: Client) -> None:
    page = as_viewer.get("/cost/")
    assert page.status_code == 200 and "Nothing was paid for in" in page.content.decode()


def test_other_months_are_a_click_away(spent: Deployment, as_viewer: Client) -> None:
    earlier = (datetime.now(UTC).replace(day=1) - timedelta(days=1)).strftime("%Y-%m")
    page = as_viewer.get("/cost/").content.decode()
    assert f"?month={earlier}" in page
    past = as_viewer.get(f"/cost/?month={earlier}").content.decode()
    assert "Nothing was paid for in" in past and datetime.now(UTC).strftime("?month=%Y-%m") in past


@pytest.mark.parametrize("month", ["", "2026-13", "now", "9999-01", "0001-01", "2026-11-30", "\x00"])
def test_a_month_that_makes_no_sense_is_this_one(month: str, spent: Deployment, as_viewer: Client) -> None:
    page = as_viewer.get("/cost/", {"month": month})
    assert page.status_code == 200 and "Month to date" in page.content.decode()


def test_csv_buttons_lead_to_the_same_figures(spent: Deployment, as_viewer: Client) -> None:
    page = as_viewer.get("/cost/").content.decode()
    links = re.findall(r'href="(/api/v1/cost\?[^"]+)"', page)
    assert len(links) == 5
    for link in links:
        answer = as_viewer.get(link.replace("&amp;", "&"))
        assert answer.status_code == 200 and "15.845678901234" in answer.content.decode(), link


def test_the_page_asks_a_fixed_number_of_times(
    spent: Deployment, as_viewer: Client, django_assert_max_num_queries: Any
) -> None:
    for number in range(60):
        other = make_deployment(f"other-{number}")
        entry(other, "request", number, key_id=number)
    with django_assert_max_num_queries(34):
        as_viewer.get("/cost/")
