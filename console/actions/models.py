"""Writes on the registry of models."""

from __future__ import annotations

import json
import re
from typing import Any

from django.db import IntegrityError, transaction
from django.db.models import F
from django.utils import timezone

from console import live, secrets
from console.events import Actor, last_writer, record
from console.models import Event, RegisteredModel, SourceKind
from serving.checkpoint import facts_of_config, inspect_folder
from serving.errors import Conflict, InUse, InvalidSpec
from serving.planner.tensors import to_json

NAME = re.compile(r"^[a-z0-9]([a-z0-9._-]{0,61}[a-z0-9])?$")
HUB_ID = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._-]{0,95}/[A-Za-z0-9][A-Za-z0-9._-]{0,95}$")
OBJECT_ADDRESS = re.compile(r"^(s3|gs)://[a-z0-9][a-z0-9._-]{1,61}[a-z0-9](/[^\s?#]*)?$")
HUB_REVISION = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._/-]{0,199}$")
EDITABLE = ("source_kind", "source", "hub_revision", "note")
READ = ("facts", "problems", "config", "tensors", "inspected_at")
"""What reading the files fills."""
STORED_CONFIG_LIMIT_CHARACTERS = 1_000_000


def register_model(
    *,
    actor: Actor,
    name: str,
    source_kind: str,
    source: str,
    hub_revision: str = "",
    hub_token: str | None = None,
    note: str = "",
    config: dict[str, Any] | None = None,
) -> RegisteredModel:
    """Register a model; a folder is read at once and what is wrong with it is kept beside its facts.

    `config`: the config.json of a model that lies elsewhere, so that it can be planned before it is fetched.
    """
    model = read_new_model(
        name=name,
        source_kind=source_kind,
        source=source,
        hub_revision=hub_revision,
        hub_token=hub_token,
        note=note,
        config=config,
    )
    return save_new_model(actor=actor, model=model)


def read_new_model(
    *,
    name: str,
    source_kind: str,
    source: str,
    hub_revision: str = "",
    hub_token: str | None = None,
    note: str = "",
    config: dict[str, Any] | None = None,
) -> RegisteredModel:
    """The model as it would be registered, its files read; nothing is stored. For callers that store it in a
    transaction of their own: a slow folder must not hold one open."""
    name = name.strip()
    if not NAME.match(name):
        raise InvalidSpec(
            "Use 1 to 63 lower-case letters, digits, dots, hyphens and underscores.", field="name"
        )
    if name == "new":
        raise InvalidSpec("“new” is an address of the console's own; choose another name.", field="name")
    values = _checked(source_kind=source_kind, source=source, hub_revision=hub_revision, note=note)
    model = RegisteredModel(name=name, **values)
    if hub_token:
        model.hub_token_encrypted = secrets.encrypt(_checked_token(source_kind, hub_token))
    _read(model, config)
    return model


def save_new_model(*, actor: Actor, model: RegisteredModel) -> RegisteredModel:
    """Store what `read_new_model` gave."""
    model.created_by = actor.user
    message = f"Model {model.name} registered from {model.source}"
    try:
        with transaction.atomic():
            model.save()
            _noted(actor, model, kind="model.registered", message=message)
    except IntegrityError:
        raise InvalidSpec(
            f"There already is a model called {model.name}; choose another name.", field="name"
        ) from None
    return model


def edit_model(
    *, actor: Actor, model: RegisteredModel, expected_version: int, **changed: Any
) -> RegisteredModel:
    """Change source, revision, note, token or config. `hub_token`: text replaces, "" clears, None leaves it.

    A `config` given earlier stays while the source does, unless a new one or an empty one comes.
    """
    token = changed.pop("hub_token", None)
    config = changed.pop("config", None)
    unknown = sorted(set(changed) - set(EDITABLE))
    if unknown:
        raise InvalidSpec(f"“{unknown[0]}” cannot be changed.", field=unknown[0])
    before = {name: getattr(model, name) for name in EDITABLE}
    values = _checked(**{**before, **changed})
    same_source = all(before[name] == values[name] for name in ("source_kind", "source", "hub_revision"))
    if config is None and same_source and values["source_kind"] != SourceKind.FOLDER:
        config = model.config
    for name, value in values.items():
        setattr(model, name, value)
    if token is not None:
        model.hub_token_encrypted = secrets.encrypt(_checked_token(model.source_kind, token)) if token else ""
    if model.source_kind != SourceKind.HUB:
        model.hub_token_encrypted = ""
    _read(model, config)
    columns = (*EDITABLE, "hub_token_encrypted", *READ)
    with transaction.atomic():
        written = RegisteredModel.objects.filter(pk=model.pk, version=expected_version).update(
            version=F("version") + 1,
            updated_at=timezone.now(),
            **{name: getattr(model, name) for name in columns},
        )
        if not written:
            raise _conflict(model.pk)
        after = {name: getattr(model, name) for name in EDITABLE}
        _noted(
            actor,
            model,
            kind="model.edited",
            message=f"Model {model.name} edited",
            before=before,
            after=after,
        )
    model.refresh_from_db()
    return model


