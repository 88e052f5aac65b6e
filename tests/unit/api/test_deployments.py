"""/deployments over the API: the whole life of one, its parts, and what is refused."""

from __future__ import annotations

import time
from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from console.models import (
    ClusterStatus,
    Deployment,
    DeploymentStatus,
    Event,
    RegisteredModel,
    Replica,
    Revision,
    Sample,
)
from tests.unit.api.conftest import NODE, Caller, error_of, make_deployment

pytestmark = pytest.mark.django_db

NEW = {
    "name": "support-chat",
    "model": "demo",
    "engine": {"max_model_len": 1024, "dtype": "bfloat16"},
    "capacity": {"min_replicas": 0, "idle_before_zero_s": 60, "price_per_accelerator_hour_usd": "2.50"},
    "note": "first",
}


def test_a_deployment_is_created_and_read(
    as_operator: Caller, as_viewer: Caller, model: RegisteredModel, cluster: ClusterStatus
) -> None:
    response = as_operator.post("deployments", NEW)
    assert response.status_code == 201, response.content
    made = response.json()
    assert (made["name"], made["model"], made["phase"], made["version"]) == (
        "support-chat",
        "demo",
        "queued",
        1,
    )
    assert made["engine"]["dtype"] == "bfloat16"
    assert made["capacity"]["idle_before_zero_s"] == 60
    assert made["capacity"]["price_per_accelerator_hour_usd"] == "2.500000"
    assert [phase["name"] for phase in made["phases"]] == ["queued", "placing", "loading", "warming", "ready"]
    assert float(made["cost_so_far_usd"]) == 0

    read = as_viewer.get("deployments/support-chat")
    assert read["ETag"] == '"1"'
    assert read.json()["engine"] == made["engine"]
    listed = as_viewer.get("deployments").json()
    assert [row["name"] for row in listed["items"]] == ["support-chat"]
    assert Event.objects.get(kind="deployment.created").source == "api"


@pytest.mark.parametrize(
    ("changed", "field"),
    [
        ({"name": "Bad Name"}, "name"),
        ({"name": "x" * 41}, "name"),
        ({"model": "nosuch"}, "model"),
        ({"engine": {"dtype": "int3"}}, "engine.dtype"),
        ({"engine": {"tensor_parallel_size": 0}}, "engine.tensor_parallel_size"),
        ({"engine": {"tensor_parallel_size": 3}}, "engine.tensor_parallel_size"),
        ({"engine": {"max_model_len": "long"}}, "engine.max_model_len"),
        ({"engine": {"engine_kwargs": {"model": "x"}}}, "engine.engine_kwargs"),
        ({"engine": {"engine_kwargs": [1]}}, "engine.engine_kwargs"),
        ({"engine": {"surprise": 1}}, "engine.surprise"),
        ({"capacity": {"min_replicas": 3, "max_replicas": 1}}, "capacity.min_replicas"),
        ({"capacity": {"min_replicas": 0}}, "capacity.min_replicas"),
        ({"capacity": {"target_ongoing_requests": 0}}, "capacity.target_ongoing_requests"),
        ({"capacity": {"price_per_accelerator_hour_usd": "-1"}}, "capacity.price_per_accelerator_hour_usd"),
        (
            {"capacity": {"price_per_accelerator_hour_usd": "a lot"}},
            "capacity.price_per_accelerator_hour_usd",
        ),
        ({"capacity": {"price_per_accelerator_hour_usd": 1e30}}, "capacity.price_per_accelerator_hour_usd"),
    ],
)
def test_a_bad_deployment_names_its_field_and_changes_nothing(
    changed: dict[str, Any],
    field: str,
    as_operator: Caller,
    model: RegisteredModel,
    cluster: ClusterStatus,
) -> None:
    error = error_of(as_operator.post("deployments", {**NEW, **changed}), 400)
    assert error["field"] == field
    assert Deployment.objects.count() == 0
    assert Event.objects.count() == 0


def test_a_name_is_taken_once(as_operator: Caller, deployment: Deployment, cluster: ClusterStatus) -> None:
    error = error_of(as_operator.post("deployments", {**NEW, "name": "chat"}), 400)
    assert error["field"] == "name"
    assert Deployment.objects.count() == 1


