"""Writes down what was seen: replicas' lives, deployments' progress, the cluster. Observed tables only.

Every write happens under the reconciler's lease token, so that a worker that stalled cannot overwrite newer
observations with old ones. Events are written only when a phase changed.
"""

from __future__ import annotations

import logging
from dataclasses import asdict, dataclass
from typing import Any

from django.db import transaction
from django.db.models import Q

from console import live
from console.events import SYSTEM, record
from console.models import ClusterStatus, Deployment, DeploymentStatus, Event, Replica
from console.states import phase_now
from serving.observed import SeenApp
from serving.progress import ASKED, CRASHED, FORGOTTEN, WOKE, Progress
from serving.render import MODEL_APP_PREFIX
from workers import lease

log = logging.getLogger(__name__)

PROGRESS_COLUMNS = (
    "generation",
    "revision",
    "app_status",
    "replicas_running",
    "replicas_target",
    "queued_at",
    "sent_at",
    "placing_at",
    "loading_at",
    "warming_at",
    "ready_at",
    "failed_at",
    "asleep_at",
    "followed_from",
    "start_kind",
    "start_failures",
    "start_causes",
    "message",
)
SEEN_COLUMNS = (
    "state",
    "ready_at",
    "draining_at",
    "node_id",
    "node_ip",
    "pid",
    "actor_id",
    "worker_id",
    "log_file_path",
    "started_at",
    "last_seen_at",
    "ended_at",
)
SEEN_GAP_S = 30.0
"""A replica that vanished while nobody looked for longer than this ended when it was last seen."""
START_EVENTS = {
    ASKED: "{name} was sent to Ray",
    WOKE: "{name} is waking: a request came",
    CRASHED: "{name} is being started again: Ray places a new replica",
    FORGOTTEN: "Ray has lost {name} and is sent it again",
}
PHASE_EVENTS = {
    "placing": ("info", "{start}"),
    "loading": ("info", "{name} is loading its weights"),
    "warming": ("info", "{name} is warming up"),
    "ready": ("ok", "{name} is ready"),
    "asleep": ("info", "{name} fell asleep: no replica is running"),
    "failed": ("bad", "{name} failed: {reason}"),
    "stopped": ("info", "{name} holds nothing any more"),
}


class LeaseLost(RuntimeError):
    """Another worker has taken over; what was seen here is not written."""


def fence(token: int, now: float) -> None:
    """Raise LeaseLost unless the reconciler's lease is still ours. Call inside the writing transaction."""
    if not lease.holds("reconciler", token=token, now=now):
        raise LeaseLost("the reconciler's lease was lost")


@dataclass(frozen=True)
class Ended:
    """What ended since the last look: deployments of which a replica ended before it ever ran, and replicas
    that took requests then and do not any more."""

    failed_starts: frozenset[str]
    gone: tuple[Replica, ...]


def write_replicas(apps: dict[str, SeenApp], *, token: int, now: float) -> Ended:
    """Upsert replica rows; what ended."""
    seen = {replica.replica_id: (app, replica) for app in apps.values() for replica in app.replicas}
    lost: set[str] = set()
    gone: list[Replica] = []
    with transaction.atomic():
        fence(token, now)
        # Also those that had ended: Ray's list can leave out a replica for a moment, which then lives on.
        wanted = Q(ended_at=None) | Q(replica_id__in=list(seen))
        known = {row.replica_id: row for row in Replica.objects.select_for_update().filter(wanted)}
        accelerators = _accelerators_of_deployments()
        for replica_id, (app, replica) in seen.items():
            if not app.name.startswith(MODEL_APP_PREFIX) or not replica_id:
                continue
            name = app.name.removeprefix(MODEL_APP_PREFIX)
            row = known.pop(replica_id, None) or _new_replica(name, replica_id, app, accelerators, now)
            row = _continued(row) if row.settled else row
            if row.state == "RUNNING" and replica.state == "STOPPING":
                gone.append(row)
            if row.state != "RUNNING" or replica.state == "STOPPING":
                row.state = replica.state
            row.ready_at = row.ready_at or (now if replica.state == "RUNNING" else None)
            row.draining_at = row.draining_at or (now if replica.state == "STOPPING" else None)
            row.node_id, row.node_ip, row.pid = replica.node_id, replica.node_ip, replica.pid
            row.actor_id, row.worker_id = replica.actor_id, replica.worker_id
            row.log_file_path = replica.log_file_path
            if row.accounted_until is None:  # costs that were shared out do not move
                row.started_at = replica.started_at or row.started_at
            row.last_seen_at, row.ended_at = now, None
            # An existing row's other columns are the accounting's: what was read here may be old by now.
            row.save(update_fields=None if row.pk is None else SEEN_COLUMNS)
        for row in known.values():
            if row.state == "RUNNING":
                gone.append(row)
            elif row.state != "STOPPING":
                lost.add(row.deployment_name)
            row.ended_at = now if now - row.last_seen_at <= SEEN_GAP_S else row.last_seen_at
            row.save(update_fields=["ended_at"])
    return Ended(frozenset(lost), tuple(gone))


def write_engine_died(replica: Replica, cause: str, *, token: int, now: float) -> None:
    """The event that says that a replica died while it served, and what follows."""
    with transaction.atomic():
        fence(token, now)
        deployment = Deployment.objects.filter(pk=replica.deployment_id or 0).first()
        if deployment is None:
            return
        record(
            actor=SYSTEM,
            kind="deployment.engine_died",
            message=f"{cause} ({deployment.name}, replica {replica.replica_id[:8]});"
            " Ray replaces it, and requests it was answering have failed",
            level="bad",
            subject_kind="deployment",
            subject_name=deployment.name,
            deployment=deployment,
        )


