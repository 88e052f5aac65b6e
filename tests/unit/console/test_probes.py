"""Every probe answers in words and with advice, whatever state its part is in, and never raises."""

import http.server
import io
import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command

from console import parts, probes
from console.auth import token_of
from console.models import ClusterStatus, Event, Lease, User
from console.probes import cluster, local
from tests.services import free_port

pytestmark = pytest.mark.django_db


@pytest.fixture
def answers() -> Iterator[Callable[..., str]]:
    """Starts HTTP servers whose status depends on (path, Authorization header); one body for all."""
    servers: list[http.server.ThreadingHTTPServer] = []

    def start(status: Callable[[str, str], int], body: bytes = b"{}") -> str:
        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(status(self.path, self.headers.get("Authorization", "")))
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: Any) -> None:
                """Quiet."""

        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_address[1]}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def test_the_database_is_well_when_its_tables_are_those_of_this_version() -> None:
    assert local.database().state == "ok"


def test_a_redis_that_does_not_answer_fails_without_showing_its_password(settings: Any) -> None:
    settings.REDIS_URL = f"redis://:hunter2@127.0.0.1:{free_port()}/0"
    answer = local.redis_server()
    assert answer.state == "fail"
    assert answer.advice
    assert "hunter2" not in json.dumps(answer.as_json())


@pytest.mark.parametrize("probe", [cluster.ray_cluster, cluster.serve, cluster.metrics_pages])
def test_a_ray_that_does_not_answer_fails_with_advice(
    settings: Any, probe: Callable[[], probes.PartState]
) -> None:
    settings.RAY_DASHBOARD_URL = f"http://127.0.0.1:{free_port()}"
    answer = probe()
    assert answer.state == "fail"
    assert answer.advice


def test_a_refused_token_points_to_the_token_file(settings: Any, answers: Any) -> None:
    settings.RAY_DASHBOARD_URL = answers(lambda path, key: 401)
    assert "RAYDECK_RAY_TOKEN_FILE" in cluster.ray_cluster().advice


def test_the_gateway_is_well_when_it_wants_a_key_and_takes_ours(settings: Any, answers: Any) -> None:
    settings.GATEWAY_URL = answers(lambda path, key: 200 if key else 401)
    assert cluster.gateway().state == "ok"


@pytest.mark.parametrize(("lost", "state"), [(0, "ok"), (3, "warn")])
def test_a_gateway_that_lost_usage_records_is_said(
    settings: Any, answers: Any, lost: int, state: str
) -> None:
    body = json.dumps({"status": "ok", "usage": {"unrecorded": lost}}).encode()
    settings.GATEWAY_URL = answers(lambda path, key: 200 if key or path == "/healthz" else 401, body)
    answer = cluster.gateway()
    assert answer.state == state
    assert ("RAYDECK_USAGE_REDIS_URL" in answer.advice) == bool(lost)


@pytest.mark.parametrize(("said", "state"), [("ok", "ok"), ("away", "warn"), ("off", "warn")])
def test_limits_that_are_not_shared_are_said(settings: Any, answers: Any, said: str, state: str) -> None:
    body = json.dumps({"status": "ok", "usage": {"unrecorded": 0}, "limits": {"redis": said}}).encode()
    settings.GATEWAY_URL = answers(lambda path, key: 200 if key or path == "/healthz" else 401, body)
    answer = cluster.gateway()
    assert answer.state == state
    assert ("keeps the limits by itself" in answer.summary) == (state == "warn")


def test_a_gateway_under_another_pepper_is_told_apart(settings: Any, answers: Any) -> None:
    settings.GATEWAY_URL = answers(lambda path, key: 401)
    answer = cluster.gateway()
    assert answer.state == "fail"
    assert "RAYDECK_KEY_PEPPER" in answer.advice


def test_our_key_is_not_shown_to_something_that_asks_for_none(settings: Any, answers: Any) -> None:
    seen: list[str] = []

    def note(path: str, key: str) -> int:
        seen.append(key)
        return 200

    settings.GATEWAY_URL = answers(note)
    assert cluster.gateway().state == "fail"
    assert not any(seen)


def test_a_gateway_that_does_not_answer_fails(settings: Any) -> None:
    settings.GATEWAY_URL = f"http://127.0.0.1:{free_port()}"
    assert cluster.gateway().state == "fail"


@pytest.mark.parametrize(
    ("reconciled_ago_s", "state"), [(None, "warn"), (5.0, "ok"), (31.0, "fail"), (9000.0, "fail")]
)
def test_the_worker_is_judged_by_its_last_round(reconciled_ago_s: float | None, state: str) -> None:
    at = None if reconciled_ago_s is None else time.time() - reconciled_ago_s
    ClusterStatus.objects.update_or_create(pk=1, defaults={"reconciled_at": at})
    assert local.worker().state == state


