"""Ray's answer about Serve -> what we say of each deployment. Pure; takes `now`, stores nothing.

A phase is always computed, never stored, so that a dead worker shows as "unknown", never as green.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

STALE_AFTER_S = 30.0
"""Observations older than this say nothing about now."""

MESSAGE_CHARACTERS = 300
COLOURS = re.compile(r"\x1b\[[0-9;]*m")
OPERATORS_WORDS = (
    (
        re.compile(r"replicas that have taken more than (\d+)s to initialize"),
        "Its replica has been loading for more than {0} s; large models and cold disks take that long.",
    ),
    (
        re.compile(
            r"replicas that have taken more than (\d+)s to be scheduled.*"
            r"Resources required for each replica: (.*?), total resources available: (.*?)\. ",
            re.DOTALL,
        ),
        "Ray has found no room for its replica for more than {0} s: it needs {1}, free are {2}.",
    ),
    (re.compile(r"A replica's health check failed"), "A replica died; Ray starts another in its place."),
    (re.compile(r"(?:Up|Down)scaling from (\d+) to (\d+) replicas"), "Going from {0} to {1} replicas."),
)
"""What Serve 2.60 says of a start under way -> what an operator can act on."""
RETRYING = re.compile(r"Retrying (\d+) more time")

START_PHASES = ("queued", "placing", "loading", "warming")
PHASES = (*START_PHASES, "ready", "asleep", "stopped", "failed", "unknown")


@dataclass(frozen=True)
class SeenReplica:
    """One replica as Serve reports it. `pid` is None until its process exists."""

    replica_id: str
    state: str
    started_at: float
    node_id: str = ""
    node_ip: str = ""
    pid: int | None = None
    actor_id: str = ""
    worker_id: str = ""
    log_file_path: str = ""


@dataclass(frozen=True)
class SeenApp:
    """One Serve application: its status word, what it runs, and its engine deployment's replicas."""

    name: str
    status: str
    message: str = ""
    source: str = ""
    revision: int | None = None
    deployment_id: int | None = None
    installation: str | None = None
    deployment_message: str = ""
    replicas_target: int = 0
    replicas: tuple[SeenReplica, ...] = field(default_factory=tuple)
    dead_replicas: tuple[SeenReplica, ...] = field(default_factory=tuple)

    @property
    def running(self) -> tuple[SeenReplica, ...]:
        """Replicas that take requests."""
        return tuple(replica for replica in self.replicas if replica.state == "RUNNING")


@dataclass(frozen=True)
class PhaseInput:
    """What a phase is computed from; times are epoch seconds of the deployment's present generation."""

    wants_running: bool
    generation: int
    seen_generation: int
    observed_at: float | None
    replicas_running: int = 0
    replicas_target: int = 0
    placing_at: float | None = None
    loading_at: float | None = None
    warming_at: float | None = None
    ready_at: float | None = None
    failed_at: float | None = None
    asleep_at: float | None = None


def phase_of(seen: PhaseInput, now: float) -> str:
    """The one word for a deployment now; see PHASES. `asleep` is at zero replicas by its own policy."""
    if not seen.wants_running:
        return "stopped"
    if seen.seen_generation != seen.generation:
        return "queued"
    if seen.failed_at is not None:
        return "failed"
    if seen.placing_at is None:
        return "queued"
    if seen.observed_at is None or now - seen.observed_at > STALE_AFTER_S:
        return "unknown"
    if seen.asleep_at is not None:
        return "asleep"
    if seen.ready_at is not None and seen.replicas_running > 0:
        return "ready"
    if seen.warming_at is not None:
        return "warming"
    if seen.loading_at is not None:
        return "loading"
    return "placing"


def read_apps(state: dict[str, Any]) -> dict[str, SeenApp]:
    """Applications in the answer of GET /api/serve/applications/, by name."""
    return {name: _read_app(name, app) for name, app in (state.get("applications") or {}).items()}


def words_of(app: SeenApp) -> str:
    """What Ray says of a start under way, in one short line without its internals."""
    return operators_words(app.deployment_message or app.message)


def operators_words(said: str) -> str:
    """Serve's own text in one short line for operators; as it is where it is not known."""
    said = COLOURS.sub("", said)
    retry = RETRYING.search(said)
    if retry:
        return f"A start failed; Ray tries {retry.group(1)} more time{'s' if retry.group(1) != '1' else ''}."
    for pattern, words in OPERATORS_WORDS:
        found = pattern.search(said)
        if found:
            return words.format(*found.groups())
    line = said.strip().split("\n", 1)[0].split(" Error:", 1)[0]
    return line if len(line) <= MESSAGE_CHARACTERS else line[: MESSAGE_CHARACTERS - 1] + "…"


def _read_app(name: str, app: dict[str, Any]) -> SeenApp:
    engine = _main_deployment(app.get("deployments") or {})
    args = (app.get("deployed_app_config") or {}).get("args") or {}
    replicas = tuple(_read_replica(replica) for replica in engine.get("replicas") or [])
    return SeenApp(
        name=name,
        status=str(app.get("status", "")),
        message=str(app.get("message") or ""),
        source=str(app.get("source") or ""),
        revision=args.get("revision"),
        deployment_id=args.get("deployment_id"),
        installation=args.get("installation"),
        deployment_message=str(engine.get("message") or ""),
        replicas_target=int(engine.get("target_num_replicas") or 0),
        replicas=replicas,
        dead_replicas=tuple(_read_replica(replica) for replica in engine.get("recent_dead_replicas") or []),
    )


def _main_deployment(deployments: dict[str, Any]) -> dict[str, Any]:
    return deployments.get("engine") or deployments.get("Gateway") or {}


def _read_replica(replica: dict[str, Any]) -> SeenReplica:
    return SeenReplica(
        replica_id=str(replica.get("replica_id", "")),
        state=str(replica.get("state", "")),
        started_at=float(replica.get("start_time_s") or 0.0),
        node_id=str(replica.get("node_id") or ""),
        node_ip=str(replica.get("node_ip") or ""),
        pid=replica.get("pid"),
        actor_id=str(replica.get("actor_id") or ""),
        worker_id=str(replica.get("worker_id") or ""),
        log_file_path=str(replica.get("log_file_path") or ""),
    )
