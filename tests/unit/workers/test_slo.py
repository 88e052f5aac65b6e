"""The evaluation: budgets from exact counts, alerts that open and resolve once, events and messages."""

from __future__ import annotations

import time
from typing import Any

import pytest

from console import actions, slo
from console.models import Alert, Deployment, Event, Sample, SampleMark, Slo, SloStatus, WebhookDelivery
from serving import histogram
from tests.unit.workers.fleet import make_deployment
from workers import lease
from workers.slo import LEASE, evaluate

pytestmark = [pytest.mark.django_db, pytest.mark.database]
NOW = 1_800_000_000.0


def promised(deployment: Deployment, **values: Any) -> None:
    Slo.objects.update_or_create(deployment=deployment, defaults=values)


def traffic(deployment: Deployment, *, ago: float, good: int = 0, bad: int = 0, failed: int = 0) -> None:
    """Requests in one 10 s row: good ones with a TTFT of 0.1 s, bad ones of 3 s."""
    counts: histogram.Counts = {}
    for value_s, times in ((0.1, good), (3.0, bad)):
        if times:
            counts[histogram.bucket_of(value_s)] = times
    Sample.objects.create(
        deployment=deployment, resolution_s=10, at=int(NOW - ago) // 10 * 10, requests_ok=good + bad,
        requests_failed=failed, ttft=counts,
    )  # fmt: skip


def judge(now: float = NOW) -> None:
    token = lease.acquire(LEASE, holder="test", ttl_s=60, now=time.time())
    assert token is not None
    evaluate(now, token=token)


@pytest.fixture(autouse=True)
def _all_rolled_up() -> None:
    SampleMark.objects.create(resolution_s=10, complete_to=int(NOW) - 20)


def burning() -> Deployment:
    deployment = make_deployment()
    promised(deployment, ttft_s=0.5, latency_target=0.95)
    traffic(deployment, ago=60, good=10, bad=90)
    return deployment


def test_what_burns_in_both_windows_opens_one_alert_and_says_so() -> None:
    deployment = burning()
    for _ in range(2):
        judge()
    fast, slow = Alert.objects.order_by("speed")
    assert (fast.speed, slow.speed) == ("fast", "slow")
    assert (fast.objective, fast.limit_s, fast.factor, fast.resolved_at) == ("ttft", 0.5, 14.4, None)
    assert fast.burn_rate == pytest.approx(18.0)
    events = Event.objects.filter(kind="alert.opened")
    assert events.count() == 2 and "18.0 times too fast" in events[0].message
    found = slo.standing(Deployment.objects.get(pk=deployment.pk), NOW + 1)
    (row,) = found["objectives"]
    assert (row["requests"], row["bad"], row["budget_left"]) == (100, 90, pytest.approx(-17.0))
    assert row["held_limit_s"] < 0.5 and found["is_over"] and not found["stale"]
    assert not slo.is_over(Deployment.objects.get(pk=deployment.pk), NOW + 500)


def test_it_resolves_once_when_the_short_window_is_well_again() -> None:
    deployment = burning()
    judge()
    later = NOW + 400
    SampleMark.objects.update(complete_to=int(later) - 20)
    Sample.objects.create(
        deployment=deployment, resolution_s=10, at=int(later) // 10 * 10 - 60, requests_ok=100,
        requests_failed=0, ttft={histogram.bucket_of(0.1): 100},
    )  # fmt: skip
    for _ in range(2):
        judge(later)
    fast, slow = Alert.objects.order_by("speed")
    assert (fast.resolved_at, fast.reason) == (later, "the budget burns slowly again")
    assert slow.resolved_at is None  # half an hour still burns
    assert Event.objects.filter(kind="alert.resolved").count() == 1
    judge(NOW + 7 * 3600)
    slow.refresh_from_db()
    assert slow.resolved_at is not None


def test_silence_alone_resolves_nothing() -> None:
    burning()
    judge()
    judge(NOW + 400)
    assert Alert.objects.filter(resolved_at=None).count() == 2


def test_errors_have_an_objective_of_their_own() -> None:
    deployment = make_deployment()
    promised(deployment, success_target=0.99, window_days=7)
    traffic(deployment, ago=3600 * 3, good=1000)
    traffic(deployment, ago=100, good=20, failed=30)
    judge()
    (row,) = SloStatus.objects.get(deployment=deployment).objectives
    assert (row["objective"], row["requests"], row["bad"]) == ("errors", 1050, 30)
    assert {alert.objective for alert in Alert.objects.all()} == {"errors"}
    assert {alert.speed for alert in Alert.objects.all()} == {"fast"}  # 6 h hold a thousand good ones


def test_what_is_promised_no_more_is_over_and_so_is_a_deleted_deployment() -> None:
    deployment = burning()
    judge()
    Slo.objects.filter(deployment=deployment).update(ttft_s=None)
    judge()
    assert set(Alert.objects.values_list("reason", flat=True)) == {"the objective was taken away"}
    assert not SloStatus.objects.exists()
    other = make_deployment("other")
    promised(other, ttft_s=0.5)
    traffic(other, ago=60, bad=50)
    judge()
    actions.delete_deployment(actor=actions.SYSTEM, name="other")
    judge()
    gone = Alert.objects.filter(deployment_name="other")
    assert set(gone.values_list("reason", flat=True)) == {"the deployment was deleted"}


def test_a_new_deployment_with_the_name_of_a_burning_one_starts_anew() -> None:
    burning()
    judge()
    actions.delete_deployment(actor=actions.SYSTEM, name="demo")
    burning()
    judge()
    assert Alert.objects.filter(resolved_at=None).count() == 2
    assert Alert.objects.exclude(resolved_at=None).count() == 2


def test_messages_are_queued_for_the_alerts_that_are_wanted(
    wakes: list[str], django_capture_on_commit_callbacks: Any
) -> None:
    actions.edit_webhook(
        actor=actions.SYSTEM, expected_version=1,
        changes={
            "url": "https://a.example/", "secret": "sixteen characters", "enabled": True, "sends_slow": False,
        },
    )  # fmt: skip
    burning()
    with django_capture_on_commit_callbacks(execute=True):
        judge()
    (row,) = WebhookDelivery.objects.all()
    assert (row.event, row.status, row.body["alert"]["speed"]) == ("alert.opened", "queued", "fast")
    assert row.body["alert"]["deployment"] == "demo"
    assert "workers.webhooks" in wakes


def test_a_worker_that_lost_its_lease_writes_nothing() -> None:
    burning()
    evaluate(NOW, token=12345)
    assert not SloStatus.objects.exists() and not Alert.objects.exists()


def test_fifty_deployments_take_few_queries(django_assert_max_num_queries: Any) -> None:
    for number in range(12):
        deployment = make_deployment(f"d{number}")
        promised(deployment, ttft_s=0.5, success_target=0.99)
        traffic(deployment, ago=60, good=100)
    judge()
    with django_assert_max_num_queries(70 + 12 * 5):
        judge()