@pytest.mark.parametrize(("expires_in_s", "state"), [(10.0, "ok"), (-5.0, "fail")])
def test_the_collector_is_judged_by_its_lease(expires_in_s: float, state: str) -> None:
    assert local.collector().state == "warn"
    Lease.objects.create(name="collector", holder="x", token=1, expires_at=time.time() + expires_in_s)
    assert local.collector().state == state


@pytest.mark.parametrize(
    ("free_bytes", "state"), [(10 * 1024**3, "ok"), (2 * 1024**3, "warn"), (1024**2, "fail")]
)
def test_a_full_disk_is_said_in_time(monkeypatch: pytest.MonkeyPatch, free_bytes: int, state: str) -> None:
    class Usage:
        free = free_bytes

    monkeypatch.setattr(local.shutil, "disk_usage", lambda folder: Usage)
    assert local.disk().state == state


def test_versions_differ_visibly_from_the_pins(
    settings: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "requirements.txt").write_text("# pins\nuvicorn[standard]==0.0.1  # server\n")
    settings.BASE_DIR = tmp_path
    answer = local.versions()
    assert answer.state == "warn"
    assert "instead of 0.0.1" in answer.summary


def test_all_probes_answer_in_their_order_and_time(settings: Any, transactional_db: None) -> None:
    for name in ("RAY_DASHBOARD_URL", "GATEWAY_URL"):
        setattr(settings, name, f"http://127.0.0.1:{free_port()}")
    settings.REDIS_URL = f"redis://127.0.0.1:{free_port()}/0"
    started = time.monotonic()
    states = probes.probe_all(["database", "redis", "ray", "gateway", "disk"])
    assert [state.name for state in states] == ["database", "redis", "ray", "gateway", "disk"]
    assert time.monotonic() - started < 30


def test_createtoken_prints_a_working_token_alone(admin: User) -> None:
    out, err = io.StringIO(), io.StringIO()
    call_command("createtoken", "ci", "--role", "viewer", "--user", admin.username, stdout=out, stderr=err)
    token = token_of(out.getvalue().strip())
    assert token is not None
    assert (token.role, token.name) == ("viewer", "ci")
    assert out.getvalue().strip() not in str(list(Event.objects.values()))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["ci", "--user", "nobody-here"], "no active user"),
        (["ci", "--role", "admin", "--user", "viewer-person"], "role"),
        ([" ", "--user", "viewer-person", "--role", "viewer"], "name"),
    ],
)
def test_createtoken_refuses_with_the_reason(viewer: User, arguments: list[str], said: str) -> None:
    with pytest.raises(CommandError, match=said):
        call_command("createtoken", *arguments)


def test_ray_gets_no_secret_of_the_console_and_no_command_line_holds_one() -> None:
    ray = parts.ray_part()
    assert {"RAYDECK_SECRET_KEY", "DATABASE_URL", "RAYDECK_ADMIN_PASSWORD"} <= ray.withheld_variables
    assert {"RAYDECK_KEY_PEPPER", "RAYDECK_USAGE_REDIS_URL", "RAYDECK_SPOOL_DIR"} <= set(ray.environment)
    secrets_in_use = [
        parts.secrets.secret_key(),
        parts.secrets.key_pepper(),
        parts.secrets.redis_password(),
        parts.secrets.ray_token_file().read_text().strip(),
    ]
    every = [parts.redis_part(), parts.web_part(), ray, *parts.worker_parts()]
    lines = " ".join(word for part in every for word in part.argv)
    assert not any(secret in lines for secret in secrets_in_use)


def test_every_part_has_its_place_in_the_order_of_stopping() -> None:
    placed = [name for group in parts.STOP_ORDER for name in group]
    every = [parts.redis_part(), parts.web_part(), parts.ray_part(), *parts.worker_parts()]
    assert sorted(placed) == sorted(part.name for part in every)
    assert placed[-1] == "redis"
    assert placed[0] == "web"


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (None, ["--no-proxy-headers"]),
        (" ", ["--no-proxy-headers"]),
        ("10.0.0.1,10.0.0.2", ["--proxy-headers", "--forwarded-allow-ips=10.0.0.1,10.0.0.2"]),
    ],
)
def test_a_callers_address_is_believed_from_named_proxies_only(
    monkeypatch: pytest.MonkeyPatch, given: str | None, expected: list[str]
) -> None:
    monkeypatch.delenv("RAYDECK_TRUSTED_PROXIES", raising=False)
    if given is not None:
        monkeypatch.setenv("RAYDECK_TRUSTED_PROXIES", given)
    words = parts.web_part().argv
    assert [word for word in words if "prox" in word or "forwarded" in word] == expected
