"""Writes on deployments: create, edit, roll back, stop, start, retry, delete."""

from __future__ import annotations

import re
import time
from typing import Any, TypeVar

from django.db import IntegrityError, transaction
from django.db.models import F
from django.utils import timezone
from pydantic import BaseModel, ValidationError

from console import live
from console.accelerators import day_of, price_of
from console.actions.adapters import adapters_to_load
from console.aliases import check_behind_no_alias, check_no_alias
from console.differences import words
from console.events import Actor, last_writer, record
from console.models import (
    Deployment,
    DeploymentStatus,
    DesiredState,
    MinReplicasChange,
    PriceChange,
    RegisteredModel,
    Revision,
)
from console.placements import check_against_cluster
from console.planning import check_plan, plan_engine
from console.wakeup import wake_reconciler
from serving.engine_support import unknown_argument
from serving.errors import Conflict, InvalidSpec, NotFound
from serving.limits import DeploymentLimits
from serving.planner.report import read_stored, stored
from serving.planner.result import Plan
from serving.render import FALLBACK_CONTEXT_TOKENS, cpu_kv_cache_bytes
from serving.spec import NAME_HELP, NAME_PATTERN, CapacitySpec, EngineSpec
from serving.topology import check_topology

Spec = TypeVar("Spec", bound=BaseModel)
PRICE = "price_per_accelerator_hour_usd"
NOT_GIVEN = ("model", "model_source", "hub_revision", "kv_cache_is_automatic", "load_adapters")
"""Fields of an engine that follow from others."""
CAPACITY_FIELDS = tuple(CapacitySpec.model_fields)
COLOURS = 6
RESERVED_NAMES = ("new", "parts")
"""/deployments/new/ and its like are pages."""


def create_deployment(
    *,
    actor: Actor,
    name: str,
    model: str,
    engine: dict[str, Any],
    capacity: dict[str, Any],
    limits: dict[str, Any] | None = None,
    note: str = "",
    accept_faulty_files: bool = False,
) -> Deployment:
    """Create a deployment with revision 1. Refused with the arithmetic when the cluster cannot hold it, and
    with the registry's reason when it found the model's files faulty and that is not accepted."""
    name = checked_name(name)
    registered = _model(model)
    if not accept_faulty_files:
        check_files(registered)
    engine_spec = make_engine(registered, engine)
    capacity_spec = make_capacity(with_catalogue_price(capacity, engine_spec))
    stored_limits = validated(DeploymentLimits, limits or {}).stored()
    if Deployment.objects.filter(name=name).exists():
        raise name_taken(name)
    check_no_alias(name)
    plan = checked_plan(engine_spec, registered, capacity_spec)
    check_against_cluster(name=name, engine=engine_spec, capacity=capacity_spec, plan=plan)
    now = time.time()
    try:
        with transaction.atomic():
            deployment = Deployment.objects.create(
                name=name,
                model=registered,
                requested_at=now,
                colour=Deployment.objects.count() % COLOURS + 1,
                created_by=actor.user,
                limits=stored_limits,
                **capacity_spec.model_dump(),
            )
            check_no_alias(name)
            DeploymentStatus.objects.create(deployment=deployment)
            _price_from_now(deployment, now)
            _min_replicas_from_now(deployment, now)
            _add_revision(actor, deployment, engine_spec, plan=_stored(plan), note=note or "First revision")
            _noted(
                actor,
                deployment,
                kind="deployment.created",
                message=f"{name} created with {registered.name}",
                after={
                    "engine": _engine_json(engine_spec),
                    "capacity": _capacity_json(capacity_spec),
                    **({"limits": stored_limits} if stored_limits else {}),
                },
            )
    except IntegrityError:
        raise name_taken(name) from None
    return deployment


