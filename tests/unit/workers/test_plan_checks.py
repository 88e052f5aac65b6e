"""Plan checks: written once per replica, exact figures with logged ones beside, an event only when it is off.

The replica is a recorded one: series and log of a real start of the demo model on CPU.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from console.models import Deployment, Event, PlanCheck, Replica, Revision
from serving.client import RayClient
from tests.unit.planner.demo_plan import WEIGHT_BYTES, demo_plan
from tests.unit.workers.fleet import make_deployment, make_replica
from workers import lease, plan_checks
from workers.observe import LeaseLost

pytestmark = pytest.mark.django_db
RECORDED = Path(__file__).resolve().parents[2] / "recordings" / "engine_starts"
REPLICA = "ensy7h17"
ENGINE = {"max_model_len": 512, "kv_cache_memory_bytes": 64 << 20, "dtype": "auto"}
NOW = 2000.0


class RecordedRay:
    """A dashboard and one metrics page over real HTTP, with what was recorded."""

    def __init__(self) -> None:
        self.series = (RECORDED / "cpu_one_rank_series.txt").read_text()
        self.log = (RECORDED / "cpu_one_rank.txt").read_text()
        self.asked: list[str] = []
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        self.address = f"127.0.0.1:{self._server.server_address[1]}"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def answer(self, path: str) -> bytes | None:
        self.asked.append(path.partition("?")[0])
        answers: dict[str, str | None] = {
            "/api/prometheus/sd": json.dumps([{"targets": [self.address]}]),
            "/metrics": self.series,
            "/api/v0/logs": json.dumps({"data": {"result": {"worker_out": ["worker-w1-01-7.out"]}}}),
            "/api/v0/logs/file": self.log,
        }
        found = answers.get(path.partition("?")[0])
        return None if found is None else found.encode()

    def _handler(fake) -> type[BaseHTTPRequestHandler]:  # noqa: N805  (the handler's own self is the request)
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:  # noqa: N802
                body = fake.answer(self.path)
                self.send_response(500 if not body else 200)
                self.send_header("Content-Length", str(len(body or b"")))
                self.end_headers()
                self.wfile.write(body or b"")

            def log_message(self, *args: object) -> None:
                """Quiet."""

        return Handler


@pytest.fixture
def recorded() -> Iterator[RecordedRay]:
    fake = RecordedRay()
    yield fake
    fake.close()


class Checker:
    """Holds the reconciler's lease and looks."""

    def __init__(self, recorded: RecordedRay) -> None:
        self.client = RayClient(f"http://{recorded.address}", timeout_s=2.0)
        token = lease.acquire("reconciler", holder="test", ttl_s=10_000, now=NOW)
        assert token is not None
        self.token = token

    def __call__(self, now: float = NOW) -> None:
        plan_checks.write_due(self.client, token=self.token, now=now)


@pytest.fixture
def check(recorded: RecordedRay, monkeypatch: pytest.MonkeyPatch) -> Iterator[Checker]:
    monkeypatch.setattr(plan_checks, "_asked_at", {})
    one = Checker(recorded)
    yield one
    one.client.close()


def running(plan: dict[str, Any] | None, replica_id: str = REPLICA, **values: Any) -> Deployment:
    """A deployment whose revision 1 has this plan, and its running replica."""
    deployment = make_deployment("chat", engine=ENGINE)
    Revision.objects.filter(deployment=deployment).update(plan=plan)
    place = {"revision": 1, "worker_id": "w1", "node_id": "n1", "started_at": NOW - 20}
    make_replica(deployment, replica_id, **{**place, **values})
    return deployment


def events() -> list[Event]:
    return list(Event.objects.filter(kind="deployment.plan_off"))


def test_a_running_replica_is_compared_once_and_what_is_as_planned_is_no_event(
    check: Checker, recorded: RecordedRay
) -> None:
    running(demo_plan())
    check()
    stored = PlanCheck.objects.get()
    assert (stored.revision.number, stored.replica_id, stored.measured_at) == (1, REPLICA, NOW)
    blocks = stored.differences["kv_blocks"]
    assert (blocks["planned"], blocks["measured"], blocks["error"]) == (170, 170, 0)
    weights = stored.differences["weights"]
    assert (weights["planned"], weights["measured"]) == (WEIGHT_BYTES, 10_934_880)
    assert abs(weights["error"]) < 1e-4
    assert stored.measured["engine_version"] == "0.29.0"  # from the log, the rest from the series
    assert (stored.cause, events()) == ("", [])
    asked = len(recorded.asked)
    check(NOW + 500)
    assert len(recorded.asked) == asked and PlanCheck.objects.get().measured_at == NOW