def inspect_model(*, actor: Actor, model: RegisteredModel) -> RegisteredModel:
    """Read a folder again; a hub id or an object-store address stays unread until it is deployed.

    Raises Conflict where the model was edited meanwhile: what was read may be another folder's.
    """
    _read(model, model.config if model.source_kind != SourceKind.FOLDER else None)
    with transaction.atomic():
        written = RegisteredModel.objects.filter(pk=model.pk, version=model.version).update(
            **{name: getattr(model, name) for name in READ}
        )
        if not written:
            raise _conflict(model.pk)
        _noted(actor, model, kind="model.inspected", message=f"Model {model.name} read again")
    return model


def delete_model(*, actor: Actor, model: RegisteredModel) -> None:
    """Forget a model; its files are left alone. Refused while a deployment uses it."""
    with transaction.atomic():
        users = list(model.deployments.values_list("name", flat=True)[:5])
        if users:
            raise InUse(f"{model.name} is used by {', '.join(users)}; delete or edit that first.")
        name = model.name
        model.delete()
        record(
            actor=actor,
            kind="model.deleted",
            message=f"Model {name} removed from the registry",
            subject_kind="model",
            subject_name=name,
        )
        live.publish_changed(["models"], "models")


def _checked(*, source_kind: str, source: str, hub_revision: str, note: str) -> dict[str, str]:
    source, hub_revision, note = source.strip(), hub_revision.strip(), note.strip()
    if source_kind not in SourceKind.values:
        raise InvalidSpec(f"Choose one of {', '.join(SourceKind.values)}.", field="source_kind")
    if len(source) > 1000 or "\x00" in source:
        raise InvalidSpec("The source is longer than 1,000 characters or not text.", field="source")
    if source_kind == SourceKind.FOLDER and not source.startswith("/"):
        raise InvalidSpec("Give the folder's full path, beginning with /.", field="source")
    if source_kind == SourceKind.HUB and not HUB_ID.match(source):
        raise InvalidSpec("A hub id looks like organisation/model.", field="source")
    if source_kind == SourceKind.OBJECT_STORE and not OBJECT_ADDRESS.match(source):
        raise InvalidSpec(
            "An object-store address looks like s3://bucket/path or gs://bucket/path.", field="source"
        )
    if hub_revision and source_kind != SourceKind.HUB:
        raise InvalidSpec("Only a hub model has a revision.", field="hub_revision")
    if hub_revision and not HUB_REVISION.match(hub_revision):
        raise InvalidSpec("A revision is a branch, a tag or a commit.", field="hub_revision")
    if len(note) > 500:
        raise InvalidSpec("Keep the note under 500 characters.", field="note")
    return {"source_kind": source_kind, "source": source, "hub_revision": hub_revision, "note": note}


def _checked_token(source_kind: str, token: str) -> str:
    token = token.strip()
    if source_kind != SourceKind.HUB:
        raise InvalidSpec("Only a hub model takes a token.", field="hub_token")
    if not 8 <= len(token) <= 500 or not token.isprintable() or " " in token:
        raise InvalidSpec("That does not look like a hub token.", field="hub_token")
    return token


def _read(model: RegisteredModel, config: dict[str, Any] | None = None) -> None:
    if model.source_kind == SourceKind.FOLDER:
        if config:
            raise InvalidSpec("A folder's config.json is read from the folder itself.", field="config")
        inspection = inspect_folder(model.source)
        model.facts, model.problems = inspection.facts, inspection.problems
        model.config, model.tensors = _storable(inspection.config), to_json(inspection.tensors)
        model.inspected_at = timezone.now()
        return
    model.facts, model.problems, model.inspected_at = {}, [], None
    model.config, model.tensors = None, None
    if config:
        model.config = _storable(config)
        if model.config is None:
            raise InvalidSpec("This config.json is too large or holds what is no text.", field="config")
        model.facts, model.problems = facts_of_config(config)


def _storable(config: dict[str, Any] | None) -> dict[str, Any] | None:
    """The config as a database can hold it: no NUL and no half of a surrogate pair, which JSON allows."""
    if config is None:
        return None
    try:
        text = json.dumps(config, ensure_ascii=False, allow_nan=False)
        text.encode()
    except (ValueError, RecursionError):
        return None
    if len(text) > STORED_CONFIG_LIMIT_CHARACTERS or "\\u0000" in text:
        return None
    return config


def _conflict(pk: int) -> Conflict:
    now = RegisteredModel.objects.filter(pk=pk).first()
    if now is None:
        return Conflict("Somebody deleted this model in the meantime.", current={})
    # Reading the files again writes no version.
    events = Event.objects.filter(subject_kind="model", subject_name=now.name)
    writer = last_writer(events.exclude(kind="model.inspected"))
    return Conflict(
        f"{writer or 'Somebody'} changed {now.name} while you were editing; nothing of yours was saved.",
        current={
            "version": now.version,
            "changed_by": writer,
            "changed_at": now.updated_at.isoformat(),
            "values": {name: getattr(now, name) for name in EDITABLE},
        },
    )


def _noted(
    actor: Actor, model: RegisteredModel, *, kind: str, message: str, before: Any = None, after: Any = None
) -> None:
    record(
        actor=actor,
        kind=kind,
        message=message,
        subject_kind="model",
        subject_name=model.name,
        before=before,
        after=after,
    )
    live.publish_changed(["models"], "models")
