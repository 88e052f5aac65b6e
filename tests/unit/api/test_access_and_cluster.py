"""/keys, /requests and /cluster over the API."""

from __future__ import annotations

import time
from typing import Any

import pytest

from console.models import ApiKey, ClusterStatus, Deployment, Event, RequestRecord
from tests.unit.api.conftest import Caller, error_of

pytestmark = pytest.mark.django_db


def test_a_key_is_shown_once_and_revoked(as_operator: Caller, as_viewer: Caller) -> None:
    made = as_operator.post("keys", {"name": "support bot"})
    assert made.status_code == 201
    secret = made.json()["key"]
    assert secret.startswith("rd-")
    ApiKey.objects.create(name="playground", digest="0" * 64, prefix="internal", kind="internal")

    listed = as_viewer.get("keys").json()
    assert [row["name"] for row in listed["items"]] == ["support bot"]
    assert listed["total"] == 1
    assert secret not in str(listed)
    assert "digest" not in str(listed)
    assert secret not in as_viewer.get("events").content.decode()

    revoked = as_operator.delete(f"keys/{made.json()['id']}")
    assert revoked.json()["revoked_at"] is not None
    assert Event.objects.filter(kind="key.revoked").count() == 1


@pytest.mark.parametrize(
    ("body", "field"),
    [({}, "name"), ({"name": ""}, "name"), ({"name": "  "}, "name"), ({"name": "x" * 81}, "name"),
     ({"name": None}, "name"), ({"name": "x", "kind": "internal"}, "kind")],
)  # fmt: skip
def test_a_bad_key_request_names_its_field(body: dict[str, Any], field: str, as_operator: Caller) -> None:
    assert error_of(as_operator.post("keys", body), 400)["field"] == field
    assert ApiKey.objects.count() == 0


def test_internal_and_unknown_keys_are_not_revoked(as_operator: Caller) -> None:
    internal = ApiKey.objects.create(name="smoke", digest="0" * 64, prefix="internal", kind="internal")
    for key_id in (internal.pk, 0, 4711, 10**30):
        error_of(as_operator.delete(f"keys/{key_id}"), 404)
    assert error_of(as_operator.delete("keys/x"), 400)["field"] == "key_id"
    internal.refresh_from_db()
    assert internal.revoked_at is None


def test_the_cluster_is_shown_with_its_age(as_viewer: Caller, cluster: ClusterStatus) -> None:
    ClusterStatus.objects.update(observed_at=time.time(), ray_version="2.60.0", gateway_status="RUNNING")
    body = as_viewer.get("cluster").json()
    assert (body["reachable"], body["stale"], body["gateway_ready"]) == (True, False, True)
    assert body["base_url"].endswith("/v1")
    assert body["nodes"][0]["name"] == "head"
    ClusterStatus.objects.update(observed_at=time.time() - 600)
    body = as_viewer.get("cluster").json()
    assert (body["reachable"], body["stale"]) == (False, True)


def test_a_cluster_never_seen_says_so(as_viewer: Caller) -> None:
    body = as_viewer.get("cluster").json()
    assert (body["reachable"], body["age_s"], body["nodes"]) == (False, None, [])


def make_request(number: int, **changed: Any) -> RequestRecord:
    values = {
        "id": f"{number:032x}",
        "deployment_name": "chat",
        "path": "/v1/chat/completions",
        "started_at": 1_700_000_000.25 + number // 2,
        "status": 200,
        "outcome": "ok",
    }
    return RequestRecord.objects.create(**{**values, **changed})


def test_usage_comes_in_pages_without_gaps_or_repeats(as_viewer: Caller, deployment: Deployment) -> None:
    key = ApiKey.objects.create(name="bot", digest="1" * 64, prefix="rd-abc")
    for number in range(9):  # two at every moment
        make_request(number, key=key, prompt_tokens=12, ttft_s=0.25)
    make_request(100, deployment_name="other", outcome="error", status=500)
    seen, before = [], ""
    for _ in range(10):
        page = as_viewer.get(f"requests?limit=2&deployment=chat{before}").json()
        seen += [row["id"] for row in page["items"]]
        if page["next_before"] is None:
            break
        before = f"&before={page['next_before']}"
    assert seen == [f"{number:032x}" for number in reversed(range(9))]

    row = as_viewer.get(f"requests?key_id={key.pk}&limit=1").json()["items"][0]
    assert (row["prompt_tokens"], row["ttft_s"], row["deployment"], row["key_id"]) == (
        12,
        0.25,
        "chat",
        key.pk,
    )
    assert len(as_viewer.get("requests?outcome=error").json()["items"]) == 1
    for query, field in (("before=x", "before"), ("key_id=0", "key_id"), ("before=1~", "before")):
        assert error_of(as_viewer.get(f"requests?{query}"), 400)["field"] == field


