"""The request log and one request's page: filters, paging, the waterfall, what stays unknown."""

from __future__ import annotations

import re
import time
from typing import Any

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse

from console import request_log
from console.models import ApiKey, Deployment, RegisteredModel, RequestRecord, Sample, User
from serving import histogram

pytestmark = pytest.mark.django_db


@pytest.fixture
def page(client: Client, viewer: User) -> Client:
    client.force_login(viewer)
    return client


@pytest.fixture
def chat() -> Deployment:
    model = RegisteredModel.objects.create(name="m", source_kind="folder", source="/m")
    return Deployment.objects.create(name="chat", model=model, requested_at=0.0)


def make(name: str, *, ago_s: float = 60.0, **changed: Any) -> RequestRecord:
    values: dict[str, Any] = {
        "deployment_name": "chat",
        "path": "/v1/chat/completions",
        "started_at": time.time() - ago_s,
        "status": 200,
        "outcome": "ok",
        "replica": "r1",
        "gateway_s": 0.002,
        "held_s": 0.0,
        "queue_s": 0.01,
        "prefill_s": 0.1,
        "engine_decode_s": 0.5,
        "e2e_s": 0.65,
        "prompt_tokens": 12,
        "completion_tokens": 5,
    }
    return RequestRecord.objects.create(id=name, **{**values, **changed})


def listed(page: Client, query: str = "", status: int = 200) -> list[str]:
    answer = page.get(f"{reverse('requests')}{query}")
    assert answer.status_code == status
    return re.findall(r'href="/requests/([^"/?]+)/"', answer.content.decode())


def test_the_last_seven_days_are_shown_newest_first(page: Client, chat: Deployment) -> None:
    make("new", ago_s=10)
    make("old", ago_s=6 * 86_400)
    make("older", ago_s=8 * 86_400)
    assert listed(page) == ["new", "old"]
    assert listed(page, "?window=all") == ["new", "old", "older"]
    assert listed(page, "?window=1h") == ["new"]


def test_filters_narrow_the_log(page: Client, chat: Deployment) -> None:
    key = ApiKey.objects.create(name="bot", digest="1" * 64, prefix="rd-abc")
    make("ours", key=key)
    make("other", deployment_name="other")
    make("broken", outcome="error", status=500)
    make("full", outcome="refused", status=429)
    make("down", outcome="refused", status=503)
    make("slow", e2e_s=9.0)
    assert set(listed(page, f"?key={key.pk}")) == {"ours"}
    assert set(listed(page, "?deployment=other")) == {"other"}
    assert set(listed(page, "?outcome=failed")) == {"broken", "down"}
    assert set(listed(page, "?outcome=refused")) == {"full", "down"}
    assert set(listed(page, "?speed=over&over_s=2,5")) == {"slow"}
    assert listed(page, "?deployment=nothing&key=x&outcome=y&speed=z&window=w") == []


def test_slow_is_measured_against_each_deployments_own_p95(page: Client, chat: Deployment) -> None:
    counts: dict[int, int] = {}
    for value in [0.5] * 99 + [30.0]:
        histogram.observe(counts, value)
    Sample.objects.create(deployment=chat, resolution_s=300, at=int(time.time()) - 600, e2e=counts)
    assert request_log.p95_by_deployment(time.time())["chat"] == pytest.approx(0.5, rel=0.2)
    make("usual", e2e_s=0.4)
    make("slow", e2e_s=2.0)
    make("unknown", deployment_name="other", e2e_s=50.0)
    assert listed(page, "?speed=p95") == ["slow"]


def test_a_threshold_that_is_none_is_named_and_nothing_is_lost(page: Client, chat: Deployment) -> None:
    make("one")
    answer = page.get(f"{reverse('requests')}?speed=over&over_s=soon&deployment=chat")
    assert answer.status_code == 400
    text = answer.content.decode()
    assert "write seconds" in text and 'value="soon"' in text and "<option selected>chat" in text


def test_pages_follow_one_another_and_cost_the_same(page: Client, chat: Deployment) -> None:
    key = ApiKey.objects.create(name="bot", digest="1" * 64, prefix="rd-abc")
    make("first", key=key)
    listed(page)
    with CaptureQueriesContext(
        connection,
    ) as few:
        listed(page)
    for number in range(120):
        make(f"r{number:03}", ago_s=100 + number, key=key)
    with CaptureQueriesContext(connection) as many:
        first = listed(page)
    assert len(few) == len(many)
    answer = page.get(reverse("requests")).content.decode()
    older = re.search(r'href="(\?[^"]*before=[^"]*)"', answer)
    assert older is not None
    second = listed(page, older.group(1).replace("&amp;", "&"))
    assert len(first) == len(second) == 50 and not set(first) & set(second)


def test_odd_addresses_do_no_harm(page: Client, chat: Deployment) -> None:
    make("one")
    assert listed(page, "?before=nonsense") == ["one"]
    assert page.get("/requests/%00%0d%0a/").status_code == 404
    assert listed(page, "?deployment=%00") == ["one"], "what names no deployment narrows nothing"
    assert page.get(f"/requests/{'x' * 500}/").status_code == 404


def test_a_requests_page_draws_its_parts_and_counts_its_neighbours(page: Client, chat: Deployment) -> None:
    one = make("one", ago_s=100, e2e_s=10.0, cached_tokens=8)
    make("within", started_at=one.started_at + 2, e2e_s=1.0)
    make("around", started_at=one.started_at - 5, e2e_s=60.0)
    make("before", started_at=one.started_at - 5, e2e_s=4.0)
    make("elsewhere", started_at=one.started_at + 2, replica="r2")
    text = page.get(reverse("request", args=["one"])).content.decode()
    for label in ("Gateway", "Serve hop", "Engine queue", "Prefill", "Decode"):
        assert label in text
    assert "style=" not in text.split("<main", 1)[1].split("</main>")[0]
    assert "8 from the prefix cache" in text
    assert request_log.neighbours(one) == 2
    assert re.search(r"2<span[^>]*>other requests on this replica", text)


def test_a_request_without_times_says_so(page: Client, chat: Deployment) -> None:
    make("bare", e2e_s=None, gateway_s=None, replica="")
    assert "No times are known" in page.get(reverse("request", args=["bare"])).content.decode()


def test_bars_stay_inside_the_drawing(chat: Deployment) -> None:
    for bar in request_log.bars(make("one", e2e_s=1e6)):
        assert bar.x >= 0 and bar.x + bar.width <= 1000.01