def edit_deployment(
    *,
    actor: Actor,
    name: str,
    expected_version: int,
    engine: dict[str, Any] | None = None,
    capacity: dict[str, Any] | None = None,
    limits: dict[str, Any] | None = None,
    model: str | None = None,
    note: str = "",
    accept_faulty_files: bool = False,
) -> Deployment:
    """Change engine (a new revision, new replicas), capacity and limits (in place); partial maps are enough.

    Raises Conflict when the deployment's version is not the expected one: nothing is changed then.
    """
    deployment = find_deployment(name)
    if deployment.version != expected_version:
        raise _conflict(deployment)
    old_engine, old_capacity = engine_of(deployment), capacity_of(deployment)
    new_engine, registered = _edited_engine(deployment, old_engine, engine, model)
    new_capacity = edited_capacity(old_capacity, capacity or {}, old_engine.accelerator_type, new_engine)
    new_limits = validated(DeploymentLimits, {**deployment.limits, **(limits or {})}).stored()
    is_new_engine = _differs(new_engine, old_engine)
    if not is_new_engine and (new_capacity, new_limits) == (old_capacity, deployment.limits):
        if note:
            raise InvalidSpec("A note goes with a change, and nothing else was changed.", field="note")
        return deployment
    if is_new_engine and not accept_faulty_files:
        check_files(registered)
    plan = checked_plan(new_engine, registered, new_capacity) if is_new_engine else plan_of(deployment)
    # Limits claim nothing: they can be set however full the cluster is.
    if deployment.desired_state == DesiredState.RUNNING and (is_new_engine or new_capacity != old_capacity):
        check_against_cluster(name=name, engine=new_engine, capacity=new_capacity, plan=plan)
    old_limits = dict(deployment.limits)
    with transaction.atomic():
        _claim_version(
            deployment, expected_version, model=registered, limits=new_limits, **new_capacity.model_dump()
        )
        _note_capacity(actor, deployment, old_capacity, new_capacity, note)
        if new_limits != old_limits:
            _noted(
                actor,
                deployment,
                kind="deployment.limits",
                message=_with_note(words(old_limits, new_limits), note),
                before=old_limits,
                after=new_limits,
            )
        if is_new_engine:
            _note_new_engine(actor, deployment, old_engine, new_engine, plan=_stored(plan), note=note)
    return deployment


def _note_new_engine(
    actor: Actor,
    deployment: Deployment,
    old: EngineSpec,
    new: EngineSpec,
    *,
    plan: dict[str, Any] | None,
    note: str,
) -> None:
    revision = _add_revision(
        actor, deployment, new, plan=plan, note=note or words(_engine_json(old), _engine_json(new))
    )
    _new_generation(deployment)
    _noted(
        actor,
        deployment,
        kind="deployment.revision",
        message=f"Revision {revision.number}: {revision.note}",
        before=_engine_json(old),
        after=_engine_json(new),
    )


def roll_back(*, actor: Actor, name: str, revision: int, expected_version: int | None = None) -> Deployment:
    """Make an earlier revision's engine the present one, as a new revision; capacity stays as it is."""
    deployment = find_deployment(name)
    version = deployment.version if expected_version is None else expected_version
    if deployment.version != version:
        raise _conflict(deployment)
    earlier, engine, registered = _earlier(deployment, revision)
    old = engine_of(deployment)
    old_capacity = capacity_of(deployment)
    capacity = edited_capacity(old_capacity, {}, old.accelerator_type, engine)
    plan, kept = _plan_again(engine, registered, capacity, earlier)
    if deployment.desired_state == DesiredState.RUNNING:
        check_against_cluster(name=name, engine=engine, capacity=capacity, plan=plan)
    with transaction.atomic():
        _claim_version(deployment, version, model=registered, **capacity.model_dump())
        _note_capacity(actor, deployment, old_capacity, capacity, "")
        added = _add_revision(
            actor,
            deployment,
            engine,
            plan=kept,
            note=f"Roll back to revision {revision}",
            rolled_back_from=revision,
        )
        _new_generation(deployment)
        _noted(
            actor,
            deployment,
            kind="deployment.rolled_back",
            message=f"Rolled back to revision {revision} as revision {added.number}",
            before=_engine_json(old),
            after=_engine_json(engine),
        )
    return deployment


def stop_deployment(*, actor: Actor, name: str) -> Deployment:
    """Free everything it holds and keep its definition; callers get 503 with the reason."""
    return _set_state(actor, name, DesiredState.STOPPED, kind="deployment.stopped", message=f"{name} stopped")


