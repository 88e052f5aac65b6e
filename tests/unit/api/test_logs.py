"""/deployments/NAME/logs: which files are asked of Ray, what is shown of them, and outages.

The stand-in is an HTTP server that answers like Ray's log addresses; all of the client runs for real.
"""

from __future__ import annotations

import fnmatch
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from django.test import override_settings

from console.models import Deployment, Replica
from tests.unit.api.conftest import Caller, error_of

pytestmark = pytest.mark.django_db
RECORDINGS = Path(__file__).resolve().parents[2] / "recordings" / "engine_failures"
NODES = {
    "data": {
        "summary": [{"ip": "10.0.0.1", "raylet": {"nodeId": "n1", "isHeadNode": True, "state": "ALIVE"}}]
    }
}


class Ray(ThreadingHTTPServer):
    """Log files by name; `missing` are listed but cannot be read."""

    files: dict[str, str]
    missing: set[str]


class Answers(BaseHTTPRequestHandler):
    server: Ray

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(url.query).items()}
        if url.path == "/nodes":
            self._send(200, json.dumps(NODES))
        elif url.path == "/api/cluster_status":
            self._send(200, "{}")
        elif url.path == "/api/v0/logs":
            names = [name for name in self.server.files if fnmatch.fnmatch(name, query["glob"])]
            self._send(200, json.dumps({"data": {"result": {"any": names}}}))
        elif url.path == "/api/v0/logs/file" and query["filename"] in self.server.files:
            lines = self.server.files[query["filename"]].splitlines()[-int(query["lines"]) :]
            self._send(500 if query["filename"] in self.server.missing else 200, "\n".join(lines))
        else:
            self._send(404, "no such address")

    def _send(self, status: int, text: str) -> None:
        body = text.encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Quiet."""


@pytest.fixture
def ray() -> Iterator[Ray]:
    server = Ray(("127.0.0.1", 0), Answers)
    server.files, server.missing = {}, set()
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    with override_settings(RAY_DASHBOARD_URL=f"http://127.0.0.1:{server.server_port}"):
        yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def replica(deployment: Deployment) -> Replica:
    shared = {"deployment": deployment, "deployment_name": "chat", "node_id": "n1", "last_seen_at": 3.0}
    Replica.objects.create(
        replica_id="old", state="DEAD", started_at=1.0, ended_at=2.0, worker_id="aaaa", **shared
    )
    return Replica.objects.create(
        replica_id="new",
        state="RUNNING",
        started_at=2.0,
        worker_id="bbbb",
        log_file_path="/serve/replica_model-chat_engine_x.log",
        **shared,
    )


def test_the_engines_output_is_that_of_the_newest_replica(
    ray: Ray, replica: Replica, as_viewer: Caller
) -> None:
    ray.files = {
        "worker-aaaa-01-7.out": "old",
        "worker-bbbb-01-8.out": "\x1b[36mloading\x1b[0m\nready",
        "worker-bbbb-01-8.err": "a warning",
    }
    body = as_viewer.get("deployments/chat/logs").json()
    assert body["lines"] == ["loading", "ready", "a warning"]
    assert body["file"] == "worker-bbbb-01-8.out, worker-bbbb-01-8.err"
    assert body["failure"] is None
    assert as_viewer.get("deployments/chat/logs?lines=1").json()["lines"] == ["a warning"]


def test_the_root_cause_is_found_in_what_is_shown(ray: Ray, replica: Replica, as_viewer: Caller) -> None:
    ray.files = {"worker-bbbb-01-8.err": (RECORDINGS / "corrupt_header.txt").read_text()}
    body = as_viewer.get("deployments/chat/logs?lines=2000").json()
    assert body["failure"]["code"] == "corrupt_weights"
    assert "header too large" in body["failure"]["cause"]


def test_the_replicas_own_log_is_read_where_serve_says(ray: Ray, replica: Replica, as_viewer: Caller) -> None:
    ray.files = {"serve/replica_model-chat_engine_x.log": "GET /"}
    assert as_viewer.get("deployments/chat/logs?source=replica").json()["lines"] == ["GET /"]


def test_the_controllers_log_is_cut_to_this_deployment(
    ray: Ray, deployment: Deployment, as_viewer: Caller
) -> None:
    ray.files = {
        "serve/controller_9.log": "app 'model-chat' starts\napp 'model-chat-2' starts\nother",
        "serve/controller_build_model-chat_5.log": "built",
        "serve/controller_build_model-chat-2_5.log": "built another",
    }
    body = as_viewer.get("deployments/chat/logs?source=controller").json()
    assert body["lines"] == ["built", "app 'model-chat' starts"]


@pytest.mark.parametrize("source", ["engine", "replica", "controller"])
def test_without_a_log_it_says_why(source: str, ray: Ray, deployment: Deployment, as_viewer: Caller) -> None:
    body = as_viewer.get(f"deployments/chat/logs?source={source}").json()
    assert body["lines"] == []
    assert body["note"].endswith(".")


def test_a_log_that_has_gone_is_no_error(ray: Ray, replica: Replica, as_viewer: Caller) -> None:
    ray.files = {"worker-bbbb-01-8.out": "x"}
    ray.missing = {"worker-bbbb-01-8.out"}
    assert as_viewer.get("deployments/chat/logs").json()["note"] == "Ray has no such log any more."


def test_secrets_in_logs_are_blanked(ray: Ray, replica: Replica, as_viewer: Caller) -> None:
    ray.files = {
        "worker-bbbb-01-8.out": "token hf_abcdefghijklmnopqrst\nAuthorization: Bearer abcdefghijkl\n"
        "key rd-abcdefghijklmnopqrstuvwxyz\nredis://:password@host"
    }
    text = "\n".join(as_viewer.get("deployments/chat/logs").json()["lines"])
    assert text == "token …\nAuthorization: Bearer …\nkey …\nredis://…@host"


def test_an_outage_of_ray_is_a_503_that_says_so(replica: Replica, as_viewer: Caller) -> None:
    with override_settings(RAY_DASHBOARD_URL="http://127.0.0.1:9"):
        response = as_viewer.get("deployments/chat/logs")
    assert error_of(response, 503)["code"] == "ray_unavailable"
    assert response["Retry-After"]


@pytest.mark.parametrize("query", ["source=secret", "lines=0", "lines=2001", "lines=x"])
def test_a_strange_question_names_its_field(query: str, deployment: Deployment, as_viewer: Caller) -> None:
    response = as_viewer.get(f"deployments/chat/logs?{query}")
    assert error_of(response, 400)["field"] == query.split("=")[0]
