"""Writes on the LoRA adapters of registered models."""

from __future__ import annotations

import re
from typing import Any

from django.db import IntegrityError, transaction

from console import live
from console.events import Actor, record
from console.models import Deployment, ModelAdapter, RegisteredModel
from serving.adapter import inspect_adapter
from serving.errors import InUse, InvalidSpec, NotFound
from serving.spec import NAME_HELP, NAME_PATTERN

MOST_ADAPTERS = 64


def register_adapter(*, actor: Actor, model: RegisteredModel, name: str, source: str) -> ModelAdapter:
    """Register an adapter of a model; its folder is read at once, what is wrong is kept beside its facts."""
    return save_new_adapter(actor=actor, adapter=read_new_adapter(model=model, name=name, source=source))


def read_new_adapter(*, model: RegisteredModel, name: str, source: str) -> ModelAdapter:
    """The adapter as it would be registered, its files read; nothing is stored. For callers that store it in
    a transaction of their own: a slow folder must not hold one open."""
    name, source = name.strip(), source.strip()
    if not re.match(NAME_PATTERN, name):
        raise InvalidSpec(f"Use {NAME_HELP}.", field="name")
    if not source.startswith("/") or len(source) > 1000 or "\x00" in source:
        raise InvalidSpec("Give the folder's full path, beginning with /.", field="source")
    if model.adapters.count() >= MOST_ADAPTERS:
        raise InvalidSpec(f"No more than {MOST_ADAPTERS} adapters belong to one model.", field="name")
    found = inspect_adapter(source, base=model.facts or {})
    return ModelAdapter(model=model, name=name, source=source, facts=found.facts, problems=found.problems)


def save_new_adapter(*, actor: Actor, adapter: ModelAdapter) -> ModelAdapter:
    """Store what `read_new_adapter` gave."""
    adapter.created_by = actor.user
    try:
        with transaction.atomic():
            adapter.save()
            _noted(actor, adapter, kind="adapter.registered", message=f"Adapter {adapter} registered")
    except IntegrityError:
        message = f"{adapter.model.name} already has an adapter called {adapter.name}."
        raise InvalidSpec(message, field="name") from None
    return adapter


def delete_adapter(*, actor: Actor, model: RegisteredModel, name: str) -> None:
    """Forget an adapter; its files are left alone. Refused while a deployment loads it."""
    adapter = find_adapter(model, name)
    with transaction.atomic():
        users = [row.name for row in _deployments_of(model) if name in _loaded(row)]
        if users:
            raise InUse(f"{adapter} is loaded by {', '.join(users[:5])}; edit or delete that first.")
        ModelAdapter.objects.filter(pk=adapter.pk).delete()
        _noted(actor, adapter, kind="adapter.deleted", message=f"Adapter {adapter} removed from the registry")


def find_adapter(model: RegisteredModel, name: str) -> ModelAdapter:
    """The adapter of that name; raises NotFound."""
    adapter = model.adapters.filter(name=name).first()
    if adapter is None:
        raise NotFound(f"{model.name} has no adapter called {name[:60]}.", field="name")
    return adapter


def adapters_to_load(model: RegisteredModel) -> dict[str, dict[str, Any]]:
    """All adapters of a model as an engine definition keeps them. Raises InvalidSpec naming one that cannot
    be served, or when there is none."""
    found = list(model.adapters.all())
    if not found:
        raise InvalidSpec(f"{model.name} has no adapters; register them first.", field="load_adapters")
    for adapter in found:
        wrong = next((one for one in adapter.problems if one.get("level") == "error"), None)
        if wrong is not None:
            message = f"The adapter {adapter.name} cannot be served: {wrong['message']}"
            raise InvalidSpec(message, field="load_adapters")
    return {adapter.name: {"source": adapter.source, "rank": adapter.facts["rank"]} for adapter in found}


def _deployments_of(model: RegisteredModel) -> list[Deployment]:
    return list(model.deployments.select_related("current_revision"))


def _loaded(deployment: Deployment) -> dict[str, Any]:
    revision = deployment.current_revision
    return dict((revision.engine if revision else {}).get("adapters") or {})


def _noted(actor: Actor, adapter: ModelAdapter, *, kind: str, message: str) -> None:
    record(
        actor=actor,
        kind=kind,
        message=message,
        subject_kind="model",
        subject_name=adapter.model.name,
        after={"name": adapter.name, "source": adapter.source},
    )
    live.publish_changed(["models"], "models")