def test_a_plan_that_was_off_makes_one_warning_with_the_parts_and_the_cause(check: Checker) -> None:
    running(demo_plan(kv_cache_bytes=128 << 20))
    check()
    (event,) = events()
    assert (event.level, event.subject_name) == ("warn", "chat")
    assert "revision 1" in event.message and "KV blocks −50%" in event.message
    assert "gives the KV cache 64.0 MiB explicitly" in event.message
    assert event.before["kv_blocks"] == 341 and event.after["kv_blocks"] == 170
    assert PlanCheck.objects.get().cause in event.message


def test_a_newer_replica_is_compared_too_but_says_nothing_new_twice(
    check: Checker, recorded: RecordedRay
) -> None:
    deployment = running(demo_plan(kv_cache_bytes=128 << 20))
    check()
    recorded.series += recorded.series.replace(REPLICA, "second").replace("SessionName", "S")
    make_replica(deployment, "second", revision=1, started_at=NOW + 50)
    check(NOW + 60)
    assert PlanCheck.objects.get().replica_id == "second"
    assert len(events()) == 1
    # The first one is older than the check: nothing goes back and forth between the two.
    Replica.objects.filter(replica_id="second").update(ended_at=NOW + 70)
    check(NOW + 80)
    assert PlanCheck.objects.get().replica_id == "second"


def test_what_is_measured_without_a_plan_is_kept_without_differences(check: Checker) -> None:
    running(None)
    check()
    stored = PlanCheck.objects.get()
    assert (stored.differences, stored.cause, stored.measured["num_blocks"]) == ({}, "", 170)
    assert events() == []


def test_a_plan_that_said_no_is_off_although_no_part_can_be_compared(check: Checker) -> None:
    running({"verdict": "refused", "memory": None, "reasons": ["8 heads are not divisible by 3."]})
    check()
    assert "runs although its plan said no" in events()[0].message
    assert "8 heads" in PlanCheck.objects.get().cause


@pytest.mark.parametrize("values", [{"revision": 7}, {"state": "STARTING"}, {"ended_at": NOW - 1}])
def test_only_running_replicas_of_the_current_revision_count(
    check: Checker, recorded: RecordedRay, values: dict[str, Any]
) -> None:
    running(demo_plan(), **values)
    check()
    assert recorded.asked == [] and not PlanCheck.objects.exists()


def test_a_replica_that_says_nothing_yet_is_asked_again_at_a_distance(
    check: Checker, recorded: RecordedRay
) -> None:
    running(demo_plan())
    whole, recorded.series = recorded.series, "ray_node_mem_used 1.0\n"
    check(NOW)
    check(NOW + 1)
    assert recorded.asked.count("/metrics") == 1
    recorded.series = whole
    check(NOW + plan_checks.RETRY_S)
    assert PlanCheck.objects.count() == 1


def test_a_log_that_is_gone_costs_only_what_stands_in_it(check: Checker, recorded: RecordedRay) -> None:
    running(demo_plan())
    recorded.log = ""
    check()
    measured = PlanCheck.objects.get().measured
    assert (measured["num_blocks"], measured["engine_version"]) == (170, None)


def test_a_cluster_that_is_away_changes_nothing(check: Checker, recorded: RecordedRay) -> None:
    running(demo_plan())
    recorded.close()
    check()
    assert not PlanCheck.objects.exists()


def test_a_worker_that_lost_its_lease_writes_nothing(check: Checker) -> None:
    running(demo_plan())
    lease.release("reconciler", token=check.token)
    with pytest.raises(LeaseLost):
        check()
    assert not PlanCheck.objects.exists() and events() == []


def test_while_nothing_is_due_a_pass_costs_two_queries(
    check: Checker, django_assert_num_queries: Any
) -> None:
    running(demo_plan())
    check()
    with django_assert_num_queries(2):
        check(NOW + 30)
