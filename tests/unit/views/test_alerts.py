"""Pages of objectives, alerts and the webhook."""

from __future__ import annotations

import time
from collections.abc import Callable

from django.test import Client

from console.models import Alert, AlertWebhook, Deployment, Slo, SloStatus, WebhookDelivery

Deploy = Callable[..., Deployment]
FORM = {
    "ttft_ms": "500",
    "tpot_ms": "",
    "latency_percent": "95",
    "success_percent": "99.9",
    "window_days": "30",
}


def open_alert(deployment: Deployment, **values: object) -> Alert:
    given = {
        "deployment": deployment, "deployment_name": deployment.name, "objective": "ttft", "speed": "fast",
        "long_window_s": 3600, "short_window_s": 300, "factor": 14.4, "target": 0.95, "burn_rate": 18.0,
        "opened_at": time.time() - 240,
    }  # fmt: skip
    return Alert.objects.create(**{**given, **values})


def test_objectives_are_set_on_a_page_and_shown_on_the_card(as_operator: Client, deploy: Deploy) -> None:
    deployment = deploy("chat", "ready")
    page = as_operator.get("/deployments/chat/slo/").content.decode()
    assert 'name="ttft_ms"' in page
    answer = as_operator.post("/deployments/chat/slo/", {**FORM, "expected_version": "1"})
    assert (answer.status_code, answer["Location"]) == (302, "/deployments/chat/")
    row = Slo.objects.get(deployment=deployment)
    assert (row.ttft_s, row.tpot_s, row.success_target) == (0.5, None, 0.999)
    SloStatus.objects.create(
        deployment=deployment,
        evaluated_at=time.time(),
        objectives=[
            {
                "objective": "ttft", "limit_s": 0.5, "held_limit_s": 0.488, "target": 0.95, "window_days": 30,
                "requests": 1000, "bad": 19, "good_share": 0.981, "budget_left": 0.62,
                "burn_rates": {"3600": 2.31}, "is_over": True,
            }
        ],
    )  # fmt: skip
    page = as_operator.get("/deployments/chat/").content.decode()
    assert "TTFT p95 at most 500\u00a0ms" in page and "62% of the error budget left" in page
    assert "Over SLO" in page and "2.3×" in page
    assert 'data-slo="0.5"' in page
    assert "style=" not in page


def test_a_wrong_value_and_a_faster_colleague_are_told(as_operator: Client, deploy: Deploy) -> None:
    deploy("chat")
    wrong = as_operator.post(
        "/deployments/chat/slo/", {**FORM, "success_percent": "100", "expected_version": "1"}
    )
    assert wrong.status_code == 400 and "99.99" in wrong.content.decode()
    as_operator.post("/deployments/chat/slo/", {**FORM, "expected_version": "1"})
    second = as_operator.post("/deployments/chat/slo/", {**FORM, "ttft_ms": "700", "expected_version": "1"})
    page = second.content.decode()
    assert second.status_code == 409 and "This is stored now" in page and 'value="700"' in page


def test_open_alerts_stand_on_the_overview_and_the_alerts_page(
    as_viewer: Client, deploy: Deploy, django_assert_max_num_queries: Callable[..., object]
) -> None:
    deployment = deploy("chat", "ready")
    open_alert(deployment)
    open_alert(deployment, speed="slow", resolved_at=time.time(), reason="the budget burns slowly again")
    words = "the error budget burns 18.0 times too fast (1 h and 5 min)"
    assert words in as_viewer.get("/parts/attention/").content.decode()
    page = as_viewer.get("/alerts/").content.decode()
    assert words in page and "the budget burns slowly again" in page and "Webhook" not in page
    assert words in as_viewer.get("/deployments/chat/parts/slo/").content.decode()


def test_an_administrator_sets_and_tests_the_webhook(page_of: Callable[[str], Client]) -> None:
    admin = page_of("admin")
    given = {
        "url": "https://a.example/x",
        "secret": "sixteen characters",
        "enabled": "on",
        "sends_fast": "on",
        "expected_version": "1",
    }
    assert admin.post("/settings/alerts/", given).status_code == 302
    hook = AlertWebhook.objects.get()
    assert (hook.url, hook.enabled, hook.sends_fast, hook.sends_slow) == (given["url"], True, True, False)
    assert admin.post("/settings/alerts/test/").status_code == 302
    page = admin.get("/settings/alerts/").content.decode()
    assert "On its way" in page and "every 2s" in page and "sixteen characters" not in page
    WebhookDelivery.objects.update(status="failed", attempts=1, last_error="It answered 500.")
    part = admin.get("/settings/alerts/deliveries/").content.decode()
    assert "Given up" in part and "It answered 500." in part and "every 2s" not in part
    refused = admin.post("/settings/alerts/", {**given, "url": "ftp://x", "expected_version": "2"})
    assert refused.status_code == 400 and "begins with https" in refused.content.decode()


def test_percentiles_stand_on_the_metrics_page(as_viewer: Client, deploy: Deploy) -> None:
    deploy("chat", "ready")
    page = as_viewer.get("/deployments/chat/metrics/?range=1h").content.decode()
    assert "p99" in page and "Time per output token" in page and "Queue time" in page
