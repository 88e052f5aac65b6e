"""`manage.py up` for real: answers soon, tells its password once, survives crashes, stops clean."""

import contextlib
import ipaddress
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import psutil
import pytest
import redis

from console.paths import PROJECT_ROOT
from console.ports import PORTS
from tests.services import free_port_offset

pytestmark = pytest.mark.cluster

T = TypeVar("T")
CONSOLE_DEADLINE_S = 20.0
START_DEADLINE_S = 240.0
STOP_DEADLINE_S = 120.0


class Copy:
    """One running copy of the product in a folder of its own; its output is collected in a file.

    `without_ray` points it at a cluster that does not exist, where the test is not about Ray.
    """

    def __init__(self, folder: Path, offset: int, *, without_ray: bool = False) -> None:
        self.folder = folder
        self.without_ray = without_ray
        self.offset = offset
        self.output = folder.with_suffix(".out")
        # What the output held before this start belongs to earlier ones.
        self._skip = len(self.output.read_bytes()) if self.output.exists() else 0
        self.started = time.monotonic()
        with self.output.open("ab") as output:
            self.process = subprocess.Popen(
                [sys.executable, "manage.py", "up"],
                cwd=PROJECT_ROOT,
                env=self.environment(),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    def environment(self) -> dict[str, str]:
        kept = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith("RAYDECK_")
            and name not in ("DATABASE_URL", "REDIS_URL", "DJANGO_SETTINGS_MODULE")
        }
        elsewhere = {"RAYDECK_RAY_DASHBOARD_URL": "http://127.0.0.1:9"} if self.without_ray else {}
        return {
            **kept,
            **elsewhere,
            "PYTHONUNBUFFERED": "1",
            "RAYDECK_DATA_DIR": str(self.folder),
            "RAYDECK_PORT_OFFSET": str(self.offset),
        }

    def port(self, name: str) -> int:
        return PORTS[name].default + self.offset

    def said(self) -> str:
        return self.output.read_bytes()[self._skip :].decode(errors="replace")

    def get(self, path: str) -> int:
        """Status of a page of the console; 0 while nobody answers."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port('web')}{path}", timeout=5) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            return error.code
        except OSError:
            return 0

    def part(self, name: str) -> psutil.Process:
        """The process of one part, as the supervisor notes it for its next start."""
        record = self.folder / "run" / "children.json"

        def found() -> psutil.Process | None:
            pid = json.loads(record.read_text())["parts"].get(name) if record.exists() else None
            with contextlib.suppress(psutil.NoSuchProcess):
                process = psutil.Process(pid) if pid else None
                return process if process and still_runs(process) else None
            return None

        return self.until(found)

    def processes(self) -> list[psutil.Process]:
        """Everything that belongs to this copy, the supervisor included."""
        supervisor = psutil.Process(self.process.pid)
        return [supervisor, *supervisor.children(recursive=True)]

    def until(self, condition: Callable[[], T | None], *, deadline_s: float = START_DEADLINE_S) -> T:
        deadline = time.monotonic() + deadline_s
        while time.monotonic() < deadline:
            value = condition()
            if value:
                return value
            assert self.process.poll() is None, f"up has ended:\n{self.said()}"
            time.sleep(0.1)
        raise AssertionError(f"did not happen within {deadline_s} s; up said:\n{self.said()}")

    def stop(self) -> None:
        self.process.send_signal(signal.SIGINT)
        assert self.process.wait(timeout=STOP_DEADLINE_S) == 0, self.said()

    def redis(self) -> "redis.Redis":
        password = (self.folder / "secrets" / "redis_password").read_text().strip()
        return redis.Redis(host="127.0.0.1", port=self.port("redis"), password=password)


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
        if copy.process.poll() is None:
            copy.process.send_signal(signal.SIGINT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                copy.process.wait(timeout=STOP_DEADLINE_S)
            copy.process.kill()
            copy.process.wait()
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


def still_runs(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


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