def test_what_cannot_be_placed_is_refused_with_the_arithmetic(
    as_operator: Caller, model: RegisteredModel, cluster: ClusterStatus
) -> None:
    body = {**NEW, "engine": {"accelerator_type": "H100", "tensor_parallel_size": 4}}
    body["capacity"] = {"min_replicas": 1}
    error = error_of(as_operator.post("deployments", body), 409)
    assert error["code"] == "not_placeable"
    assert any("4" in line for line in error["details"]["arithmetic"])
    assert Deployment.objects.count() == 0


def test_a_group_may_span_nodes_only_where_it_is_asked_for(
    as_operator: Caller, model: RegisteredModel, cluster: ClusterStatus
) -> None:
    two = [{**NODE, "node_id": name, "name": name, "accelerators": {"H100": 4}} for name in ("a", "b")]
    ClusterStatus.objects.update(nodes=two)
    body = {**NEW, "engine": {"accelerator_type": "H100", "tensor_parallel_size": 8}}
    assert "one node" in error_of(as_operator.post("deployments", body), 409)["message"]
    body["engine"]["tp_may_span_nodes"] = True
    made = as_operator.post("deployments", body)
    assert made.status_code == 201, made.content
    assert made.json()["engine"]["tp_may_span_nodes"] is True
    version = made.json()["version"]
    on_cpu = {"engine": {"accelerator_type": None}, "expected_version": version}
    error = error_of(as_operator.patch(f"deployments/{NEW['name']}", on_cpu), 400)
    assert error["field"] == "engine.tp_may_span_nodes"


def test_an_engine_change_is_a_revision_and_a_capacity_change_is_not(
    as_operator: Caller, deployment: Deployment, cluster: ClusterStatus
) -> None:
    changed = as_operator.patch("deployments/chat", {"capacity": {"max_replicas": 2}}, If_Match='"1"')
    assert changed.status_code == 200, changed.content
    assert (changed.json()["revision"], changed.json()["version"]) == (1, 2)
    assert changed.json()["capacity"]["max_replicas"] == 2
    changed = as_operator.patch(
        "deployments/chat", {"engine": {"max_model_len": 512}, "expected_version": 2, "note": "shorter"}
    )
    assert (changed.json()["revision"], changed.json()["engine"]["max_model_len"]) == (2, 512)

    revisions = as_operator.get("deployments/chat/revisions").json()
    assert [(row["number"], row["note"]) for row in revisions["items"]] == [(2, "shorter"), (1, "")]
    assert as_operator.get("deployments/chat/revisions/1").json()["engine"]["max_model_len"] == 1024
    error_of(as_operator.get("deployments/chat/revisions/9"), 404)

    back = as_operator.post("deployments/chat/rollback", {"revision": 1})
    assert (back.json()["revision"], back.json()["engine"]["max_model_len"]) == (3, 1024)
    error_of(as_operator.post("deployments/chat/rollback", {"revision": 77}), 404)
    assert (
        error_of(as_operator.post("deployments/chat/rollback", {"revision": "one"}), 400)["field"]
        == "revision"
    )


def test_the_second_editor_is_told(
    as_operator: Caller, deployment: Deployment, cluster: ClusterStatus
) -> None:
    as_operator.patch("deployments/chat", {"capacity": {"max_replicas": 2}, "expected_version": 1})
    late = as_operator.patch("deployments/chat", {"capacity": {"max_replicas": 3}, "expected_version": 1})
    error = error_of(late, 409)
    assert error["details"]["current"]["version"] == 2
    assert error["details"]["current"]["values"]["max_replicas"] == 2
    deployment.refresh_from_db()
    assert deployment.max_replicas == 2
    both = as_operator.patch("deployments/chat", {"note": "", "expected_version": 1}, If_Match='"2"')
    assert error_of(both, 400)["field"] == "expected_version"