def test_a_keys_limits_are_read_and_changed(as_operator: Caller, as_viewer: Caller) -> None:
    made = as_operator.post("keys", {"name": "bot", "limits": {"requests_per_minute": 60}}).json()
    assert made["limits"]["requests_per_minute"] == 60 and made["version"] == 1
    path = f"keys/{made['id']}"
    read = as_viewer.get(path)
    assert read["ETag"] == '"1"' and read.json()["use"]["requests_in_flight"] is None
    change = {
        "limits": {
            "requests_per_minute": None,
            "budget_usd_per_month": "20",
            "expires_at": "2030-01-01T00:00:00Z",
        }
    }
    changed = as_operator.patch(path, change, If_Match='"1"')
    assert changed.status_code == 200, changed.content
    limits = changed.json()["limits"]
    assert (limits["requests_per_minute"], limits["budget_usd_per_month"]) == (None, "20")
    assert limits["expires_at"] == "2030-01-01T00:00:00Z" and changed["ETag"] == '"2"'
    conflict = error_of(as_operator.patch(path, change, If_Match='"1"'), 409)
    assert conflict["details"]["current"]["version"] == 2


@pytest.mark.parametrize(
    ("limits", "field"),
    [
        ({"requests_per_minute": 0}, "limits.requests_per_minute"),
        ({"deployments": ["nothing"]}, "limits.deployments"),
        ({"budget_usd_per_day": 5, "budget_usd_per_month": 1}, "limits.budget_usd_per_day"),
        ({"expires_at": "2030-01-01T00:00:00"}, "limits.expires_at"),
        ({"per_hour": 1}, "limits.per_hour"),
    ],
)
def test_a_bad_limit_names_its_field(limits: dict[str, Any], field: str, as_operator: Caller) -> None:
    assert error_of(as_operator.post("keys", {"name": "bot", "limits": limits}), 400)["field"] == field
    assert ApiKey.objects.count() == 0


def test_a_request_has_its_parts_that_add_up(as_viewer: Caller, deployment: Deployment) -> None:
    figures = {"gateway_s": 0.001, "held_s": 0.0, "queue_s": 0.01, "prefill_s": 0.1, "engine_decode_s": 0.5}
    one = make_request(1, e2e_s=0.65, replica="r", user_name="ada", **figures)
    body = as_viewer.get(f"requests/{one.pk}").json()
    assert [(part["name"], part["how"]) for part in body["parts"]] == [
        ("gateway", "measured"),
        ("hop", "derived"),
        ("queue", "measured"),
        ("prefill", "measured"),
        ("decode", "measured"),
    ]
    assert sum(part["seconds"] for part in body["parts"]) == pytest.approx(0.65, abs=1e-5)
    assert (body["neighbours"], body["user"], body["deployment"]) == (0, "ada", "chat")
    assert error_of(as_viewer.get("requests/nothing"), 404)["code"] == "not_found"


def test_requests_are_filtered_by_status_failure_and_time(as_viewer: Caller, deployment: Deployment) -> None:
    make_request(1, e2e_s=0.5)
    make_request(2, e2e_s=5.0, status=429, outcome="refused")
    make_request(3, status=503, outcome="refused")

    def ids(query: str) -> list[int]:
        return [int(row["id"], 16) for row in as_viewer.get(f"requests?{query}").json()["items"]]

    assert ids("status=429") == [2] and ids("failed=true") == [3] and ids("slower_than_s=1") == [2]
    assert ids("since=1700000001.25") == [3, 2] and ids("until=1700000001") == [1]
    assert ids("slower_than_p95=true") == []
