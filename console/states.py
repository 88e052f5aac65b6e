"""The read side: what pages and the API say of deployments and of the cluster. Writes nothing.

Wanted, observed (with its age) and computed values come together here; every function takes `now` in epoch
seconds and makes a constant number of queries.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from django.conf import settings

from console import slo
from console.models import ClusterStatus, Deployment, DeploymentStatus, DesiredState, Replica
from serving.observed import STALE_AFTER_S, START_PHASES, PhaseInput, phase_of
from serving.tasks import task_of

PHASE_LABELS = {
    "queued": "Queued",
    "placing": "Placing",
    "loading": "Loading",
    "warming": "Warming",
    "ready": "Ready",
    "asleep": "Asleep",
    "stopped": "Stopped",
    "failed": "Failed",
    "over_slo": "Over SLO",
    "unknown": "Unknown",
}


@dataclass
class Alive:
    """What a deployment's replicas hold now, and the oldest revision that takes requests (0: none does)."""

    accelerators: int = 0
    serving_revision: int = 0


def deployment_states(now: float) -> list[dict[str, Any]]:
    """All deployments in order of name, in a constant number of queries."""
    rows = Deployment.objects.select_related(
        "model", "current_revision", "status", "slo", "slo_status"
    ).order_by("name")
    cluster = ClusterStatus.objects.filter(pk=1).first()
    alive = _alive()
    return [_state(row, cluster, alive.get(row.name, Alive()), now) for row in rows]


def deployment_state(deployment: Deployment, now: float) -> dict[str, Any]:
    """One deployment; the same map as in the list."""
    cluster = ClusterStatus.objects.filter(pk=1).first()
    return _state(deployment, cluster, _alive(deployment.name).get(deployment.name, Alive()), now)


def cluster_state(now: float) -> dict[str, Any]:
    """The Ray cluster as last seen, with its age, and the address callers use."""
    status = ClusterStatus.objects.filter(pk=1).first() or ClusterStatus()
    age_s = None if status.observed_at is None else max(0.0, now - status.observed_at)
    return {
        "reachable": status.reachable and age_s is not None and age_s <= STALE_AFTER_S,
        "error": status.error,
        "age_s": age_s,
        "stale": age_s is None or age_s > STALE_AFTER_S,
        "ray_version": status.ray_version,
        "nodes": status.nodes,
        "gateway_status": status.gateway_status,
        "gateway_ready": status.gateway_status == "RUNNING",
        "base_url": f"{settings.GATEWAY_URL}/v1",
        "decision": status.decision,
        "rejected_message": status.rejected_message,
    }


def phase_input(deployment: Deployment, status: DeploymentStatus | None) -> PhaseInput:
    """The columns a phase is computed from."""
    status = status or DeploymentStatus()
    return PhaseInput(
        wants_running=deployment.desired_state == DesiredState.RUNNING,
        generation=deployment.generation,
        seen_generation=status.generation,
        observed_at=status.observed_at,
        replicas_running=status.replicas_running,
        replicas_target=status.replicas_target,
        placing_at=status.placing_at,
        loading_at=status.loading_at,
        warming_at=status.warming_at,
        ready_at=status.ready_at,
        failed_at=status.failed_at,
        asleep_at=status.asleep_at,
    )


def phase_now(deployment: Deployment, now: float) -> str:
    """The deployment's phase word."""
    return phase_of(phase_input(deployment, getattr(deployment, "status", None)), now)


def _state(deployment: Deployment, cluster: ClusterStatus | None, alive: Alive, now: float) -> dict[str, Any]:
    status: DeploymentStatus = getattr(deployment, "status", None) or DeploymentStatus()
    phase = phase_now(deployment, now)
    engine = deployment.current_revision.engine if deployment.current_revision else {}
    age_s = None if status.observed_at is None else max(0.0, now - status.observed_at)
    failure = status.failure if phase == "failed" else None
    started = _start_of(deployment, status)
    word = "over_slo" if phase == "ready" and slo.is_over(deployment, now) else phase
    current = status.generation == deployment.generation
    return {
        "name": deployment.name,
        "model": deployment.model.name,
        "phase": phase,
        "phase_label": PHASE_LABELS[phase],
        "word": word,
        "word_label": PHASE_LABELS[word],
        "last_phase": status.last_phase,
        "reason": _reason(phase, deployment, status, cluster, age_s),
        "advice": (failure or {}).get("advice", ""),
        "failure": failure,
        "age_s": age_s,
        "stale": age_s is None or age_s > STALE_AFTER_S,
        "since": _since(phase, deployment, status),
        "revision": deployment.current_revision.number if deployment.current_revision else 0,
        "serving_revision": alive.serving_revision,
        "replaced_revision": _replaced_revision(phase, deployment, status),
        "generation": deployment.generation,
        "version": deployment.version,
        "desired_state": deployment.desired_state,
        "replicas_running": status.replicas_running,
        "replicas_target": status.replicas_target,
        "min_replicas": deployment.min_replicas,
        "max_replicas": deployment.max_replicas,
        "target_ongoing_requests": deployment.target_ongoing_requests,
        "idle_before_zero_s": deployment.idle_before_zero_s,
        "price_per_accelerator_hour_usd": deployment.price_per_accelerator_hour_usd,
        "api_input_usd_per_million_tokens": deployment.api_input_usd_per_million_tokens,
        "api_output_usd_per_million_tokens": deployment.api_output_usd_per_million_tokens,
        "cost_per_hour_usd": Decimal(alive.accelerators) * deployment.price_per_accelerator_hour_usd,
        "accelerators": alive.accelerators,
        "accelerators_per_replica": _ranks(engine),
        "topology": topology_words(engine),
        "engine": engine,
        "limits": deployment.limits,
        "task": task_of(deployment.model.facts or {}, engine.get("engine_kwargs") or {}),
        "colour": deployment.colour,
        "phases": timeline(deployment, status, phase, now),
        "ready_in_s": None if status.ready_at is None or not current else status.ready_at - started,
        "created_at": deployment.created_at,
    }


