"""/models: the registry."""

from __future__ import annotations

from typing import Any

from django.http import HttpRequest, HttpResponse
from ninja import Router
from ninja.responses import Status

from console import actions
from console.api.errors import not_found
from console.api.inputs import AdapterInput, ModelChange, ModelInput
from console.api.outputs import AdapterOut, ModelOut, Page
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
from console.models import RegisteredModel

router = Router(tags=["models"])


@operation(router, "GET", "", role="viewer", answer=Page[ModelOut])
def list_models(request: HttpRequest, limit: Limit = 50, offset: Offset = 0) -> dict[str, Any]:
    """All registered models in order of name."""
    rows = RegisteredModel.objects.order_by("name")
    return {
        "items": [model_out(row) for row in rows[offset : offset + limit]],
        "total": rows.count(),
        "limit": limit,
        "offset": offset,
    }


@operation(router, "POST", "", role="operator", answer=ModelOut, status=201)
def register_model(
    request: HttpRequest, response: HttpResponse, body: ModelInput, idempotency_key: IdempotencyKey = None
) -> Status[dict[str, Any]]:
    """Register a model.

    A folder is read at once: config.json and the headers of its weights. What is wrong with it stands in
    `problems`; a model with errors is registered all the same, so that they can be looked at.
    """
    caller = caller_of(request)
    model = actions.read_new_model(**body.model_dump())

    def create() -> tuple[int, dict[str, Any]]:
        return 201, model_out(actions.save_new_model(actor=caller.actor, model=model))

    answer = create_once(
        user=caller.user,
        key=idempotency_key,
        method_and_path=method_and_path(request),
        request=body.model_dump(),
        create=create,
    )
    response["Idempotent-Replayed"] = str(answer.replayed).lower()
    return Status(answer.status, answer.body)


@operation(router, "GET", "/{name}", role="viewer", answer=ModelOut)
def get_model(request: HttpRequest, response: HttpResponse, name: str) -> dict[str, Any]:
    """One model with its facts and problems."""
    model = find_model(name)
    set_version(response, model.version)
    return model_out(model)


@operation(router, "PATCH", "/{name}", role="operator", answer=ModelOut)
def edit_model(
    request: HttpRequest, response: HttpResponse, name: str, body: ModelChange, if_match: IfMatch = None
) -> dict[str, Any]:
    """Change source, revision, token or note.

    Deployments that run go on with what they have; the change counts from their next revision on.
    """
    version = expected_version(header=if_match, body=body.expected_version)
    given = body.model_dump(exclude_unset=True, exclude={"expected_version"})
    changed = {key: value for key, value in given.items() if value is not None}
    model = actions.edit_model(
        actor=caller_of(request).actor, model=find_model(name), expected_version=version, **changed
    )
    set_version(response, model.version)
    return model_out(model)


@operation(router, "DELETE", "/{name}", role="operator", answer=None, status=204)
def delete_model(request: HttpRequest, name: str) -> Status[None]:
    """Forget a model; its files are left alone. Refused while a deployment uses it."""
    actions.delete_model(actor=caller_of(request).actor, model=find_model(name))
    return Status(204, None)


@operation(router, "POST", "/{name}/inspect", role="operator", answer=ModelOut)
def inspect_model(request: HttpRequest, response: HttpResponse, name: str) -> dict[str, Any]:
    """Read a folder again."""
    model = actions.inspect_model(actor=caller_of(request).actor, model=find_model(name))
    set_version(response, model.version)
    return model_out(model)


@operation(router, "GET", "/{name}/adapters", role="viewer", answer=Page[AdapterOut])
def list_adapters(request: HttpRequest, name: str, limit: Limit = 50, offset: Offset = 0) -> dict[str, Any]:
    """The LoRA adapters of a model in order of name."""
    rows = find_model(name).adapters.all()
    return {
        "items": list(rows[offset : offset + limit]),
        "total": rows.count(),
        "limit": limit,
        "offset": offset,
    }


@operation(router, "POST", "/{name}/adapters", role="operator", answer=AdapterOut, status=201)
def register_adapter(
    request: HttpRequest,
    response: HttpResponse,
    name: str,
    body: AdapterInput,
    idempotency_key: IdempotencyKey = None,
) -> Status[dict[str, Any]]:
    """Register a LoRA adapter of a model.

    Its folder is read at once; what is wrong with it or does not go with the model stands in `problems`.
    Deployments load it from their next revision on (`engine.load_adapters`).
    """
    caller = caller_of(request)
    adapter = actions.read_new_adapter(model=find_model(name), **body.model_dump())

    def create() -> tuple[int, dict[str, Any]]:
        saved = actions.save_new_adapter(actor=caller.actor, adapter=adapter)
        return 201, AdapterOut.model_validate(saved, from_attributes=True).model_dump(mode="json")

    answer = create_once(
        user=caller.user,
        key=idempotency_key,
        method_and_path=method_and_path(request),
        request=body.model_dump(),
        create=create,
    )
    response["Idempotent-Replayed"] = str(answer.replayed).lower()
    return Status(answer.status, answer.body)


@operation(router, "DELETE", "/{name}/adapters/{adapter}", role="operator", answer=None, status=204)
def delete_adapter(request: HttpRequest, name: str, adapter: str) -> Status[None]:
    """Forget an adapter; its files are left alone. Refused while a deployment loads it."""
    actions.delete_adapter(actor=caller_of(request).actor, model=find_model(name), name=adapter)
    return Status(204, None)


def find_model(name: str) -> RegisteredModel:
    """The model called so; a 404 in the API's form otherwise."""
    model = RegisteredModel.objects.filter(name=name).first()
    if model is None:
        raise not_found(f"There is no model called {name[:80]}.")
    return model


def model_out(model: RegisteredModel) -> dict[str, Any]:
    """A row as the API gives it, in JSON types only, so that it can be kept as an idempotent answer."""
    return ModelOut.model_validate(model, from_attributes=True).model_dump(mode="json")
