"""/cost and a deployment's own: JSON and CSV, days that make sense, an API price with its event."""

from __future__ import annotations

import csv
import io
import time
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest

from console.models import ClusterStatus, Deployment, Event, MinReplicasChange, Replica, RequestRecord
from tests.unit.api.conftest import Caller, error_of
from tests.unit.workers.fleet import make_deployment
from workers import accounting


@pytest.fixture
def paid(db: None, monkeypatch: pytest.MonkeyPatch) -> Deployment:
    """A deployment that cost something a while ago, shared out."""
    monkeypatch.setattr(accounting, "close_old_connections", lambda: None)
    deployment, now = make_deployment("chat", price="3.6"), time.time()
    Replica.objects.create(
        deployment=deployment, deployment_name="chat", replica_id="r1", state="STOPPING",
        started_at=now - 600, ready_at=now - 600, ended_at=now - 300, last_seen_at=now,
    )  # fmt: skip
    RequestRecord.objects.create(
        id="q", replica="r1", deployment_name="chat", started_at=now - 500, finished_at=now - 400,
        completion_tokens=1000, prompt_tokens=10, status=200, outcome="ok",
    )  # fmt: skip
    ClusterStatus.objects.update_or_create(pk=1, defaults={"observed_at": now, "reachable": True})
    accounting.share_out(now)
    return deployment


def test_costs_add_up_and_are_exact_text(paid: Deployment, as_viewer: Caller) -> None:
    yesterday = datetime.fromtimestamp(time.time() - 86_400, UTC).date()
    answer = as_viewer.get(f"cost?from={yesterday}").json()
    (line,) = answer["items"]
    assert line["name"] == "chat" and line["requests"] == 1 and not line["is_deleted"]
    assert Decimal(line["total_usd"]) == pytest.approx(Decimal("0.3"), abs=Decimal("0.000001"))
    assert Decimal(line["request_usd"]) == pytest.approx(Decimal("0.1"), abs=Decimal("0.000001"))
    parts = [line["request_usd"], line["not_shared_out_usd"], *line["idle"].values()]
    assert sum(map(Decimal, parts)) == Decimal(line["total_usd"]) == Decimal(answer["total"]["total_usd"])
    assert Decimal(line["usd_per_million_output_tokens"]) == pytest.approx(Decimal(300), abs=Decimal("0.01"))
    assert answer["shared_until"] > time.time() - 200


@pytest.mark.parametrize("by", ["deployment", "key", "day", "conversation", "user"])
@pytest.mark.parametrize("path", ["cost", "deployments/chat/cost"])
def test_every_grouping_has_a_csv(by: str, path: str, paid: Deployment, as_viewer: Caller) -> None:
    response = as_viewer.get(f"{path}?by={by}&format=csv&from=2026-01-01&to=2026-12-31")
    assert response.status_code == 200 and response["Content-Type"].startswith("text/csv")
    assert f"cost-by-{by}-2026-01-01" in response["Content-Disposition"]
    rows = list(csv.DictReader(io.StringIO(response.content.decode())))
    assert rows[-1][by] == "total"


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("from=yesterday", "from"),
        ("from=2026-02-30", "from"),
        ("from=2026-02-02&to=2026-02-01", "to"),
        ("from=2020-01-01&to=2026-02-01", "from"),
        ("from=0001-01-01", "from"),
        ("to=9999-12-31", "from"),
        ("by=team", "by"),
        ("format=pdf", "format"),
    ],
)
def test_days_that_make_no_sense_are_refused_by_name(query: str, field: str, as_viewer: Caller) -> None:
    assert error_of(as_viewer.get(f"cost?{query}"), 400)["field"] in (field, "to")


def test_an_unknown_deployment_is_404(as_viewer: Caller) -> None:
    assert error_of(as_viewer.get("deployments/nothing/cost"), 404)["code"] == "not_found"


class TestApiPrice:
    def change(self, caller: Caller, name: str, **capacity: Any) -> Any:
        version = caller.get(f"deployments/{name}").json()["version"]
        return caller.patch(f"deployments/{name}", {"expected_version": version, "capacity": capacity})

    def test_it_is_typed_in_per_deployment_and_leaves_an_event(
        self, deployment: Deployment, as_operator: Caller
    ) -> None:
        changed = self.change(
            as_operator, deployment.name,
            api_input_usd_per_million_tokens="0.15", api_output_usd_per_million_tokens="0.6",
        )  # fmt: skip
        assert changed.status_code == 200
        assert changed.json()["capacity"]["api_output_usd_per_million_tokens"] == "0.600000"
        assert Deployment.objects.get().generation == deployment.generation
        event = Event.objects.filter(kind="deployment.capacity").first()
        assert event is not None and "API price, output – → $0.60 per 1M tokens" in event.message
        assert self.change(
            as_operator, deployment.name,
            api_input_usd_per_million_tokens=None, api_output_usd_per_million_tokens=None,
        ).json()["capacity"]["api_input_usd_per_million_tokens"] is None  # fmt: skip

    @pytest.mark.parametrize(
        "given",
        [
            {"api_input_usd_per_million_tokens": "1"},
            {"api_input_usd_per_million_tokens": "-1", "api_output_usd_per_million_tokens": "1"},
            {"api_input_usd_per_million_tokens": "1", "api_output_usd_per_million_tokens": "1e9"},
        ],
    )
    def test_half_a_price_or_an_absurd_one_is_refused(
        self, given: dict[str, str], deployment: Deployment, as_operator: Caller
    ) -> None:
        error = error_of(self.change(as_operator, deployment.name, **given), 400)
        assert error["field"].startswith("capacity.api_")

    def test_the_minimum_is_dated(self, deployment: Deployment, as_operator: Caller) -> None:
        before = time.time()
        self.change(as_operator, deployment.name, max_replicas=5, min_replicas=3)
        changed = MinReplicasChange.objects.get(min_replicas=3)
        assert changed.from_at >= before
        self.change(as_operator, deployment.name, max_replicas=4)
        assert MinReplicasChange.objects.filter(from_at__gt=changed.from_at).count() == 0
