"""GET /deployments/NAME/plan-check: plan, measurement, differences, trend; null where there is none."""

from __future__ import annotations

import json

import pytest

from console.models import Deployment, PlanCheck, Revision
from serving.planner.measured import Measured
from tests.unit.api.conftest import Caller, error_of
from tests.unit.planner.demo_plan import WEIGHT_BYTES, demo_plan
from workers import plan_checks as writer

pytestmark = pytest.mark.django_db
SEEN = Measured(weight_bytes=WEIGHT_BYTES, num_blocks=170, block_tokens=128, kv_cache_tokens=21_760)


def planned(deployment: Deployment, number: int, *, kv_cache_bytes: int) -> Revision:
    engine = {**deployment.revisions.get(number=1).engine, "max_model_len": 512}
    plan = demo_plan(kv_cache_bytes=kv_cache_bytes)
    return Revision.objects.update_or_create(
        deployment=deployment, number=number, defaults={"engine": engine, "plan": plan}
    )[0]


def measured(revision: Revision) -> None:
    differences, cause = writer.compared(revision, SEEN)
    PlanCheck.objects.create(
        revision=revision,
        replica_id="r1",
        measured=SEEN.to_json(),
        differences=writer.to_json(differences),
        cause=cause,
        measured_at=5.0,
    )


def test_what_was_never_planned_nor_measured_is_null_with_the_reason(
    as_viewer: Caller, deployment: Deployment
) -> None:
    body = as_viewer.get("deployments/chat/plan-check").json()
    assert (body["revision"], body["plan"], body["measured"], body["measured_at"]) == (1, None, None, None)
    assert body["differences"] == {} and not body["is_off"]
    assert any("No plan is stored" in note for note in body["notes"])
    assert any("Not measured yet" in note for note in body["notes"])
    assert [point["revision"] for point in body["trend"]] == [1]


def test_a_compared_revision_answers_with_every_part_and_the_trend(
    as_viewer: Caller, deployment: Deployment
) -> None:
    measured(planned(deployment, 1, kv_cache_bytes=128 << 20))
    measured(planned(deployment, 2, kv_cache_bytes=64 << 20))
    current = deployment.revisions.get(number=2)
    Deployment.objects.filter(pk=deployment.pk).update(current_revision=current)
    body = as_viewer.get("deployments/chat/plan-check").json()
    assert (body["revision"], body["replica_id"], body["is_off"], body["cause"]) == (2, "r1", False, "")
    blocks = body["differences"]["kv_blocks"]
    assert (blocks["planned"], blocks["measured"], blocks["error"], blocks["unit"]) == (170, 170, 0, "blocks")
    assert body["differences"]["activation"]["note"]
    assert body["plan"]["memory"]["num_blocks"] == 170 and body["measured"]["num_blocks"] == 170
    first, second = body["trend"]
    assert (first["revision"], first["errors"]["kv_blocks"]["is_off"]) == (1, True)
    assert first["errors"]["kv_blocks"]["error"] == pytest.approx(170 / 341 - 1)
    assert (second["errors"]["kv_blocks"], second["cause"]) == (
        {"error": 0, "is_off": False, "is_within_band": None},
        "",
    )

    older = as_viewer.get("deployments/chat/plan-check?revision=1").json()
    assert older["is_off"] and older["cause"] and older["plan"]["memory"]["num_blocks"] == 341


@pytest.mark.parametrize(
    ("query", "status"), [("9", 404), ("0", 400), ("-1", 400), ("x", 400), ("9" * 30, 400)]
)
def test_a_revision_that_is_none_is_refused(
    as_viewer: Caller, deployment: Deployment, query: str, status: int
) -> None:
    error = error_of(as_viewer.get(f"deployments/chat/plan-check?revision={query}"), status)
    assert error["code"] == ("not_found" if status == 404 else "invalid")


def test_every_role_may_read_it_and_strangers_may_not(
    anonymous: Caller, as_viewer: Caller, as_operator: Caller, as_admin: Caller, deployment: Deployment
) -> None:
    for caller in (as_viewer, as_operator, as_admin):
        assert caller.get("deployments/chat/plan-check").status_code == 200
    assert error_of(anonymous.get("deployments/chat/plan-check"), 401)
    assert error_of(as_viewer.get("deployments/nothing/plan-check"), 404)["code"] == "not_found"


def test_the_answer_is_json_without_infinities(as_viewer: Caller, deployment: Deployment) -> None:
    revision = planned(deployment, 1, kv_cache_bytes=64 << 20)
    Revision.objects.filter(pk=revision.pk).update(plan=demo_plan(kv_cache_bytes=0))
    revision.refresh_from_db()
    measured(revision)
    content = as_viewer.get("deployments/chat/plan-check").content
    json.loads(content, parse_constant=lambda word: pytest.fail(f"{word} in the answer"))