def start_deployment(*, actor: Actor, name: str) -> Deployment:
    """Start a stopped deployment again with its present revision."""
    return _set_state(actor, name, DesiredState.RUNNING, kind="deployment.started", message=f"{name} started")


def retry_deployment(*, actor: Actor, name: str) -> Deployment:
    """Try a failed deployment again as it is."""
    deployment = find_deployment(name)
    status = DeploymentStatus.objects.filter(deployment=deployment).first()
    failed = (
        status is not None and status.failed_at is not None and status.generation == deployment.generation
    )
    if not failed:
        raise InvalidSpec(f"{name} has not failed, so there is nothing to try again.")
    _check_start(deployment)
    with transaction.atomic():
        _claim_version(deployment, deployment.version, desired_state=DesiredState.RUNNING)
        _take_new_token(actor, deployment)
        _new_generation(deployment)
        _noted(actor, deployment, kind="deployment.retried", message=f"{name} is tried again")
    return deployment


def delete_deployment(*, actor: Actor, name: str, typed_name: str | None = None) -> None:
    """Delete it and free all it holds. `typed_name`, where a person deletes, must repeat the name."""
    deployment = find_deployment(name)
    if typed_name is not None and typed_name.strip() != name:
        raise InvalidSpec(f"Type {name} to confirm; it was not deleted.", field="typed_name")
    with transaction.atomic():
        check_behind_no_alias(deployment)
        # As stored, not validated: what an older version wrote must be deletable too.
        engine = deployment.current_revision.engine if deployment.current_revision else None
        last = {
            "engine": engine,
            "capacity": _capacity_json(capacity_of(deployment)),
            "limits": deployment.limits,
        }
        Deployment.objects.filter(pk=deployment.pk).update(current_revision=None)
        Deployment.objects.filter(pk=deployment.pk).delete()
        record(
            actor=actor,
            kind="deployment.deleted",
            message=f"{name} deleted",
            subject_kind="deployment",
            subject_name=name,
            before=last,
        )
        live.publish_changed(["overview", "deployments", f"deployment:{name}"], "status")
        wake_reconciler()


def find_deployment(name: str) -> Deployment:
    """The deployment with its model and revision; raises NotFound."""
    deployment = Deployment.objects.select_related("model", "current_revision").filter(name=name).first()
    if deployment is None:
        raise NotFound(f"There is no deployment called {name}.", field="name")
    return deployment


def engine_of(deployment: Deployment) -> EngineSpec:
    """The engine of the current revision."""
    if deployment.current_revision is None:
        raise NotFound(f"{deployment.name} has no revision.")
    return EngineSpec(**deployment.current_revision.engine)


def capacity_of(deployment: Deployment) -> CapacitySpec:
    """The capacity columns as one value."""
    return CapacitySpec(**{name: getattr(deployment, name) for name in CAPACITY_FIELDS})


def make_engine(registered: RegisteredModel, given: dict[str, Any]) -> EngineSpec:
    """An EngineSpec from a form's or the API's map; defaults come from the model's facts.

    `load_adapters`: true takes all adapters the model has now, false none; null leaves what `adapters` says.
    """
    values = {key: value for key, value in given.items() if key not in NOT_GIVEN}
    if given.get("load_adapters") is not None:
        values["adapters"] = adapters_to_load(registered) if given["load_adapters"] else {}
    facts = registered.facts or {}
    if values.get("max_model_len") in (None, ""):
        values["max_model_len"] = facts.get("max_context_tokens") or FALLBACK_CONTEXT_TOKENS
    if values.get("accelerator_type") in ("", "cpu", "CPU"):
        values["accelerator_type"] = None
    engine = validated(
        EngineSpec,
        {
            **values,
            "model": registered.name,
            "model_source": registered.source,
            "hub_revision": registered.hub_revision or None,
        },
    )
    if engine.accelerator_type is None and engine.kv_cache_memory_bytes is None:
        kv = cpu_kv_cache_bytes(
            kv_bytes_per_token=facts.get("kv_bytes_per_token"), max_model_len=engine.max_model_len
        )
        engine = engine.model_copy(update={"kv_cache_memory_bytes": kv, "kv_cache_is_automatic": True})
    check_topology(engine, facts)
    # Not a rule of the specification: revisions that are stored already must stay readable.
    if unknown := unknown_argument(engine.engine_kwargs):
        raise InvalidSpec(unknown, field="engine_kwargs")
    return engine


