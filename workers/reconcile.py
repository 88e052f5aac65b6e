"""The reconciler: one writer that brings the cluster to what the database wants, and follows what happens.

A pass loads Ray's state first and the desired state second, so that a change made in between is seen as
wanted but not yet there, never the other way round. No transaction is open during a network call.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

from django.conf import settings
from django.db import DatabaseError, close_old_connections, connection

from console import desired, secrets
from console.models import ClusterStatus, Deployment, DeploymentStatus, DesiredState
from console.placements import check_against_cluster
from console.planning import check_plan
from serving.client import RayClient
from serving.errors import ConfigRejected, InvalidSpec, NotPlaceable, RaydeckError
from serving.observed import START_PHASES, SeenApp, read_apps
from serving.plan import Decision, LastPut, decide, foreign_apps
from serving.planner.report import read_stored
from serving.progress import Deadlines, Progress, Step, Wanted, advance, smoke_answered
from serving.render import GATEWAY_APP, app_name, digest_of
from serving.spec import DeploymentSpec
from serving.tasks import task_of
from workers import lease, observe, plan_checks
from workers.failures import death_of, failure_of, unplaceable
from workers.ray import node_json, ray_client, replica_phases
from workers.smoke import smoke

log = logging.getLogger(__name__)

LEASE_TTL_S = 20.0
RENEW_S = 5.0
"""The lease is kept by a thread while a pass waits for Ray; a worker that was killed is replaced soon."""
SMOKES_AT_ONCE = 8
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
        with ray_client() as ray, _kept(token):
            pause = threading.Event()
            while reconcile_once(ray, token=token) and time.time() - started < TURN_S:
                pause.wait(PAUSE_S)
    except observe.LeaseLost:
        log.warning("reconcile lease lost holder=%s", holder)
    finally:
        lease.release("reconciler", token=token)
        close_old_connections()


@contextlib.contextmanager
def _kept(token: int) -> Iterator[None]:
    """Prolong the lease until the block ends. A lost lease is noticed by the fence of the next write."""
    over = threading.Event()

    def keep() -> None:
        while not over.wait(RENEW_S):
            try:
                lease.renew("reconciler", token=token, ttl_s=LEASE_TTL_S, now=time.time())
            except DatabaseError as error:
                log.warning("lease not renewed error=%s", type(error).__name__)
        connection.close()

    thread = threading.Thread(target=keep, name="lease", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


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
    ended = observe.write_replicas(apps, token=token, now=now)
    _tell_of_deaths(ray, apps, ended, token=token)
    _refuse_unplaceable(token=token)
    sent = _send_if_needed(ray, apps, token=token)
    is_under_way = _follow_all(ray, apps, sent, ended, token=token)
    plan_checks.write_due(ray, token=token, now=time.time())
    return is_under_way or sent.decision.put


@dataclass(frozen=True)
class Sent:
    """What Ray has been asked to run: the decision of this pass, and when the document in force was sent."""

    decision: Decision
    specs: dict[str, DeploymentSpec]
    in_force: bool
    at: float | None


def _send_if_needed(ray: RayClient, apps: dict[str, SeenApp], *, token: int) -> Sent:
    want = desired.desired_document()
    document, by_name = want.document, want.specs
    for name, reason in want.unreadable.items():
        _fail_unreadable(name, reason, token=token)
    digest = digest_of(document)
    status = ClusterStatus.objects.get(pk=1)
    wanted = frozenset(app["name"] for app in document["applications"])
    foreign = foreign_apps(apps.values(), installation=desired.installation())
    if foreign and not settings.TAKE_OVER_CLUSTER:
        words = (
            f"The cluster runs applications of somebody else ({', '.join(foreign)}); nothing is sent."
            " RAYDECK_TAKE_OVER_CLUSTER=1 lets Raydeck replace them."
        )
        observe.write_cluster(token=token, now=time.time(), rejected_message=words, decision=words[:200])
        return Sent(Decision(False, words), by_name, in_force=False, at=None)
    if status.rejected_message and status.rejected_digest != digest:
        # Another document is wanted by now, or the foreign applications are gone.
        observe.write_cluster(token=token, now=time.time(), rejected_digest="", rejected_message="")
        status.rejected_digest = ""
    statuses = {name: app.status for name, app in apps.items() if app.source != "imperative"}
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


def _fail_unreadable(name: str, reason: str, *, token: int) -> None:
    row = Deployment.objects.select_related("status").filter(name=name).first()
    known = _known(row) if row else Progress()
    if row is None or (known.generation == row.generation and known.failed_at is not None):
        return
    now = time.time()
    progress = Progress(generation=row.generation, queued_at=row.requested_at, failed_at=now)
    failure = {"code": "unreadable", "cause": reason, "advice": "Edit it and save it again.", "raw": ""}
    observe.write_progress(row, progress, failure=failure, token=token, now=now)


def _tell_of_deaths(ray: RayClient, apps: dict[str, SeenApp], ended: observe.Ended, *, token: int) -> None:
    """An event for each replica that died while it served; nothing for those that were replaced or let go."""
    for replica in ended.gone:
        cause = death_of(ray, replica)
        app = apps.get(app_name(replica.deployment_name))
        rows = Deployment.objects.filter(desired_state=DesiredState.RUNNING)
        row = rows.filter(pk=replica.deployment_id or 0).first()
        if not cause and row is not None and app is not None:
            is_missed = app.revision == replica.revision and len(app.running) < app.replicas_target
            cause = "A replica's process ended" if is_missed and app.deployment_id == row.pk else ""
        if cause:
            log.warning("replica died deployment=%s replica=%s", replica.deployment_name, replica.replica_id)
            observe.write_engine_died(replica, cause, token=token, now=time.time())


def _refuse_unplaceable(*, token: int) -> None:
    """What the cluster cannot hold is refused before it is sent, with the arithmetic."""
    for deployment in _rows():
        status = getattr(deployment, "status", None) or DeploymentStatus(deployment=deployment)
        settled = status.generation == deployment.generation and (status.sent_at or status.failed_at)
        if settled or deployment.desired_state != DesiredState.RUNNING:
            continue
        try:
            spec = desired.spec_of(deployment)
        except (ValueError, secrets.SecretError):  # said where the document is made
            continue
        try:
            plan = read_stored(deployment.current_revision.plan) if deployment.current_revision else None
            check_plan(plan, spec.engine)
            check_against_cluster(name=spec.name, engine=spec.engine, capacity=spec.capacity, plan=plan)
        except InvalidSpec as error:
            refused = NotPlaceable(error.message, arithmetic=[], field=error.field)
            _fail_unplaceable(deployment, refused, token=token)
        except NotPlaceable as error:
            _fail_unplaceable(deployment, error, token=token)


def _fail_unplaceable(deployment: Deployment, error: NotPlaceable, *, token: int) -> None:
    now = time.time()
    progress = Progress(generation=deployment.generation, queued_at=deployment.requested_at, failed_at=now)
    observe.write_progress(deployment, progress, failure=unplaceable(error), token=token, now=now)


def _follow_all(
    ray: RayClient, apps: dict[str, SeenApp], sent: Sent, ended: observe.Ended, *, token: int
) -> bool:
    rows = _rows()
    # What was sent a moment ago is said at once; the metrics pages can take seconds on a busy machine.
    reads_pages = not sent.decision.put and any(_is_starting(row) for row in rows)
    reported = replica_phases(ray) if reads_pages else {}
    under_way = False
    to_smoke: list[tuple[Deployment, DeploymentSpec, Step]] = []
    for row in rows:
        spec = sent.specs.get(row.name)
        if spec is None or (spec.generation, spec.deployment_id) != (row.generation, row.pk):
            # Changed, or deleted and made anew, meanwhile: the next pass has it.
            under_way = under_way or spec is not None
            continue
        app = apps.get(app_name(row.name))
        failed = _failed_start(ray, row, app) if row.name in ended.failed_starts else None
        step = _step(row, spec, app, sent, reported, failed)
        if step.needs_smoke:
            to_smoke.append((row, spec, step))
            continue
        progress, failure = _acted_on(ray, row, app, step)
        phase = observe.write_progress(row, progress, failure=failure, token=token, now=time.time())
        under_way = under_way or phase in START_PHASES
    return _smoke_all(to_smoke, token=token) or under_way


def _step(
    row: Deployment,
    spec: DeploymentSpec,
    app: SeenApp | None,
    sent: Sent,
    reported: dict[str, dict[str, float]],
    failed_start: str | None,
) -> Step:
    status = getattr(row, "status", None)
    wanted = Wanted(
        generation=row.generation,
        revision=spec.revision,
        deployment_id=row.pk,
        running=row.desired_state == DesiredState.RUNNING,
        requested_at=row.requested_at,
        sent_at=sent.at if sent.in_force and spec.state == "serve" else None,
    )
    return advance(
        _known(row),
        wanted=wanted,
        app=app,
        replica_phases=reported,
        failed_start=failed_start,
        last_seen_at=status.observed_at if status else None,
        deadlines=Deadlines(placing_s=settings.PLACING_DEADLINE_S, start_s=settings.START_DEADLINE_S),
        now=time.time(),
    )


def _failed_start(ray: RayClient, row: Deployment, app: SeenApp | None) -> str | None:
    """Why replicas of a start under way ended; None where none is under way."""
    if not _is_starting(row):
        return None
    return str(failure_of(ray, row, app, code="start_failed")["cause"])


def _acted_on(
    ray: RayClient, row: Deployment, app: SeenApp | None, step: Step
) -> tuple[Progress, dict[str, Any] | None]:
    if not step.failure_code:
        return step.progress, None
    failure = failure_of(ray, row, app, code=step.failure_code)
    return replace(step.progress, failed_at=time.time()), failure


def _smoke_all(waiting: list[tuple[Deployment, DeploymentSpec, Step]], *, token: int) -> bool:
    """Ask all of them at once, so that one that hangs delays nobody; whether one is still unanswered."""
    if not waiting:
        return False
    with ThreadPoolExecutor(max_workers=SMOKES_AT_ONCE) as pool:
        tasks = [task_of(row.model.facts or {}, spec.engine.engine_kwargs) for row, spec, _ in waiting]
        answers = list(pool.map(smoke, [row.name for row, _, _ in waiting], tasks))
    for (row, spec, step), unanswered in zip(waiting, answers, strict=True):
        now = time.time()
        failure = None
        if not unanswered:
            progress = smoke_answered(step.progress, revision=spec.revision, now=now)
        elif step.is_overdue:
            progress = replace(step.progress, failed_at=now)
            failure = {
                "code": "smoke_unanswered",
                "cause": f"Ray says it runs, but it does not answer: {unanswered}",
                "advice": "Look at the engine's and the gateway's logs, then try again.",
                "raw": "",
            }
        else:
            message = f"Smoke request not answered yet: {unanswered}"
            progress = replace(step.progress, message=message)
        observe.write_progress(row, progress, failure=failure, token=token, now=now)
    return any(answers)


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
