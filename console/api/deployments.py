"""/deployments: create, read, edit, delete, and the verbs start, stop, retry, rollback."""

from __future__ import annotations

import time
from typing import Any

from django.http import HttpRequest, HttpResponse
from ninja import Router
from ninja.responses import Status

from console import actions, costs, states
from console.actions.deployments import find_deployment
from console.api.inputs import (
    CapacityInput,
    DeploymentChange,
    DeploymentInput,
    DeploymentLimitsInput,
    EngineInput,
    RollbackInput,
)
from console.api.outputs import DeploymentDetail, DeploymentOut, Page
from console.api.routing import (
    IdempotencyKey,
    IfMatch,
    Limit,
    Offset,
    expected_version,
    method_and_path,
    operation,
    set_version,
)
from console.api.security import caller_of
from console.idempotency import create_once
from console.models import Deployment
from serving.errors import RaydeckError

router = Router(tags=["deployments"])

SECTIONS: dict[str, frozenset[str]] = {
    "engine": frozenset(EngineInput.model_fields),
    "capacity": frozenset(CapacityInput.model_fields),
    "limits": frozenset(DeploymentLimitsInput.model_fields),
}


@operation(router, "GET", "", role="viewer", answer=Page[DeploymentOut])
def list_deployments(request: HttpRequest, limit: Limit = 50, offset: Offset = 0) -> dict[str, Any]:
    """All deployments in order of name, with their present state."""
    rows = states.deployment_states(time.time())
    items = [deployment_out(state) for state in rows[offset : offset + limit]]
    return {"items": items, "total": len(rows), "limit": limit, "offset": offset}


@operation(router, "POST", "", role="operator", answer=DeploymentDetail, status=201)
def create_deployment(
    request: HttpRequest,
    response: HttpResponse,
    body: DeploymentInput,
    idempotency_key: IdempotencyKey = None,
) -> Status[dict[str, Any]]:
    """Create a deployment; it starts at once.

    What the cluster cannot hold is refused with the arithmetic (409, `not_placeable`).
    """
    caller = caller_of(request)

    def create() -> tuple[int, dict[str, Any]]:
        with _SectionNamed():
            actions.create_deployment(
                actor=caller.actor,
                name=body.name,
                model=body.model,
                engine=body.engine.given() if body.engine is not None else {},
                capacity=body.capacity.given() if body.capacity is not None else {},
                limits=body.limits.given() if body.limits is not None else {},
                note=body.note,
            )
        # Read back, so that this answer and every later one show the same figures.
        return 201, _detail(find_deployment(body.name.strip()))

    answer = create_once(
        user=caller.user,
        key=idempotency_key,
        method_and_path=method_and_path(request),
        request=body.model_dump(mode="json"),
        create=create,
    )
    response["Idempotent-Replayed"] = str(answer.replayed).lower()
    set_version(response, answer.body["version"])
    return Status(answer.status, answer.body)


@operation(router, "GET", "/{name}", role="viewer", answer=DeploymentDetail)
def get_deployment(request: HttpRequest, response: HttpResponse, name: str) -> dict[str, Any]:
    """One deployment: wanted, observed with its age, phases, failure, cost."""
    return _answer(response, find_deployment(name))


@operation(router, "PATCH", "/{name}", role="operator", answer=DeploymentDetail)
def edit_deployment(
    request: HttpRequest, response: HttpResponse, name: str, body: DeploymentChange, if_match: IfMatch = None
) -> dict[str, Any]:
    """Change engine, capacity or limits.

    An engine change makes a new revision and new replicas; capacity and limits apply in place. When somebody
    else has changed the deployment since `expected_version`, the answer is 409 with what stands now.
    """
    version = expected_version(header=if_match, body=body.expected_version)
    with _SectionNamed():
        deployment = actions.edit_deployment(
            actor=caller_of(request).actor,
            name=name,
            expected_version=version,
            engine=body.engine.given() if body.engine is not None else None,
            capacity=body.capacity.given() if body.capacity is not None else None,
            limits=body.limits.given() if body.limits is not None else None,
            model=body.model,
            note=body.note,
        )
    return _answer(response, deployment)


@operation(router, "DELETE", "/{name}", role="operator", answer=None, status=204)
def delete_deployment(request: HttpRequest, name: str) -> Status[None]:
    """Delete a deployment and free all it holds. Its events, requests and costs stay."""
    actions.delete_deployment(actor=caller_of(request).actor, name=name)
    return Status(204, None)


@operation(router, "POST", "/{name}/start", role="operator", answer=DeploymentDetail)
def start_deployment(request: HttpRequest, response: HttpResponse, name: str) -> dict[str, Any]:
    """Start a stopped deployment with its present revision; nothing happens when it runs."""
    return _answer(response, actions.start_deployment(actor=caller_of(request).actor, name=name))


@operation(router, "POST", "/{name}/stop", role="operator", answer=DeploymentDetail)
def stop_deployment(request: HttpRequest, response: HttpResponse, name: str) -> dict[str, Any]:
    """Stop a deployment and free its accelerators; callers get 503 with the reason."""
    return _answer(response, actions.stop_deployment(actor=caller_of(request).actor, name=name))


@operation(router, "POST", "/{name}/retry", role="operator", answer=DeploymentDetail)
def retry_deployment(request: HttpRequest, response: HttpResponse, name: str) -> dict[str, Any]:
    """Try a failed deployment again as it is."""
    return _answer(response, actions.retry_deployment(actor=caller_of(request).actor, name=name))


@operation(router, "POST", "/{name}/rollback", role="operator", answer=DeploymentDetail)
def roll_back(
    request: HttpRequest, response: HttpResponse, name: str, body: RollbackInput, if_match: IfMatch = None
) -> dict[str, Any]:
    """Make an earlier revision's engine the present one, as a new revision; capacity stays."""
    given = if_match is not None or body.expected_version is not None
    version = expected_version(header=if_match, body=body.expected_version) if given else None
    deployment = actions.roll_back(
        actor=caller_of(request).actor, name=name, revision=body.revision, expected_version=version
    )
    return _answer(response, deployment)


def deployment_out(state: dict[str, Any]) -> dict[str, Any]:
    """A state of console/states.py as the API gives it."""
    return {**state, "capacity": {name: state[name] for name in SECTIONS["capacity"]}}


def _answer(response: HttpResponse, deployment: Deployment) -> dict[str, Any]:
    set_version(response, deployment.version)
    return _detail(deployment)


def _detail(deployment: Deployment) -> dict[str, Any]:
    """In JSON types only, so that it can be kept as an idempotent answer."""
    now = time.time()
    state = deployment_out(states.deployment_state(deployment, now))
    spent = costs.cost_so_far_usd(deployment, now)
    return DeploymentDetail.model_validate({**state, "cost_so_far_usd": spent}).model_dump(mode="json")


class _SectionNamed:
    """Puts `engine.`, `capacity.` or `limits.` before the field of a refusal that stands in it."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, _kind: object, error: BaseException | None, _traceback: object) -> None:
        if not isinstance(error, RaydeckError) or error.field is None:
            return
        first = error.field.split(".", 1)[0]
        section = next((name for name, fields in SECTIONS.items() if first in fields), None)
        if section is not None:
            error.field = f"{section}.{error.field}"
