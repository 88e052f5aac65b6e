"""The reconciler: one writer that brings the cluster to what the database wants, and follows what happens.

A pass loads Ray's state first and the desired state second, so that a change made in between is seen as
wanted but not yet there, never the other way round. No transaction is open during a network call.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
import uuid
from dataclasses import dataclass, replace
from typing import Any

from django.conf import settings
from django.db import close_old_connections

from console import desired
from console.models import ClusterStatus, Deployment, DeploymentStatus, DesiredState
from console.placements import check_against_cluster
from serving.client import RayClient
from serving.errors import ConfigRejected, NotPlaceable, RaydeckError
from serving.observed import START_PHASES, SeenApp, read_apps
from serving.plan import Decision, LastPut, decide, foreign_apps
from serving.progress import Deadlines, Progress, Step, Wanted, advance, smoke_answered
from serving.render import GATEWAY_APP, app_name, digest_of
from serving.spec import DeploymentSpec
from workers import lease, observe
from workers.failures import failure_of, unplaceable
from workers.ray import node_json, ray_client, replica_phases
from workers.smoke import smoke

log = logging.getLogger(__name__)

LEASE_TTL_S = 60.0
TURN_S = 4.5
"""How long one task goes on observing while something is under way; the beat brings the next one."""
PAUSE_S = 0.5


def reconcile_for_a_while() -> None:
    """One task: take the lease or return; pass after pass while a deployment is starting."""
    holder = f"{socket.gethostname()}:{os.getpid()}:{uuid.uuid4().hex[:8]}"
    started = time.time()
    token = lease.acquire("reconciler", holder=holder, ttl_s=LEASE_TTL_S, now=started)
    if token is None:
        return
    try:
        with ray_client() as ray:
            pause = threading.Event()
            while reconcile_once(ray, token=token) and time.time() - started < TURN_S:
                pause.wait(PAUSE_S)
                lease.renew("reconciler", token=token, ttl_s=LEASE_TTL_S, now=time.time())
    except observe.LeaseLost:
        log.warning("reconcile lease lost holder=%s", holder)
    finally:
        lease.release("reconciler", token=token)
        close_old_connections()


def reconcile_once(ray: RayClient, *, token: int) -> bool:
    """One pass; whether something is still under way, so that it is worth looking again soon."""
    try:
        apps = read_apps(ray.get_serve_state())
        nodes = ray.get_nodes()
        version = ray.version().ray
    except RaydeckError as error:
        observe.write_cluster(token=token, now=time.time(), reachable=False, error=error.message[:500])
        return False
    now = time.time()
    observe.write_cluster(
        token=token,
        now=now,
        reachable=True,
        error="",
        observed_at=now,
        nodes=[node_json(node) for node in nodes],
        ray_version=version,
        gateway_status=apps[GATEWAY_APP].status if GATEWAY_APP in apps else "",
    )
    lost = observe.write_replicas(apps, token=token, now=now)
    _refuse_unplaceable(token=token)
    sent = _send_if_needed(ray, apps, token=token)
    return _follow_all(ray, apps, sent, lost, token=token) or sent.decision.put


@dataclass(frozen=True)
class Sent:
    """What Ray has been asked to run: the decision of this pass, and when the document in force was sent."""

    decision: Decision
    specs: dict[str, DeploymentSpec]
    in_force: bool
    at: float | None


def _send_if_needed(ray: RayClient, apps: dict[str, SeenApp], *, token: int) -> Sent:
    document, specs = desired.desired_document()
    digest = digest_of(document)
    status = ClusterStatus.objects.get(pk=1)
    by_name = {spec.name: spec for spec in specs}
    wanted = frozenset(app["name"] for app in document["applications"])
    statuses = {name: app.status for name, app in apps.items()}
    foreign = foreign_apps(statuses, ours=wanted, sources={n: a.source for n, a in apps.items()})
    if foreign:
        words = f"The cluster runs applications of somebody else ({', '.join(foreign)}); nothing is sent."
        observe.write_cluster(token=token, now=time.time(), rejected_message=words, decision=words[:200])
        return Sent(Decision(False, words), by_name, in_force=False, at=None)
    decision = decide(
        wanted_digest=digest,
        wanted_apps=wanted,
        seen_apps=statuses,
        last_put=LastPut(status.put_digest, status.put_at),
        rejected_digest=status.rejected_digest,
        now=time.time(),
    )
    if not decision.put:
        observe.write_cluster(token=token, now=time.time(), decision=decision.reason)
        return Sent(decision, by_name, in_force=digest == status.put_digest, at=status.put_at)
    return _put(ray, document, digest, decision, by_name, token=token)


def _put(
    ray: RayClient,
    document: dict[str, Any],
    digest: str,
    decision: Decision,
    specs: dict[str, DeploymentSpec],
    *,
    token: int,
) -> Sent:
    if not lease.renew("reconciler", token=token, ttl_s=LEASE_TTL_S, now=time.time()):
        raise observe.LeaseLost("lost before sending")
    sent_at = time.time()
    try:
        ray.put_config(document)
    except ConfigRejected as error:
        observe.write_cluster(
            token=token,
            now=time.time(),
            rejected_digest=digest,
            rejected_message=error.message[:2000],
            decision="rejected by Ray",
        )
        log.error("put rejected digest=%s", digest[:12])
        return Sent(Decision(False, "rejected"), specs, in_force=False, at=None)
    except RaydeckError as error:
        observe.write_cluster(token=token, now=time.time(), reachable=False, error=error.message[:500])
        return Sent(Decision(False, "unreachable"), specs, in_force=False, at=None)
    log.info("put digest=%s reason=%s apps=%d", digest[:12], decision.reason, len(document["applications"]))
    observe.write_cluster(
        token=token,
        now=time.time(),
        put_digest=digest,
        put_at=sent_at,
        rejected_digest="",
        rejected_message="",
        decision=decision.reason[:200],
    )
    return Sent(decision, specs, in_force=True, at=sent_at)


def _refuse_unplaceable(*, token: int) -> None:
    """What the cluster cannot hold is refused before it is sent, with the arithmetic."""
    for deployment in _rows():
        status = getattr(deployment, "status", None) or DeploymentStatus(deployment=deployment)
        settled = status.generation == deployment.generation and (status.sent_at or status.failed_at)
        if settled or deployment.desired_state != DesiredState.RUNNING:
            continue
        spec = desired.spec_of(deployment)
        try:
            check_against_cluster(
                name=spec.name, engine=spec.engine, capacity=spec.capacity, facts=deployment.model.facts
            )
        except NotPlaceable as error:
            now = time.time()
            progress = Progress(
                generation=deployment.generation, queued_at=deployment.requested_at, failed_at=now
            )
            observe.write_progress(deployment, progress, failure=unplaceable(error), token=token, now=now)


def _follow_all(
    ray: RayClient, apps: dict[str, SeenApp], sent: Sent, lost: dict[str, int], *, token: int
) -> bool:
    rows = _rows()
    starting = [row for row in rows if _is_starting(row)]
    reported = replica_phases(ray) if starting else {}
    under_way = False
    for row in rows:
        spec = sent.specs.get(row.name)
        if spec is None or spec.generation != row.generation:
            under_way = True  # changed since the document was made: the next pass has it
            continue
        phase = _follow(ray, row, spec, apps.get(app_name(row.name)), sent, reported, lost, token=token)
        under_way = under_way or phase in START_PHASES
    return under_way


def _follow(
    ray: RayClient,
    row: Deployment,
    spec: DeploymentSpec,
    app: SeenApp | None,
    sent: Sent,
    reported: dict[str, dict[str, float]],
    lost: dict[str, int],
    *,
    token: int,
) -> str:
    now = time.time()
    known = _known(row)
    is_sent = sent.in_force and spec.state == "serve"
    wanted = Wanted(
        generation=row.generation,
        revision=spec.revision,
        running=row.desired_state == DesiredState.RUNNING,
        requested_at=row.requested_at,
        sent_at=sent.at if is_sent else None,
    )
    deadlines = Deadlines(placing_s=settings.PLACING_DEADLINE_S, start_s=settings.START_DEADLINE_S)
    step = advance(
        known,
        wanted=wanted,
        app=app,
        replica_phases=reported,
        lost_starts=lost.get(row.name, 0) if known.ready_at is None else 0,
        deadlines=deadlines,
        now=now,
    )
    progress, failure = _act_on(ray, row, spec, app, step)
    return observe.write_progress(row, progress, failure=failure, token=token, now=time.time())


def _act_on(
    ray: RayClient, row: Deployment, spec: DeploymentSpec, app: SeenApp | None, step: Step
) -> tuple[Progress, dict[str, Any] | None]:
    if step.failure_code:
        failure = failure_of(ray, row, app, code=step.failure_code)
        return replace(step.progress, failed_at=time.time()), failure
    if not step.needs_smoke:
        return step.progress, None
    unanswered = smoke(row.name)
    if unanswered:
        return replace(step.progress, message=f"Smoke request not answered yet: {unanswered}"), None
    return smoke_answered(step.progress, revision=spec.revision, now=time.time()), None


def _known(row: Deployment) -> Progress:
    status = getattr(row, "status", None)
    if status is None:
        return Progress()
    return Progress(**{name: getattr(status, name) for name in observe.PROGRESS_COLUMNS})


def _is_starting(row: Deployment) -> bool:
    status = getattr(row, "status", None)
    if row.desired_state != DesiredState.RUNNING or status is None:
        return False
    return status.ready_at is None and status.failed_at is None and status.asleep_at is None


def _rows() -> list[Deployment]:
    return list(Deployment.objects.select_related("current_revision", "status", "model").order_by("name"))
