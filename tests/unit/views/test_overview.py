"""The overview: first run, figures, what needs attention, and that its cost does not grow with the fleet."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from decimal import Decimal

from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext

from console import fleet
from console.models import (
    ClusterStatus,
    Deployment,
    DeploymentStatus,
    RegisteredModel,
    Replica,
    RequestRecord,
    Sample,
)
from console.views import overview
from serving import histogram
from serving.resolutions import RETENTION_S

Deploy = Callable[..., Deployment]


def sample(deployment: Deployment, at: int, **values: object) -> Sample:
    counts: dict[int, int] = {}
    histogram.observe(counts, 0.4)
    given = {
        "ttft": counts,
        "completion_tokens": 120,
        "cost_per_hour_usd": Decimal("0.05"),
    }
    return Sample.objects.create(deployment=deployment, resolution_s=1, at=at, **{**given, **values})


def json_of(page: str, element_id: str) -> dict[str, object]:
    found = re.search(rf'id="{element_id}">(.*?)</script>', page, re.S)
    assert found
    return json.loads(found.group(1))


def test_without_a_deployment_the_steps_are_shown_and_checked(
    as_operator: Client, cluster: ClusterStatus, model: RegisteredModel
) -> None:
    page = as_operator.get("/").content.decode()
    assert "Serve your first model" in page
    assert page.count("Done:") == 3  # Ray, gateway, a model
    assert 'href="/deployments/new/?model=tiny&amp;name=tiny"' in page


def test_a_step_is_not_ticked_when_ray_is_away(as_operator: Client, model: RegisteredModel) -> None:
    page = as_operator.get("/").content.decode()
    assert page.count("Done:") == 1
    assert "Not seen yet" in page


def test_failed_and_unseen_deployments_need_attention(as_viewer: Client, deploy: Deploy) -> None:
    deploy("broken", "failed")
    deploy("fine", "ready")
    lost = deploy("lost", "ready")
    DeploymentStatus.objects.filter(deployment=lost).update(observed_at=time.time() - 3600)
    page = as_viewer.get("/parts/attention/").content.decode()
    assert "No such file: /srv/x" in page
    assert "lost" in page
    assert "fine" not in page


def test_the_tiles_count_what_is_held_and_what_it_costs(as_viewer: Client, deploy: Deploy) -> None:
    chat = deploy("chat", "ready")
    Replica.objects.create(
        deployment=chat, deployment_name="chat", replica_id="r1", accelerators=2, state="RUNNING",
        started_at=time.time() - 3600, last_seen_at=time.time(),
    )  # fmt: skip
    page = as_viewer.get("/parts/tiles/").content.decode()
    assert "CPU cores in use" in page
    assert re.search(r'<div class="v">2<small>of 4</small>', page)
    assert "$0.10/h" in page


def test_the_page_carries_the_history_that_its_charts_draw(as_viewer: Client, deploy: Deploy) -> None:
    chat = deploy("chat", "ready")
    now = int(time.time())
    for back in range(5, 20):
        sample(chat, now - back)
    RequestRecord.objects.create(
        id="r", deployment=chat, deployment_name="chat", path="/v1/chat/completions", started_at=now - 6,
        status=200, outcome="ok",
    )  # fmt: skip
    page = as_viewer.get("/").content.decode()
    points = json_of(page, "points")
    assert {"overview", "deployment:chat"} == points.keys()
    drawn = points["overview"]["points"]  # type: ignore[index]
    assert any(point["ttft_p95_s"] for point in drawn)
    assert any(point["ttft_p95_s"] is None for point in drawn)
    figures = json_of(page, "figures")
    fields = {trace["meta"]["field"] for figure in figures.values() for trace in figure["data"]}  # type: ignore[index]
    assert {"ttft_p95_s", "tpot_p50_s", "e2e_p95_s", "weights_bytes", "cost_per_hour_usd"} <= fields
    assert as_viewer.get("/parts/points/?range=1h").json().keys() == points.keys()


def test_a_quiet_time_is_said_with_the_last_request(as_viewer: Client, deploy: Deploy) -> None:
    chat = deploy("chat", "ready")
    RequestRecord.objects.create(
        id="r", deployment=chat, deployment_name="chat", path="/v1/chat/completions",
        started_at=time.time() - 7200, status=200, outcome="ok",
    )  # fmt: skip
    assert "No requests in the last 15 min" in as_viewer.get("/").content.decode()
    assert "No requests in the last hour" in as_viewer.get("/?range=1h").content.decode()


def test_nothing_measured_is_a_dash_not_a_zero(as_viewer: Client, deploy: Deploy) -> None:
    deploy("chat", "ready")
    row = as_viewer.get("/parts/table/").content.decode()
    cell = re.search(r'data-live="ttft_p95_s"[^>]*>([^<]*)<', row)
    assert cell
    assert cell.group(1) == "–"


def test_recent_figures_are_those_of_the_last_minute(as_viewer: Client, deploy: Deploy) -> None:
    chat = deploy("chat", "ready")
    now = int(time.time())
    sample(chat, now - 300, completion_tokens=9_999)
    sample(chat, now - 10)
    point = fleet.recent([chat.pk], now)[chat.pk]
    assert point["tokens_per_s"] == 120
    assert fleet.usd_per_million_tokens(point) == Decimal("0.05") / (120 * 3600) * 1_000_000
    assert fleet.usd_per_million_tokens(None) is None


def test_reading_does_not_grow_with_the_fleet(as_viewer: Client, deploy: Deploy) -> None:
    def queries() -> int:
        with CaptureQueriesContext(connection) as seen:
            assert as_viewer.get("/").status_code == 200
        return len(seen)

    deploy("first", "ready")
    few = queries()
    for number in range(12):
        deploy(f"chat-{number}", "failed")  # a failed one holds nothing, so that all of them fit
    # Coarser samples are read beside the newest fine ones: at most one query more per resolution.
    assert queries() <= few + len(RETENTION_S)


def asked(deployment: Deployment, number: int, at: float) -> None:
    RequestRecord.objects.create(
        id=f"{deployment.name}-{number}", deployment=deployment, deployment_name=deployment.name,
        path="/v1/chat/completions", started_at=at, status=200, outcome="ok",
    )  # fmt: skip


def test_the_deployments_asked_last_are_found_without_reading_the_ledger(deploy: Deploy) -> None:
    early, late, quiet = (deploy(name, "failed") for name in ("early", "late", "quiet"))
    deploy("never", "failed")
    now = time.time()
    for number in range(30):
        asked(early, number, now - 500 + number)
        asked(late, number, now - 100 + number)
        asked(quiet, number, now - 90_000)
    found = overview.lately_asked(now - 900)
    assert [row.name for row in found] == ["late", "early"]
    if connection.vendor == "sqlite":
        steps = [
            line for line in found.explain().splitlines() if "console_requestrecord" in line or "U0" in line
        ]
        assert steps and all("USING" in step and "started_at>" in step for step in steps), steps