def check_files(registered: RegisteredModel) -> None:
    """Raise InvalidSpec when the registry found a fault in the model's files: three starts would fail of it,
    minutes later."""
    faults = [problem["message"] for problem in registered.problems if problem.get("level") == "error"]
    if not faults:
        return
    more = f" ({len(faults) - 1} more on the model's page.)" if len(faults) > 1 else ""
    raise InvalidSpec(
        f"{registered.name} cannot be served as it is: {faults[0]}{more} Mend the files and read them again, "
        "or deploy all the same (accept_faulty_files).",
        field="model",
    )


def make_capacity(given: dict[str, Any]) -> CapacitySpec:
    """A CapacitySpec from a map; raises InvalidSpec with the field."""
    return validated(CapacitySpec, given)


def validated(kind: type[Spec], values: dict[str, Any]) -> Spec:
    """A specification from a map; raises InvalidSpec with the field and words for people."""
    try:
        return kind(**values)
    except ValidationError as error:
        first = error.errors()[0]
        message = str(first["msg"]).removeprefix("Value error, ")
        # Rules over several fields carry no location; their message begins with the field they are about.
        field = ".".join(str(part) for part in first["loc"]) or message.split(" ", 1)[0]
        if message.split(" ", 1)[0] not in kind.model_fields:
            message = message[0].upper() + message[1:]
        raise InvalidSpec(f"{message}.".replace("..", "."), field=field) from None
    except TypeError as error:
        raise InvalidSpec(str(error)) from None


def checked_plan(engine: EngineSpec, registered: RegisteredModel, capacity: CapacitySpec) -> Plan | None:
    """The plan that goes with a revision. Raises what the engine would refuse, before it is started."""
    plan = plan_engine(
        engine, registered, usd_per_accelerator_hour=capacity.price_per_accelerator_hour_usd or None
    )
    check_plan(plan, engine)
    return plan


def plan_of(deployment: Deployment) -> Plan | None:
    """The plan that its present revision was made with; None where there is none."""
    return read_stored(deployment.current_revision.plan) if deployment.current_revision else None


def edited_capacity(
    old: CapacitySpec, given: dict[str, Any], old_type: str | None, new_engine: EngineSpec
) -> CapacitySpec:
    """The capacity after a change. A price belongs to its accelerator: with another type the catalogue's
    price of the day holds, unless one is given; also where it is given as None."""
    values = {**old.model_dump(), **given}
    is_other_type = old_type != new_engine.accelerator_type
    if given.get(PRICE) is None and (PRICE in given or is_other_type):
        del values[PRICE]
        values = with_catalogue_price(values, new_engine)
    return make_capacity(values)


def with_catalogue_price(capacity: dict[str, Any], engine: EngineSpec) -> dict[str, Any]:
    """The catalogue's price of the day where none was given."""
    if capacity.get("price_per_accelerator_hour_usd") is not None or engine.accelerator_type is None:
        return capacity
    price = price_of(engine.accelerator_type, day_of(time.time()))
    return capacity if price is None else {**capacity, "price_per_accelerator_hour_usd": price.usd_per_hour}


def _edited_engine(
    deployment: Deployment, old: EngineSpec, changes: dict[str, Any] | None, model: str | None
) -> tuple[EngineSpec, RegisteredModel]:
    registered = deployment.model if model in (None, deployment.model.name) else _model(str(model))
    if changes is None and registered == deployment.model:
        return old, registered
    kept = old.model_dump()
    if _has_automatic_cache(deployment, old):
        del kept["kv_cache_memory_bytes"]
    given = {**kept, **(changes or {})}
    if registered != deployment.model and old.adapters:
        given.setdefault("load_adapters", True)  # those of another model would not fit
    return make_engine(registered, given), registered