def write_progress(
    deployment: Deployment, progress: Progress, *, failure: dict[str, Any] | None, token: int, now: float
) -> str:
    """Store one deployment's progress; one event and one push when its phase changed. Returns the phase,
    empty when the deployment is not the one any more that was looked at."""
    values = {name: value for name, value in asdict(progress).items() if name in PROGRESS_COLUMNS}
    with transaction.atomic():
        fence(token, now)
        if not Deployment.objects.filter(pk=deployment.pk, generation=deployment.generation).exists():
            return ""  # deleted or changed while its smoke request or its logs were waited for
        status, _ = DeploymentStatus.objects.select_for_update().get_or_create(deployment=deployment)
        before = (status.last_phase, status.generation, status.replicas_running, status.replicas_target)
        for name, value in values.items():
            setattr(status, name, value)
        status.observed_at = now
        status.failure = failure if failure is not None else (status.failure if status.failed_at else None)
        deployment.status = status
        phase = phase_now(deployment, now)
        if before[0] != phase or before[1] != status.generation:
            _phase_event(deployment, status, phase)
        status.last_phase = phase
        status.save()
        if before != (phase, status.generation, status.replicas_running, status.replicas_target):
            live.publish_changed(["overview", "deployments", f"deployment:{deployment.name}"], "status")
    return phase


def write_cluster(*, token: int, now: float, **values: Any) -> None:
    """Store what was seen of the cluster; an event and a push when it went away or came back."""
    with transaction.atomic():
        fence(token, now)
        status, _ = ClusterStatus.objects.select_for_update().get_or_create(pk=1)
        before = (status.reachable, status.gateway_status)
        for name, value in values.items():
            setattr(status, name, value)
        status.reconciled_at = now
        status.save()
        if status.reachable != before[0] and (before[0] or status.observed_at):
            _cluster_event(status)
        if before != (status.reachable, status.gateway_status):
            live.publish_changed(["cluster", "overview"], "status")


def _new_replica(
    name: str, replica_id: str, app: SeenApp, accelerators: dict[str, tuple[int, int]], now: float
) -> Replica:
    pk, count = accelerators.get(name, (0, 1))
    return Replica(
        deployment_id=pk or None,
        deployment_name=name,
        replica_id=replica_id,
        revision=app.revision or 0,
        accelerators=count,
        state="STARTING",
        started_at=now,
        last_seen_at=now,
    )


def _continued(ended: Replica) -> Replica:
    """The rest of a life whose end was an error, noticed after its cost up to there had been shared out: a
    new row from that moment on. The old one keeps its costs and gives its id away."""
    replica_id = ended.replica_id
    earlier = Replica.objects.filter(replica_id__startswith=f"{replica_id}~").count()
    began = ended.ended_at or ended.last_seen_at
    Replica.objects.filter(pk=ended.pk).update(replica_id=f"{replica_id}~{earlier + 1}"[:120], ended_at=began)
    return Replica(
        deployment_id=ended.deployment_id,
        deployment_name=ended.deployment_name,
        replica_id=replica_id,
        revision=ended.revision,
        accelerators=ended.accelerators,
        state=ended.state,
        facts=ended.facts,
        started_at=began,
        ready_at=None if ended.ready_at is None else began,
        last_seen_at=ended.last_seen_at,
        accounted_until=int(began),  # which also keeps its beginning from being moved to the old row's
    )


def _accelerators_of_deployments() -> dict[str, tuple[int, int]]:
    rows = Deployment.objects.select_related("current_revision")
    return {
        row.name: (
            row.pk,
            int(row.current_revision.engine.get("tensor_parallel_size", 1))
            * int(row.current_revision.engine.get("pipeline_parallel_size", 1)),
        )
        for row in rows
        if row.current_revision
    }


def _phase_event(deployment: Deployment, status: DeploymentStatus, phase: str) -> None:
    if phase not in PHASE_EVENTS:
        return
    level, words = PHASE_EVENTS[phase]
    reason = str((status.failure or {}).get("cause", ""))
    start = START_EVENTS.get(status.start_kind, START_EVENTS[ASKED]).format(name=deployment.name)
    message = words.format(name=deployment.name, reason=reason, start=start)
    if phase == "ready" and status.ready_at and status.queued_at:
        again = "" if status.start_kind == ASKED else "again "
        message = f"{deployment.name} is ready {again}after {status.ready_at - status.queued_at:.0f} s"
    record(
        actor=SYSTEM,
        kind=f"deployment.{phase}",
        message=message,
        level=level,
        subject_kind="deployment",
        subject_name=deployment.name,
        deployment=deployment,
    )
    log.info("phase deployment=%s generation=%d phase=%s", deployment.name, status.generation, phase)


def _cluster_event(status: ClusterStatus) -> Event:
    words = "Ray can be reached again" if status.reachable else f"Ray cannot be reached: {status.error}"
    return record(
        actor=SYSTEM,
        kind="cluster.reachable" if status.reachable else "cluster.unreachable",
        message=words,
        level="ok" if status.reachable else "bad",
        subject_kind="cluster",
        subject_name="ray",
    )
