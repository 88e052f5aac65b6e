"""Plan against actual on the pages: both sides in words, what is missing said, the trend over revisions."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from html import unescape
from typing import Any

import pytest
from django.test import Client

from console import plan_checks
from console.models import Deployment, PlanCheck, Replica, Revision
from serving.planner.measured import Measured
from tests.unit.planner.demo_plan import WEIGHT_BYTES, demo_plan
from workers import plan_checks as writer

Deploy = Callable[..., Deployment]
MIB = 1 << 20
AS_PLANNED = Measured(
    weight_bytes=WEIGHT_BYTES,
    kv_cache_bytes=170 * 393_216,
    num_blocks=170,
    block_tokens=128,
    kv_cache_tokens=21_760,
    max_concurrency=42.5,
    max_concurrency_at_tokens=512,
    process_bytes=1_558_433_792,
    weight_load_seconds=0.04,
    resolution={"kv_cache_bytes": 393_216.0},
)


def text_of(page: bytes) -> str:
    """What a reader sees, tags and repeated blanks gone."""
    text = re.sub(r"<(script|style).*?</\1>", " ", page.decode(), flags=re.S)
    return " ".join(unescape(re.sub(r"<[^>]+>", " ", text)).split())


def card_of(client: Client, name: str) -> str:
    answer = client.get(f"/deployments/{name}/parts/plan_check/")
    assert answer.status_code == 200
    return text_of(answer.content)


def with_plan(deployment: Deployment, plan: dict[str, Any] | None, number: int = 1) -> Revision:
    """The revision of this number with this plan; made if it is not there."""
    engine = {**deployment.revisions.get(number=1).engine, "max_model_len": 512}
    values = {"engine": {**engine, "kv_cache_memory_bytes": 64 * MIB}, "plan": plan}
    revision, _ = Revision.objects.update_or_create(deployment=deployment, number=number, defaults=values)
    return revision


def measured(revision: Revision, seen: Measured, at: float | None = None) -> PlanCheck:
    """A check as the worker writes it."""
    differences, cause = writer.compared(revision, seen)
    return PlanCheck.objects.create(
        revision=revision,
        replica_id="model-chat_engine_ensy7h17",
        measured=seen.to_json(),
        differences=writer.to_json(differences),
        cause=cause,
        measured_at=at or time.time(),
    )


def test_both_sides_stand_beside_each_other_with_the_signed_error(as_viewer: Client, deploy: Deploy) -> None:
    revision = with_plan(deploy("chat", "ready"), demo_plan())
    measured(revision, AS_PLANNED)
    card = card_of(as_viewer, "chat")
    assert "Weights 10.4 MiB 10.4 MiB 0%" in card
    assert "KV blocks 170 170 0%" in card
    assert "Full requests 42.5 42.5 0%" in card
    assert "1.5 GiB of host memory in all" in card and "read in 0.04 s" in card
    assert "Likely cause" not in card and "more than 5% off" not in card
    assert "CUDA graphs" not in card and "Device" not in card  # nothing planned, nothing measured


def test_what_is_off_is_marked_and_its_cause_is_said(as_viewer: Client, deploy: Deploy) -> None:
    revision = with_plan(deploy("chat", "ready"), demo_plan(kv_cache_bytes=128 * MIB))
    measured(revision, AS_PLANNED)
    card = card_of(as_viewer, "chat")
    assert "KV blocks 341 170 more than 5% off: −50%" in card
    assert "Likely cause. The revision gives the KV cache 64.0 MiB explicitly" in card


def test_before_anything_runs_the_plan_stands_alone(as_viewer: Client, deploy: Deploy) -> None:
    with_plan(deploy("chat"), demo_plan())
    card = card_of(as_viewer, "chat")
    assert "KV blocks 170 – –" in card
    assert "Not measured yet" in card and "No plan is stored" not in card


def test_a_revision_without_a_plan_says_so_and_still_shows_what_was_measured(
    as_viewer: Client, deploy: Deploy
) -> None:
    revision = with_plan(deploy("chat", "ready"), None)
    assert "No plan is stored for this revision" in card_of(as_viewer, "chat")
    measured(revision, AS_PLANNED)
    card = card_of(as_viewer, "chat")
    assert "KV blocks – 170 –" in card
    assert "made before planning existed" in card and "Not measured yet" not in card


def test_a_plan_without_memory_figures_says_why(as_viewer: Client, deploy: Deploy) -> None:
    with_plan(deploy("chat"), {"verdict": "refused", "memory": None, "reasons": ["8 heads, 3 ranks."]})
    assert "gives no memory figures: 8 heads, 3 ranks." in card_of(as_viewer, "chat")


def test_the_whole_pages_carry_the_card(as_viewer: Client, deploy: Deploy) -> None:
    revision = with_plan(deploy("chat", "ready"), demo_plan())
    measured(revision, AS_PLANNED)
    overview = as_viewer.get("/deployments/chat/").content.decode()
    assert 'id="plan-check"' in overview and 'data-on="plan revisions"' in overview
    one = as_viewer.get("/deployments/chat/revisions/1/").content.decode()
    # A revision's own page must not be replaced by the current revision's card.
    assert 'id="plan-check"' in one and 'data-on="plan revisions"' not in one


def test_the_trend_has_a_row_per_revision_and_a_column_per_compared_part(
    as_viewer: Client, deploy: Deploy
) -> None:
    deployment = deploy("chat", "ready")
    with_plan(deployment, None)
    measured(with_plan(deployment, demo_plan(kv_cache_bytes=128 * MIB), 2), AS_PLANNED)
    measured(with_plan(deployment, demo_plan(), 3), AS_PLANNED)
    page = text_of(as_viewer.get("/deployments/chat/revisions/").content)
    trend = page[page.index("Signed error of each part") :]
    assert "Revision Weights KV cache KV blocks Full requests Measured Likely cause" in trend
    order = [trend.index(f" {number} ") for number in ("3", "2", "1")]
    assert order == sorted(order)
    assert "3 0%" in trend and "−50%" in trend and "as planned" in trend
    assert plan_checks.NO_PLAN in trend
    assert [point["revision"] for point in plan_checks.trend(deployment)] == [1, 2, 3]


def test_a_trend_of_nothing_says_what_it_takes(as_viewer: Client, deploy: Deploy) -> None:
    deploy("chat")
    page = text_of(as_viewer.get("/deployments/chat/revisions/").content)
    assert "No revision has been compared yet" in page


def test_the_overview_costs_no_query_per_revision(
    as_viewer: Client, deploy: Deploy, django_assert_max_num_queries: Any
) -> None:
    deployment = deploy("chat", "ready")
    for number in range(1, 21):
        measured(with_plan(deployment, demo_plan(), number), AS_PLANNED)
    with django_assert_max_num_queries(20):
        as_viewer.get("/deployments/chat/revisions/")
    assert not Replica.objects.exists()


@pytest.mark.parametrize(
    ("share", "text"),
    [
        (None, "–"),
        (0.0, "0%"),
        (0.00001, "0%"),
        (0.0012, "+0.12%"),
        (-0.034, "−3.4%"),
        (0.5, "+50%"),
        (12.0, "+1,200%"),
    ],
)
def test_an_error_has_its_sign(share: float | None, text: str) -> None:
    assert plan_checks.signed_percent(share) == text