def _has_automatic_cache(deployment: Deployment, engine: EngineSpec) -> bool:
    """Whether the KV cache was sized by the console, so that it follows the context and the hardware.

    Revisions from before this was kept tell by the number: it is what would be computed for them.
    """
    revision = deployment.current_revision
    if revision is None or "kv_cache_is_automatic" in revision.engine or engine.accelerator_type is not None:
        return engine.kv_cache_is_automatic
    computed = cpu_kv_cache_bytes(
        kv_bytes_per_token=(deployment.model.facts or {}).get("kv_bytes_per_token"),
        max_model_len=engine.max_model_len,
    )
    return engine.kv_cache_memory_bytes == computed


def _differs(one: EngineSpec, other: EngineSpec) -> bool:
    """Whether replicas would differ. Who sized the KV cache makes no difference to them."""
    return one.model_copy(update={"kv_cache_is_automatic": other.kv_cache_is_automatic}) != other


def _earlier(deployment: Deployment, number: int) -> tuple[Revision, EngineSpec, RegisteredModel]:
    """The revision to return to, its engine and its model; raises where there is no way back."""
    earlier = deployment.revisions.filter(number=number).first()
    if earlier is None:
        raise NotFound(f"{deployment.name} has no revision {number}.", field="revision")
    engine = EngineSpec(**earlier.engine)
    if not _differs(engine, engine_of(deployment)):
        raise InvalidSpec(f"Revision {number} is what {deployment.name} already has.", field="revision")
    registered = RegisteredModel.objects.filter(name=engine.model).first()
    if registered is None:
        raise InvalidSpec(
            f"Revision {number} used the model {engine.model}, which is not registered any more.",
            field="revision",
        )
    return earlier, engine, registered


def _plan_again(
    engine: EngineSpec, registered: RegisteredModel, capacity: CapacitySpec, earlier: Revision
) -> tuple[Plan | None, dict[str, Any] | None]:
    """The plan of an earlier revision and what the new one keeps of it.

    Where the revision's files are not the model's present ones, those say nothing about it: then the plan
    holds that was made from its own files.
    """
    present = (registered.source, registered.hub_revision or None)
    if (engine.model_source, engine.hub_revision) != present:
        kept = read_stored(earlier.plan)
        check_plan(kept, engine)
        return kept, earlier.plan
    check_topology(engine, registered.facts)
    plan = checked_plan(engine, registered, capacity)
    return plan, _stored(plan)


def _check_start(deployment: Deployment) -> None:
    """Raise what keeps the present revision from starting, by the plan it was made with."""
    engine, plan = engine_of(deployment), plan_of(deployment)
    check_plan(plan, engine)
    check_against_cluster(name=deployment.name, engine=engine, capacity=capacity_of(deployment), plan=plan)


def _stored(plan: Plan | None) -> dict[str, Any] | None:
    return None if plan is None else stored(plan)


def _set_state(actor: Actor, name: str, state: DesiredState, *, kind: str, message: str) -> Deployment:
    deployment = find_deployment(name)
    if deployment.desired_state == state:
        return deployment
    if state == DesiredState.RUNNING:
        _check_start(deployment)
    with transaction.atomic():
        _claim_version(deployment, deployment.version, desired_state=state)
        if state == DesiredState.RUNNING:
            _take_new_token(actor, deployment)
        _new_generation(deployment)
        _noted(actor, deployment, kind=kind, message=message)
    return deployment


def checked_name(name: str) -> str:
    """The name without blanks around it; raises InvalidSpec where it cannot be a deployment's."""
    name = name.strip()
    if not re.match(NAME_PATTERN, name):
        raise InvalidSpec(f"Use {NAME_HELP}.", field="name")
    if name in RESERVED_NAMES:
        raise InvalidSpec(f"“{name}” is an address of the console's own; choose another name.", field="name")
    return name


def _model(name: str) -> RegisteredModel:
    model = RegisteredModel.objects.filter(name=name).first()
    if model is None:
        raise InvalidSpec(f"There is no model called {name or '(none)'}; register it first.", field="model")
    return model


def name_taken(name: str) -> InvalidSpec:
    """What is said of a name that another deployment has."""
    return InvalidSpec(f"There already is a deployment called {name}; choose another name.", field="name")


