"""Rolling up keeps every count and bucket; dropping never takes what was not rolled up."""

from __future__ import annotations

from decimal import Decimal

import pytest

from console.models import Deployment, Sample
from serving import histogram
from serving.resolutions import BUCKETS_S, POINTS_MAX, RETENTION_S, bucket_for, coarser_of, resolution_of
from tests.unit.workers.fleet import make_deployment
from workers import retention, samples

START = 1_000_000_200  # a multiple of 300 s


def write_seconds(deployment: Deployment, *, first: int, count: int, without: range = range(0)) -> None:
    Sample.objects.bulk_create(
        Sample(
            deployment=deployment,
            resolution_s=1,
            at=first + i,
            requests_running=float(i % 3),
            kv_cache_usage=None,
            completion_tokens=10,
            requests_ok=2,
            requests_failed=1,
            replicas=1.0,
            weights_bytes=100 + i,
            cost_per_hour_usd=Decimal("1.5"),
            ttft={str(100 + i % 5): 2},
        )
        for i in range(count)
        if first + i not in without
    )


def roll_up_all(now: float) -> None:
    for _ in range(1000):
        if not retention.roll_up(now):
            return
    pytest.fail("rolling up never came to an end")


def total(resolution_s: int, name: str) -> int:
    return sum(getattr(row, name) for row in Sample.objects.filter(resolution_s=resolution_s))


def buckets(resolution_s: int) -> histogram.Counts:
    rows = Sample.objects.filter(resolution_s=resolution_s)
    return histogram.merged(row.ttft for row in rows)


@pytest.mark.django_db
class TestRollUp:
    def test_every_resolution_holds_the_same_counts_and_buckets(self):
        deployment = make_deployment()
        write_seconds(deployment, first=START, count=600)
        roll_up_all(START + 600 + 1000)
        for resolution_s, rows in ((1, 600), (10, 60), (60, 10), (300, 2)):
            assert Sample.objects.filter(resolution_s=resolution_s).count() == rows
            assert total(resolution_s, "completion_tokens") == 6000
            assert total(resolution_s, "requests_ok") == 1200
            assert buckets(resolution_s) == buckets(1)

    def test_gauges_become_means_and_sizes_the_last_value(self):
        write_seconds(make_deployment(), first=START, count=10)
        roll_up_all(START + 100)
        row = Sample.objects.get(resolution_s=10)
        assert row.requests_running == pytest.approx(0.9)
        assert (row.weights_bytes, row.kv_cache_usage) == (109, None)
        assert row.cost_per_hour_usd == Decimal("1.5")

    def test_what_is_not_settled_waits(self):
        write_seconds(make_deployment(), first=START, count=20)
        roll_up_all(START + 20 + retention.SETTLE_S - 1)
        assert [row.at for row in Sample.objects.filter(resolution_s=10)] == [START]

    def test_a_gap_stays_a_gap(self):
        write_seconds(make_deployment(), first=START, count=100, without=range(START + 30, START + 60))
        roll_up_all(START + 1000)
        at = {row.at - START for row in Sample.objects.filter(resolution_s=10)}
        assert at == {0, 10, 20, 60, 70, 80, 90}

    def test_a_long_backlog_is_worked_off_in_bounded_steps_without_partial_intervals(self, monkeypatch):
        write_seconds(make_deployment(), first=START, count=900)
        monkeypatch.setattr(retention, "SOURCE_ROWS_PER_STEP", 70)
        retention.roll_up(START + 2000)
        assert Sample.objects.filter(resolution_s=10).count() == 7
        roll_up_all(START + 2000)
        assert total(300, "completion_tokens") == 9000
        assert Sample.objects.filter(resolution_s=300).count() == 3

    def test_two_deployments_are_kept_apart(self):
        one, two = make_deployment("one"), make_deployment("two")
        write_seconds(one, first=START, count=10)
        write_seconds(two, first=START + 5, count=5)
        roll_up_all(START + 100)
        assert Sample.objects.get(resolution_s=10, deployment=one).requests_ok == 20
        assert Sample.objects.get(resolution_s=10, deployment=two).requests_ok == 10

    def test_rolling_up_again_changes_nothing(self):
        write_seconds(make_deployment(), first=START, count=300)
        roll_up_all(START + 5000)
        before = list(Sample.objects.order_by("pk").values_list("pk", "at", "requests_ok"))
        assert retention.roll_up(START + 5000) == 0
        assert list(Sample.objects.order_by("pk").values_list("pk", "at", "requests_ok")) == before

    def test_a_late_request_reaches_the_rolled_up_rows(self):
        deployment = make_deployment()
        write_seconds(deployment, first=START, count=300)
        roll_up_all(START + 5000)
        late = samples.Finished(requests_ok=1, ttft={7: 1})
        samples.add_to_stored_rows({(deployment.pk, START + 123): late})
        for resolution_s in (1, 10, 60, 300):
            assert buckets(resolution_s)[7] == 1
            assert total(resolution_s, "requests_ok") == 601


@pytest.mark.django_db
class TestDropping:
    def test_rows_past_their_retention_go_and_coarser_ones_stay(self):
        write_seconds(make_deployment(), first=START, count=600)
        now = START + 600 + RETENTION_S[1]
        roll_up_all(now)
        retention.drop_expired(now - 300)
        assert min(row.at for row in Sample.objects.filter(resolution_s=1)) == START + 300
        retention.drop_expired(now + 1)
        assert not Sample.objects.filter(resolution_s=1).exists()
        assert total(10, "requests_ok") == 1200

    def test_what_was_not_rolled_up_is_never_dropped(self):
        write_seconds(make_deployment(), first=START, count=600)
        assert retention.drop_expired(START + 10 * RETENTION_S[1]) == 0
        assert Sample.objects.filter(resolution_s=1).count() == 600

    def test_a_run_is_bounded(self, monkeypatch):
        write_seconds(make_deployment(), first=START, count=600)
        now = START + 600 + 2 * RETENTION_S[1]
        roll_up_all(now)
        monkeypatch.setattr(retention, "DELETE_BATCH", 100)
        assert retention.drop_expired(now, rows_max=200) == 200
        assert Sample.objects.filter(resolution_s=1).count() == 400

    def test_the_hourly_task_does_both(self):
        write_seconds(make_deployment(), first=START, count=600)
        done = retention.apply_retention(START + 600 + 2 * RETENTION_S[1])
        assert done == {"rolled_up": 60 + 10 + 2 + 1, "dropped": 600}


class TestTable:
    def test_each_resolution_divides_the_next_and_is_kept_for_less_long(self):
        for resolution_s, kept_s in RETENTION_S.items():
            coarser = coarser_of(resolution_s)
            if coarser is not None:
                assert coarser % resolution_s == 0
                assert RETENTION_S[coarser] > kept_s

    @pytest.mark.parametrize(
        "window_s", [10, 60, 300, 301, 900, 3600, 6 * 3600, 86_400, 7 * 86_400, 400 * 86_400]
    )
    @pytest.mark.parametrize("deployments", [1, 20, 500])
    def test_every_window_has_at_most_300_points_from_rows_that_are_still_kept(self, window_s, deployments):
        bucket_s = bucket_for(window_s, deployments=deployments)
        assert bucket_s in BUCKETS_S
        assert -(-window_s // bucket_s) <= POINTS_MAX
        assert RETENTION_S[resolution_of(bucket_s)] >= window_s
