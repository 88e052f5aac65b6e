"""`manage.py up` for real: answers soon, tells its password once, survives crashes, stops clean."""

import contextlib
import ipaddress
import json
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from console.paths import PROJECT_ROOT
from console.ports import PORTS
from tests.product import Copy, still_runs
from tests.services import free_port_offset

pytestmark = pytest.mark.cluster

CONSOLE_DEADLINE_S = 20.0


@pytest.fixture
def start() -> Iterator[Callable[..., Copy]]:
    # Short: Ray makes sockets below it.
    folder = Path(tempfile.mkdtemp(prefix="rdup-", dir="/tmp"))
    offset = free_port_offset()
    copies: list[Copy] = []

    def begin(*, without_ray: bool = False) -> Copy:
        copies.append(Copy(folder, offset, without_ray=without_ray))
        return copies[-1]

    yield begin
    for copy in copies:
        copy.close()
    shutil.rmtree(folder, ignore_errors=True)
    folder.with_suffix(".out").unlink(missing_ok=True)


def test_a_copy_answers_soon_stops_clean_and_finds_everything_again(
    start: Callable[..., Copy], record_property: Callable[[str, object], None]
) -> None:
    copy = start()
    copy.until(lambda: copy.get("/healthz") == 200, deadline_s=CONSOLE_DEADLINE_S)
    answered_s = time.monotonic() - copy.started
    record_property("console_answers_s", round(answered_s, 1))
    assert answered_s <= CONSOLE_DEADLINE_S
    copy.until(lambda: "ray is up" in copy.said())
    record_property("ray_is_up_s", round(time.monotonic() - copy.started, 1))

    passwords = re.findall(r"password: (\S+)", copy.said())
    assert len(passwords) == 1
    assert f"console: http://127.0.0.1:{copy.port('web')}" in copy.said()
    assert f"http://127.0.0.1:{copy.port('gateway')}/v1" in copy.said()
    for log in (copy.folder / "logs").iterdir():
        assert passwords[0] not in log.read_text(errors="replace"), log.name
    assert copy.folder.stat().st_mode & 0o077 == 0
    assert listening_beyond_loopback(copy.processes()) == []

    copy.until(lambda: doctor(copy)["healthy"])
    assert {part["name"] for part in doctor(copy)["parts"]} >= {
        "web",
        "gateway",
        "metrics",
        "disk",
        "versions",
    }
    copy.redis().set("kept", "yes")
    everything = copy.processes()
    copy.stop()
    assert [process for process in everything if still_runs(process)] == []
    assert listeners(copy) == []
    order = [copy.said().index(f"{name} stopped") for name in ("web", "collector", "ray", "redis")]
    assert order == sorted(order)

    report = doctor(copy)
    failed = {part["name"] for part in report["parts"] if part["state"] == "fail"}
    assert {"web", "redis", "ray", "gateway"} <= failed
    assert "database" not in failed
    assert all(part["advice"] for part in report["parts"] if part["state"] == "fail")

    again = start()
    again.until(lambda: again.get("/healthz") == 200, deadline_s=CONSOLE_DEADLINE_S)
    assert "password:" not in again.said()
    assert again.redis().get("kept") == b"yes"
    assert registered_models(again) == ["demo"]
    again.stop()


def test_killed_parts_come_back_and_a_killed_supervisor_is_cleaned_up_after(
    start: Callable[..., Copy],
) -> None:
    copy = start()
    copy.until(lambda: "ray is up" in copy.said())
    for name in ("web", "worker", "beat", "collector", "redis"):
        before = copy.part(name)
        before.kill()
        copy.until(lambda name=name, before=before: copy.part(name) != before)
        assert f"{name} was killed by SIGKILL, restart in 1 s (1st time)" in copy.said()
    copy.until(lambda: copy.get("/healthz") == 200)
    copy.until(lambda: copy.redis().ping())

    of_the_head = [copy.part("ray"), *copy.part("ray").children(recursive=True)]
    of_the_head[0].kill()
    copy.until(lambda: copy.said().count("ray is up") == 2)
    assert [process for process in of_the_head if still_runs(process)] == []

    everything = copy.processes()
    copy.process.kill()
    copy.process.wait()
    second = start()
    # Its own word: for a moment the first copy's web process may still answer.
    second.until(lambda: "console: http" in second.said())
    assert [process for process in everything if still_runs(process)] == []
    second.stop()
    assert listeners(second) == []


def test_a_taken_port_is_refused_with_its_holder_and_nothing_is_started(start: Callable[..., Copy]) -> None:
    first = start(without_ray=True)
    first.until(lambda: first.get("/healthz") == 200)
    folder = Path(tempfile.mkdtemp(prefix="rdup-", dir="/tmp"))
    try:
        second = Copy(folder, first.offset, without_ray=True)
        assert second.process.wait(timeout=CONSOLE_DEADLINE_S) == 1
        said = second.said()
        assert f"port {first.port('web')} (web console) is taken by pid {first.part('web').pid}" in said
        assert "RAYDECK_PORT changes it" in said
        assert "RAYDECK_PORT_OFFSET" in said
        assert not (folder / "raydeck.sqlite3").exists()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        folder.with_suffix(".out").unlink(missing_ok=True)
    same_folder = Copy(first.folder, first.offset, without_ray=True)
    assert same_folder.process.wait(timeout=CONSOLE_DEADLINE_S) == 1
    assert f"pid {first.process.pid}" in same_folder.said()
    assert first.get("/healthz") == 200
    first.stop()


def doctor(copy: Copy) -> dict[str, list[dict[str, str]]]:
    answer = subprocess.run(
        [sys.executable, "manage.py", "doctor", "--json"],
        cwd=PROJECT_ROOT,
        env=copy.environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    report: dict[str, list[dict[str, str]]] = json.loads(answer.stdout)
    assert answer.returncode == (0 if report["healthy"] else 1)
    return report


def registered_models(copy: Copy) -> list[str]:
    script = (
        "from console.models import RegisteredModel as M; print(*M.objects.values_list('name', flat=True))"
    )
    answer = subprocess.run(
        [sys.executable, "manage.py", "shell", "--verbosity=0", "-c", script],
        cwd=PROJECT_ROOT,
        env=copy.environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return answer.stdout.split()


def listeners(copy: Copy) -> list[int]:
    """Which of the copy's ports somebody still listens on."""
    ours = {entry.default + copy.offset for entry in PORTS.values()}
    return sorted(
        {
            connection.laddr.port
            for connection in psutil.net_connections(kind="tcp")
            if connection.status == psutil.CONN_LISTEN and connection.laddr.port in ours
        }
    )


def listening_beyond_loopback(processes: list[psutil.Process]) -> list[str]:
    """Addresses other than loopback that any of these processes listens on."""
    found = []
    for process in processes:
        with contextlib.suppress(psutil.Error):
            for connection in process.net_connections(kind="inet"):
                if connection.status == psutil.CONN_LISTEN and not is_loopback(connection.laddr.ip):
                    found.append(f"{connection.laddr.ip}:{connection.laddr.port} {process.name()}")
    return found


def is_loopback(address: str) -> bool:
    """Also for IPv4 addresses in IPv6 form, as gRPC binds them."""
    return ipaddress.ip_address(address.removeprefix("::ffff:")).is_loopback
