"""Writes down once per replica what an engine holds beside what its revision planned. Observed tables only.

Part of the reconciler's pass, under its lease. Two queries while nothing is due; Ray is asked only when a
running replica of a current revision has no check yet, and again at a distance while its figures are unknown.
A revision keeps the newest replica's check; an event is written when it is off in another way than before.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from django.db import transaction

from console import live
from console.events import SYSTEM, record
from console.models import Deployment, PlanCheck, Replica, Revision
from console.plan_checks import WORDS, error_words
from serving.client import RayClient
from serving.errors import RaydeckError
from serving.planner import causes, measured_log
from serving.planner.compare import Difference, compare, read_plan, to_json
from serving.planner.measured import Facts, Measured, facts_of_pages, from_facts, merged
from workers import observe

log = logging.getLogger(__name__)

RETRY_S = 10.0
RETRY_LATE_S = 300.0
"""A replica that is older than this and says nothing is asked again as seldom: it may never say anything."""

LOG_LINES = 2000
_asked_at: dict[str, float] = {}


@dataclass(frozen=True)
class Due:
    """A running replica of its deployment's current revision that was not compared yet."""

    deployment: Deployment
    revision: Revision
    replica: Replica


def write_due(ray: RayClient, *, token: int, now: float) -> None:
    """Compare what is due and can be known by now. Raises LeaseLost when another worker has taken over."""
    due = find_due()
    waiting = {one.replica.replica_id for one in due}
    for replica_id in _asked_at.keys() - waiting:
        del _asked_at[replica_id]
    ask = [one for one in due if _may_ask(one.replica, now)]
    if not ask:
        return
    _asked_at.update({one.replica.replica_id: now for one in ask})
    published = facts_of_pages(_pages(ray))
    for one in ask:
        facts = published.get(one.replica.replica_id)
        seen = _measured(ray, one, facts) if facts else None
        if seen is None:
            continue
        try:
            write(one, seen, token=token, now=now)
        except (ArithmeticError, AttributeError, KeyError, TypeError, ValueError):
            # A stored plan of another shape must not end the pass for all other deployments.
            log.exception("plan check failed deployment=%s", one.deployment.name)


def find_due() -> list[Due]:
    """The newest running replica of each current revision, where it is newer than the revision's check."""
    newest: dict[int, Replica] = {}
    running = Replica.objects.filter(ended_at=None, state="RUNNING", deployment__isnull=False)
    for replica in running.order_by("started_at"):
        newest[replica.deployment_id or 0] = replica
    rows = Deployment.objects.filter(pk__in=newest).select_related("current_revision__plan_check")
    found = []
    for deployment in rows:
        revision, replica = deployment.current_revision, newest[deployment.pk]
        if revision is None or revision.number != replica.revision:
            continue
        check: PlanCheck | None = getattr(revision, "plan_check", None)
        if check is None or (
            check.replica_id != replica.replica_id and replica.started_at > check.measured_at
        ):
            found.append(Due(deployment, revision, replica))
    return found


def write(due: Due, seen: Measured, *, token: int, now: float) -> None:
    """Store the comparison; an event when a part is off that was not known to be so."""
    differences, cause = compared(due.revision, seen)
    off = [one for one in differences if one.is_off]
    with transaction.atomic():
        observe.fence(token, now)
        if not Revision.objects.filter(pk=due.revision.pk).exists():
            return  # deleted while Ray was asked
        before = PlanCheck.objects.filter(revision=due.revision).first()
        PlanCheck.objects.update_or_create(
            revision=due.revision,
            defaults={
                "replica_id": due.replica.replica_id,
                "measured": seen.to_json(),
                "differences": to_json(differences),
                "cause": cause[:300],
                "measured_at": now,
            },
        )
        if cause and (before is None or _off_parts(before.differences) != {one.part for one in off}):
            _event(due, off, cause)
        live.publish_changed([f"deployment:{due.deployment.name}"], "plan")
    log.info(
        "plan check deployment=%s revision=%d replica=%s off=%s",
        due.deployment.name,
        due.revision.number,
        due.replica.replica_id,
        ",".join(one.part for one in off) or "-",
    )


def compared(revision: Revision, seen: Measured) -> tuple[list[Difference], str]:
    """The revision's plan beside `seen`, and the likely cause; nothing where no plan was stored."""
    if not revision.plan:
        return [], ""
    plan, engine = read_plan(revision.plan), revision.engine
    differences = compare(
        plan,
        seen,
        on_cpu=engine.get("accelerator_type") is None,
        max_model_len=int(engine.get("max_model_len") or 0),
    )
    return differences, causes.likely_cause(plan, seen, differences, engine)


def _may_ask(replica: Replica, now: float) -> bool:
    is_late = now - replica.started_at > RETRY_LATE_S
    return now - _asked_at.get(replica.replica_id, 0.0) >= (RETRY_LATE_S if is_late else RETRY_S)


def _pages(ray: RayClient) -> list[str]:
    """All metrics pages that answer now."""
    try:
        targets = ray.get_metrics_targets()
    except RaydeckError as error:
        log.info("plan check pages=unknown error=%s", error.message[:120])
        return []
    pages = []
    for target in targets:
        try:
            pages.append(ray.read_metrics(target))
        except RaydeckError as error:
            log.info("plan check page=%s error=%s", target, error.message[:120])
    return pages


def _measured(ray: RayClient, due: Due, facts: Facts) -> Measured | None:
    """What the replica published and its engine logged; None while the replica has not said enough."""
    exact = from_facts(facts, ranks=_ranks(due.revision.engine))
    if not exact.is_known():
        return None
    return merged(exact, measured_log.from_log(_engine_log(ray, due.replica)))


def _ranks(engine: Mapping[str, Any]) -> int:
    tensor, pipeline = engine.get("tensor_parallel_size", 1), engine.get("pipeline_parallel_size", 1)
    return int(tensor) * int(pipeline)


def _engine_log(ray: RayClient, replica: Replica) -> str:
    """What the replica's process and vLLM below it have printed; nothing when Ray does not give it."""
    if not replica.worker_id or not replica.node_id:
        return ""
    try:
        names: Sequence[str] = ray.list_logs(replica.node_id, f"worker-{replica.worker_id}*")
        return "\n".join(ray.get_log_tail(replica.node_id, name, lines=LOG_LINES) for name in names)
    except RaydeckError as error:
        log.info("plan check log replica=%s error=%s", replica.replica_id, error.message[:120])
        return ""


def _off_parts(differences: Mapping[str, Any]) -> set[str]:
    return {part for part, one in differences.items() if one.get("is_off")}


def _event(due: Due, off: Sequence[Difference], cause: str) -> None:
    name, number = due.deployment.name, due.revision.number
    # Tokens and requests follow from the blocks: saying them too would only repeat the same error.
    follows = ("kv_tokens", "max_concurrency") if any(one.part == "kv_blocks" for one in off) else ()
    named = [one for one in off if one.part not in follows]
    parts = ", ".join(f"{WORDS[one.part]} {error_words(one.part, asdict(one))}" for one in named)
    what = f" is not as planned: {parts}." if parts else " runs although its plan said no."
    record(
        actor=SYSTEM,
        kind="deployment.plan_off",
        message=f"{name} revision {number}{what} {cause}",
        level="warn",
        subject_kind="deployment",
        subject_name=name,
        deployment=due.deployment,
        before={one.part: one.planned for one in off},
        after={one.part: one.measured for one in off},
    )
