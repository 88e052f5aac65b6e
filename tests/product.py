"""One running copy of the product, for tests: `manage.py up` in a folder and on ports of its own.

`Copy` is the processes; `Product` is a copy with the demo model deployed, its API and its ledger.
"""

import contextlib
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import httpx
import psutil
import redis

from console.paths import PROJECT_ROOT
from console.ports import PORTS
from tests.services import free_port_offset

T = TypeVar("T")
START_DEADLINE_S = 240.0
STOP_DEADLINE_S = 120.0
READY_DEADLINE_S = 240.0
DEPLOYMENT = "chat"


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

    def close(self) -> None:
        """End it whatever state it is in: asked first, then by force."""
        if self.process.poll() is not None:
            return
        self.process.send_signal(signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(timeout=STOP_DEADLINE_S)
        self.process.kill()
        self.process.wait()


class Product:
    """A running copy with one ready deployment, its API, its ledger."""

    def __init__(self, folder: Path) -> None:
        self.copy = Copy(folder, free_port_offset())
        self.copy.until(lambda: self.copy.get("/healthz") == 200)
        made = subprocess.run(
            [sys.executable, "manage.py", "createtoken", "faults", "--role", "admin"],
            cwd=PROJECT_ROOT,
            env=self.copy.environment(),
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        self.api = httpx.Client(
            base_url=f"http://127.0.0.1:{self.copy.port('web')}/api/v1/",
            headers={"Authorization": f"Bearer {made.stdout.strip()}"},
            timeout=15,
        )
        self.gateway_url = f"http://127.0.0.1:{self.copy.port('gateway')}"

    def deploy(self) -> None:
        """Deploy the demo model and wait until it is ready."""
        answer = self.api.post(
            "deployments", json={"name": DEPLOYMENT, "model": "demo", "engine": {"max_model_len": 512}}
        )
        assert answer.status_code == 201, answer.text
        self.key = self.api.post("keys", json={"name": "faults"}).json()["key"]
        self.wait_ready()

    def deployment(self) -> dict[str, Any]:
        """What the console says of it; empty while the console does not answer."""
        try:
            answer = self.api.get(f"deployments/{DEPLOYMENT}")
            return answer.json() if answer.status_code == 200 else {}
        except httpx.HTTPError:
            return {}

    def wait_ready(self) -> None:
        self.copy.until(lambda: self.deployment().get("phase") == "ready", deadline_s=READY_DEADLINE_S)

    def query(self, sql: str, *values: object) -> list[tuple[Any, ...]]:
        """Reads the product's own database, as a file."""
        with contextlib.closing(
            sqlite3.connect(self.copy.folder / "raydeck.sqlite3", timeout=20)
        ) as database:
            return database.execute(sql, values).fetchall()

    def recorded(self) -> dict[str, int]:
        """Request id -> how often the ledger has it."""
        rows = self.query("select id, count(*) from console_requestrecord group by id")
        return {str(identity): int(count) for identity, count in rows}

    def ask(self, *, tokens: int = 8) -> tuple[int, str, bool]:
        """One streamed chat: status, request id, and whether it ended well."""
        body = {
            "model": DEPLOYMENT,
            "stream": True,
            "max_tokens": tokens,
            "messages": [{"role": "user", "content": "What is a KV cache?"}],
        }
        headers = {"Authorization": f"Bearer {self.key}"}
        with httpx.stream(
            "POST", f"{self.gateway_url}/v1/chat/completions", json=body, headers=headers, timeout=60
        ) as answer:
            text = answer.read().decode(errors="replace")
            well = answer.status_code == 200 and "[DONE]" in text and '"error"' not in text
            return answer.status_code, answer.headers.get("x-request-id", ""), well

    def answers(self) -> bool:
        """Whether a chat is answered right now."""
        try:
            return self.ask()[2]
        except httpx.HTTPError:
            return False


def still_runs(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