def test_it_is_stopped_started_retried_and_deleted(
    as_operator: Caller, deployment: Deployment, cluster: ClusterStatus
) -> None:
    stopped = as_operator.post("deployments/chat/stop").json()
    assert (stopped["desired_state"], stopped["phase"]) == ("stopped", "stopped")
    assert as_operator.post("deployments/chat/start").json()["desired_state"] == "running"
    assert error_of(as_operator.post("deployments/chat/retry"), 400)["code"] == "invalid"
    deployment.refresh_from_db()
    DeploymentStatus.objects.update(
        generation=deployment.generation,
        failed_at=time.time(),
        observed_at=time.time(),
        failure={"code": "bad_path", "cause": "gone", "advice": "look", "raw": "x"},
    )
    failed = as_operator.get("deployments/chat").json()
    assert (failed["phase"], failed["reason"], failed["failure"]["code"]) == ("failed", "gone", "bad_path")
    assert as_operator.post("deployments/chat/retry").json()["phase"] == "queued"
    assert as_operator.delete("deployments/chat").status_code == 204
    error_of(as_operator.get("deployments/chat"), 404)
    assert Event.objects.filter(kind="deployment.deleted").count() == 1


def test_events_come_in_pages_newest_first(as_viewer: Caller, deployment: Deployment) -> None:
    for number in range(7):
        Event.objects.create(
            subject_kind="deployment",
            subject_name="chat",
            deployment=deployment,
            kind="test",
            message=f"event {number}",
        )
    seen, before = [], ""
    for _ in range(10):
        page = as_viewer.get(f"deployments/chat/events?limit=3{before}").json()
        seen += [row["message"] for row in page["items"]]
        if page["next_before"] is None:
            break
        before = f"&before={page['next_before']}"
    assert seen == [f"event {number}" for number in reversed(range(7))]
    assert error_of(as_viewer.get("deployments/chat/events?before=x"), 400)["field"] == "before"
    assert len(as_viewer.get("events?subject_name=chat&limit=2").json()["items"]) == 2
    assert as_viewer.get("events?subject_name=other").json()["items"] == []


def test_metrics_are_the_points_of_the_window(as_viewer: Caller, deployment: Deployment) -> None:
    now = int(time.time())
    Sample.objects.create(deployment=deployment, resolution_s=1, at=now - 5, requests_running=2)
    body = as_viewer.get("deployments/chat/metrics?window=60").json()
    assert {"resolution_s", "from", "to", "points"} == set(body)
    assert 2 in [point["running"] for point in body["points"]]
    assert None in [point["running"] for point in body["points"]]
    assert as_viewer.get("metrics?window=60").json()["resolution_s"] == body["resolution_s"]
    for bad in ("9", "x", "99999999999"):
        assert error_of(as_viewer.get(f"deployments/chat/metrics?window={bad}"), 400)["field"] == "window"


def test_the_list_costs_the_same_however_many_there_are(
    as_viewer: Caller, deployment: Deployment, model: RegisteredModel
) -> None:
    as_viewer.get("deployments")
    with CaptureQueriesContext(connection) as few:
        as_viewer.get("deployments")
    for number in range(25):
        made = make_deployment(f"d-{number:02}", model)
        Replica.objects.create(
            deployment=made, deployment_name=made.name, replica_id=f"r{number}", state="RUNNING",
            started_at=1.0, last_seen_at=1.0,
        )  # fmt: skip
    with CaptureQueriesContext(connection) as many:
        body = as_viewer.get("deployments?limit=200").json()
    assert len(many) == len(few)
    assert body["total"] == 26
    assert body["items"][1]["cost_per_hour_usd"] == "1.500000"


def test_revisions_cost_the_same_however_many_there_are(as_viewer: Caller, deployment: Deployment) -> None:
    as_viewer.get("deployments/chat/revisions")
    with CaptureQueriesContext(connection) as few:
        as_viewer.get("deployments/chat/revisions")
    for number in range(2, 30):
        Revision.objects.create(deployment=deployment, number=number, engine={})
    with CaptureQueriesContext(connection) as many:
        as_viewer.get("deployments/chat/revisions")
    assert len(many) == len(few)


def test_names_that_no_database_takes_are_not_found(as_viewer: Caller) -> None:
    for name in ("%00", "a%00b", "%ff", "..", "x" * 500, "%F0%9F%98%80", "'; drop table"):
        assert as_viewer.get(f"deployments/{name}").status_code in (400, 404)
