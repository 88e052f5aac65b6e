"""A window's sums: every request once, whatever resolutions it is put together from; percentiles of them."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from console import percentiles, windows
from console.models import Deployment, Sample
from serving import histogram
from serving.resolutions import DAY_S, RETENTION_S, cover, finest_for, snapped
from tests.unit.workers.fleet import make_deployment
from workers import retention

DAY = 20_000 * DAY_S
moments = st.integers(0, 3 * DAY_S)


@given(moments, moments, st.lists(moments, min_size=5, max_size=5))
def test_spans_cover_every_second_of_a_window_exactly_once(one, other, complete):
    start, end = DAY + min(one, other), DAY + max(one, other)
    coarser = sorted(RETENTION_S)[1:]
    complete_to = {size: (DAY + at) // size * size for size, at in zip(coarser, complete, strict=True)}
    spans = cover(start, end, complete_to=complete_to)
    at = start
    for span in spans:
        assert span.start == at < span.end
        assert span.start % span.resolution_s == span.end % span.resolution_s == 0
        assert span.end <= complete_to.get(span.resolution_s, end)
        at = span.end
    assert at == max(start, end) if spans else start >= end
    assert len(spans) <= 2 * len(RETENTION_S) - 1


@given(st.floats(1, 30 * DAY_S), st.floats(60, 30 * DAY_S))
def test_a_window_is_widened_to_rows_that_are_kept_and_never_narrowed(ago, length):
    now = DAY + 0.25
    first, last = snapped(now - ago - length, now - ago, now=now)
    assert first <= now - ago - length < first + finest_for(ago + length)
    assert last - finest_for(ago) < now - ago <= last


@pytest.mark.django_db
class TestSums:
    START = DAY - 3 * 3600 - 130

    def fill(self, deployment: Deployment, seconds: int) -> list[int]:
        """A request in some seconds, at 0.1 s or more; the seconds. Rolled up as far as it is due."""
        chance = random.Random(7)
        busy = [self.START + i for i in range(seconds) if chance.random() < 0.2]
        Sample.objects.bulk_create(
            Sample(
                deployment=deployment, resolution_s=1, at=at, requests_ok=1, requests_failed=at % 7 == 0,
                ttft={histogram.bucket_of(0.1 + (at % 50) / 100): 1}, queue={3: 1},
            )
            for at in busy
        )  # fmt: skip
        for _ in range(200):
            if not retention.roll_up(self.START + seconds):
                break
        return busy

    @pytest.mark.parametrize(
        ("begin", "length"), [(0, 11_000), (1, 9_999), (3000, 60), (7211, 3601), (10_400, 600)]
    )
    def test_they_are_those_of_the_single_seconds(self, begin, length):
        deployment = make_deployment()
        other = make_deployment("other")
        busy = self.fill(deployment, 11_000)
        start, end = self.START + begin, self.START + begin + length
        found = windows.window([deployment.pk, other.pk], start=start, end=end, now=self.START + 11_000)
        inside = [at for at in busy if found.start <= at < found.end]
        own = found.of(deployment.pk)
        assert own.requests_ok == len(inside)
        assert own.requests_failed == sum(at % 7 == 0 for at in inside)
        buckets = [histogram.bucket_of(0.1 + (at % 50) / 100) for at in inside]
        assert own.counts["ttft"] == {bucket: buckets.count(bucket) for bucket in set(buckets)}
        assert found.of(other.pk).requests == 0

    def test_they_stay_right_when_fine_rows_are_dropped(self, django_assert_max_num_queries):
        deployment = make_deployment()
        busy = self.fill(deployment, 11_000)
        now = self.START + 11_000
        retention.drop_expired(now)
        assert Sample.objects.filter(resolution_s=1).count() < len(busy)
        with django_assert_max_num_queries(13):
            answer = percentiles.summary(deployment, start=now - 9000, end=now, now=now)
        inside = [at for at in busy if at >= answer["from"]]
        assert answer["latencies"]["ttft"]["count"] == len(inside)
        true = sorted(0.1 + (at % 50) / 100 for at in inside)
        for name, q in percentiles.QUANTILES.items():
            assert answer["latencies"]["ttft"][name] == pytest.approx(true[int(q * len(true))], rel=0.06)
        assert answer["latencies"]["e2e"] == {"count": 0, "p50_s": None, "p95_s": None, "p99_s": None}


@settings(max_examples=50)
@given(st.floats(0, 400 * DAY_S))
def test_the_finest_rows_for_an_age_are_kept_at_that_age(age_s):
    assert RETENTION_S[finest_for(age_s)] >= age_s