def timeline(
    deployment: Deployment, status: DeploymentStatus, phase: str, now: float
) -> list[dict[str, Any]]:
    """queued → placing → loading → warming → ready with the seconds each took, or has taken so far."""
    current_generation = status.generation == deployment.generation
    starts: dict[str, float | None] = {
        "queued": _start_of(deployment, status),
        "placing": status.placing_at if current_generation else None,
        "loading": status.loading_at if current_generation else None,
        "warming": status.warming_at if current_generation else None,
        "ready": status.ready_at if current_generation else None,
    }
    names = list(starts)
    end_of_all = status.failed_at if current_generation and status.failed_at else None
    rows = []
    for index, name in enumerate(names):
        began = starts[name]
        later = [starts[n] for n in names[index + 1 :] if starts[n] is not None]
        ended = min((t for t in later if t is not None), default=None)
        if ended is None and phase == "failed":
            ended = end_of_all
        until = ended if ended is not None else now
        rows.append(
            {
                "name": name,
                "label": PHASE_LABELS[name],
                "started_at": began,
                "seconds": None if began is None else max(0.0, until - began),
                "done": began is not None and (ended is not None or name == "ready"),
                "current": began is not None and ended is None and phase in (*START_PHASES, "ready"),
                "failed": phase == "failed" and began is not None and not later and name != "ready",
            }
        )
    return rows


def topology_words(engine: dict[str, Any]) -> str:
    """Such as "TP 2 × PP 2 · 4 × H100" or "TP 1 · CPU"."""
    tp, pp = engine.get("tensor_parallel_size", 1), engine.get("pipeline_parallel_size", 1)
    shape = f"TP {tp}" if pp == 1 else f"TP {tp} × PP {pp}"
    kind = engine.get("accelerator_type")
    return f"{shape} · {tp * pp} × {kind}" if kind else f"{shape} · CPU"


def _ranks(engine: dict[str, Any]) -> int:
    return int(engine.get("tensor_parallel_size", 1)) * int(engine.get("pipeline_parallel_size", 1))


def _alive(name: str | None = None) -> dict[str, Alive]:
    rows = Replica.objects.filter(ended_at=None)
    if name is not None:
        rows = rows.filter(deployment_name=name)
    alive: dict[str, Alive] = {}
    for owner, count, revision, state in rows.values_list(
        "deployment_name", "accelerators", "revision", "state"
    ):
        of_owner = alive.setdefault(owner, Alive())
        of_owner.accelerators += count
        if state == "RUNNING":
            of_owner.serving_revision = min(of_owner.serving_revision or revision, revision)
    return alive


def _replaced_revision(phase: str, deployment: Deployment, status: DeploymentStatus) -> int:
    """The revision that was ready before the one that starts now; 0 where there is none."""
    current = deployment.current_revision.number if deployment.current_revision else 0
    return status.revision if phase in START_PHASES and status.revision != current else 0


def _start_of(deployment: Deployment, status: DeploymentStatus) -> float:
    """When the present start began: asked for by an operator, or by itself after a crash or for a caller."""
    if status.generation == deployment.generation and status.queued_at is not None:
        return status.queued_at
    return deployment.requested_at


def _since(phase: str, deployment: Deployment, status: DeploymentStatus) -> float | None:
    at = {
        "queued": _start_of(deployment, status),
        "placing": status.placing_at,
        "loading": status.loading_at,
        "warming": status.warming_at,
        "ready": status.ready_at,
        "failed": status.failed_at,
        "asleep": status.asleep_at,
        "stopped": deployment.requested_at,
        "unknown": status.observed_at,
    }
    return at[phase]


def _reason(
    phase: str,
    deployment: Deployment,
    status: DeploymentStatus,
    cluster: ClusterStatus | None,
    age_s: float | None,
) -> str:
    if phase == "failed":
        return str((status.failure or {}).get("cause", "")) or status.message
    if phase == "unknown":
        if cluster and not cluster.reachable:
            return f"Ray cannot be reached: {cluster.error}"
        return "Nothing has been observed lately; is the worker running?" if age_s else "Not observed yet"
    if phase == "queued" and cluster and cluster.rejected_message:
        return f"Ray rejected the configuration: {cluster.rejected_message}"
    if phase == "queued" and cluster and not cluster.reachable:
        return f"Waiting for Ray: {cluster.error or 'not reached yet'}"
    if phase == "stopped" and status.replicas_running:
        return "Draining: running requests may finish"
    if phase in START_PHASES:
        return status.message
    return ""
