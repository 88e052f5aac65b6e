"""Objectives, alerts and the webhook through the API: read, change, conflict, roles, no secret."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from console.models import Alert, Deployment, Event, SloStatus
from tests.unit.api.conftest import Caller, error_of


def test_objectives_are_set_changed_and_taken_away(as_operator: Caller, deployment: Deployment) -> None:
    first = as_operator.get("deployments/chat/slo")
    assert first.json()["slo"]["ttft_s"] is None and first["ETag"] == '"1"'
    body = {"ttft_s": 0.5, "success_target": 0.999, "window_days": 7}
    changed = as_operator.patch("deployments/chat/slo", body, If_Match='"1"')
    assert changed.json()["slo"] == {
        "ttft_s": 0.5, "tpot_s": None, "latency_target": 0.95, "success_target": 0.999, "window_days": 7,
    }  # fmt: skip
    assert changed["ETag"] == '"2"'
    event = Event.objects.get(kind="deployment.slo")
    assert (event.before["ttft_s"], event.after["ttft_s"], event.source) == (None, 0.5, "api")
    error = error_of(as_operator.patch("deployments/chat/slo", {"ttft_s": 1, "expected_version": 1}), 409)
    assert error["details"]["current"]["values"]["ttft_s"] == 0.5
    kept = as_operator.patch("deployments/chat/slo", {"ttft_s": None, "expected_version": 2}).json()
    assert (kept["slo"]["ttft_s"], kept["slo"]["success_target"], kept["version"]) == (None, 0.999, 3)


@pytest.mark.parametrize(
    "body", [{"ttft_s": 0}, {"success_target": 1}, {"window_days": 14}, {"p99": 1}, {"tpot_s": "x"}]
)
def test_what_cannot_be_promised_is_named(
    body: dict[str, Any], as_operator: Caller, deployment: Deployment
) -> None:
    error = error_of(as_operator.patch("deployments/chat/slo", {**body, "expected_version": 1}), 400)
    assert error["field"] == next(iter(body))


def test_a_ready_deployment_that_misses_its_objective_is_over_slo(
    as_operator: Caller, deployment: Deployment
) -> None:
    as_operator.patch("deployments/chat/slo", {"ttft_s": 0.5, "expected_version": 1})
    row = {
        "objective": "ttft", "limit_s": 0.5, "held_limit_s": 0.49, "target": 0.95, "window_days": 30,
        "requests": 10, "bad": 5, "good_share": 0.5, "budget_left": -9.0, "burn_rates": {"300": 10.0},
        "is_over": True,
    }  # fmt: skip
    now = time.time()
    SloStatus.objects.create(deployment=deployment, evaluated_at=now, objectives=[row])
    body = as_operator.get("deployments/chat/slo").json()
    assert body["objectives"] == [row] and body["is_over"] and not body["stale"]
    assert as_operator.get("deployments/chat").json()["word"] == "queued"  # only a ready one can be
    deployment.status.__class__.objects.update(
        generation=1, observed_at=now, placing_at=now, loading_at=now, warming_at=now, ready_at=now,
        replicas_running=1,
    )  # fmt: skip
    shown = as_operator.get("deployments/chat").json()
    assert (shown["word"], shown["phase"]) == ("over_slo", "ready")
    SloStatus.objects.update(evaluated_at=now - 600)
    assert as_operator.get("deployments/chat").json()["word"] == "ready"


def test_alerts_are_listed_newest_first(as_viewer: Caller, deployment: Deployment) -> None:
    for at, resolved in ((1.0, 5.0), (2.0, None)):
        Alert.objects.create(
            deployment=deployment, deployment_name="chat", objective="ttft", speed="fast", long_window_s=3600,
            short_window_s=300, factor=14.4, target=0.95, burn_rate=20.0, opened_at=at, resolved_at=resolved,
        )  # fmt: skip
    items = as_viewer.get("alerts").json()["items"]
    assert [row["opened_at"] for row in items] == [2.0, 1.0]
    assert [row["opened_at"] for row in as_viewer.get("alerts?open=true").json()["items"]] == [2.0]
    assert as_viewer.get("alerts?deployment=other").json()["items"] == []
    page = as_viewer.get("alerts?limit=1").json()
    assert as_viewer.get(f"alerts?before={page['next_before']}").json()["items"][0]["opened_at"] == 1.0
    assert error_of(as_viewer.get("alerts?before=x"), 400)["field"] == "before"


def test_the_webhook_is_set_tested_and_its_secret_never_given_back(as_admin: Caller) -> None:
    assert as_admin.get("alert-webhook").json()["has_secret"] is False
    body = {
        "url": "https://a.example/",
        "secret": "sixteen characters",
        "enabled": True,
        "expected_version": 1,
    }
    saved = as_admin.patch("alert-webhook", body)
    assert (saved.status_code, saved.json()["has_secret"], saved.json()["version"]) == (200, True, 2)
    test = as_admin.post("alert-webhook/test", {})
    assert (test.status_code, test.json()["status"]) == (201, "queued")
    listed = as_admin.get("alert-webhook/deliveries").json()
    assert [row["event"] for row in listed["items"]] == ["test"]
    everything = [saved.json(), test.json(), listed, as_admin.get("events").json()]
    assert "sixteen characters" not in json.dumps(everything)
    assert error_of(as_admin.patch("alert-webhook", {"enabled": False, "expected_version": 1}), 409)


def test_the_webhooks_address_is_in_no_event_that_viewers_read(as_admin: Caller, as_viewer: Caller) -> None:
    url = "https://hooks.example.com/services/T000/B000/the-key-to-it"
    given = {"url": url, "secret": "s" * 20, "enabled": False}
    version = as_admin.get("alert-webhook")["ETag"]
    assert as_admin.patch("alert-webhook", given, If_Match=version).status_code == 200
    version = as_admin.get("alert-webhook")["ETag"]
    assert as_admin.patch("alert-webhook", {"url": url + "2"}, If_Match=version).status_code == 200
    shown = as_viewer.get("events").content.decode()
    assert "hooks.example.com" in shown and "the-key-to-it" not in shown
    assert "new address on the same host" in shown