def _add_revision(
    actor: Actor,
    deployment: Deployment,
    engine: EngineSpec,
    *,
    plan: dict[str, Any] | None,
    note: str,
    rolled_back_from: int | None = None,
) -> Revision:
    newest = deployment.revisions.order_by("-number").values_list("number", flat=True).first() or 0
    revision = Revision.objects.create(
        deployment=deployment,
        number=newest + 1,
        engine=_engine_json(engine),
        plan=plan,
        hub_token_encrypted=deployment.model.hub_token_encrypted,
        note=note[:300],
        rolled_back_from=rolled_back_from,
        author=actor.user,
        author_name=actor.name,
    )
    Deployment.objects.filter(pk=deployment.pk).update(current_revision=revision)
    deployment.current_revision = revision
    return revision


def _take_new_token(actor: Actor, deployment: Deployment) -> None:
    """A start with another hub token than the last is another revision: running ones keep what they have."""
    revision = deployment.current_revision
    if revision is not None and revision.hub_token_encrypted != deployment.model.hub_token_encrypted:
        _add_revision(
            actor,
            deployment,
            engine_of(deployment),
            plan=revision.plan,
            note="The model's hub token was changed",
        )


def _claim_version(deployment: Deployment, expected: int, **values: Any) -> None:
    """Write guarded by the version: of two operators exactly one gets through."""
    written = Deployment.objects.filter(pk=deployment.pk, version=expected).update(
        version=F("version") + 1, updated_at=timezone.now(), **values
    )
    if not written:
        raise _conflict(deployment)
    deployment.refresh_from_db()


def _new_generation(deployment: Deployment) -> None:
    Deployment.objects.filter(pk=deployment.pk).update(
        generation=F("generation") + 1, requested_at=time.time()
    )
    deployment.refresh_from_db()


def _note_capacity(
    actor: Actor, deployment: Deployment, old: CapacitySpec, new: CapacitySpec, note: str
) -> None:
    """Date a new price and minimum, and write down what changed of the capacity; nothing when nothing did."""
    if new.price_per_accelerator_hour_usd != old.price_per_accelerator_hour_usd:
        _price_from_now(deployment, time.time())
    if new.min_replicas != old.min_replicas:
        _min_replicas_from_now(deployment, time.time())
    if new != old:
        _noted(
            actor,
            deployment,
            kind="deployment.capacity",
            message=_with_note(words(_capacity_json(old), _capacity_json(new)), note),
            before=_capacity_json(old),
            after=_capacity_json(new),
        )


def _price_from_now(deployment: Deployment, now: float) -> None:
    PriceChange.objects.create(
        deployment=deployment,
        from_at=now,
        price_per_accelerator_hour_usd=deployment.price_per_accelerator_hour_usd,
    )


def _min_replicas_from_now(deployment: Deployment, now: float) -> None:
    MinReplicasChange.objects.create(deployment=deployment, from_at=now, min_replicas=deployment.min_replicas)


def _conflict(deployment: Deployment) -> Conflict:
    now = Deployment.objects.select_related("current_revision").filter(pk=deployment.pk).first()
    if now is None or now.current_revision is None:
        return Conflict(f"Somebody deleted {deployment.name} in the meantime.", current={})
    writer = last_writer(now.events.all())
    return Conflict(
        f"{writer or 'Somebody'} changed {now.name} while you were editing;"
        " nothing of yours was saved. Compare both and save again.",
        current={
            "version": now.version,
            "changed_by": writer,
            "changed_at": now.updated_at.isoformat(),
            "values": {**now.current_revision.engine, **_capacity_json(capacity_of(now)), **now.limits},
        },
    )


def _engine_json(engine: EngineSpec) -> dict[str, Any]:
    return engine.model_dump(mode="json")


def _capacity_json(capacity: CapacitySpec) -> dict[str, Any]:
    return capacity.model_dump(mode="json")


def _with_note(message: str, note: str) -> str:
    return f"{message}: {note}" if note else message


def _noted(
    actor: Actor, deployment: Deployment, *, kind: str, message: str, before: Any = None, after: Any = None
) -> None:
    record(
        actor=actor,
        kind=kind,
        message=message,
        subject_kind="deployment",
        subject_name=deployment.name,
        deployment=deployment,
        before=before,
        after=after,
    )
    live.publish_changed(["overview", "deployments", f"deployment:{deployment.name}"], "status")
    wake_reconciler()
