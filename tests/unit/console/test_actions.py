"""Every write: the row, one event, one wake; or a refusal with its field and nothing changed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from django.test import TestCase

from console import actions, desired
from console.events import SYSTEM, Actor, record
from console.models import (
    ApiKey,
    ClusterStatus,
    Deployment,
    DeploymentStatus,
    Event,
    PriceChange,
    RegisteredModel,
    User,
)
from serving.errors import Conflict, InUse, InvalidSpec, NotFound, NotPlaceable

pytestmark = pytest.mark.django_db
NODE = {
    "node_id": "n1",
    "name": "head",
    "alive": True,
    "cpus": 2,
    "memory_bytes": 24 << 30,
    "accelerators": {},
}


@pytest.fixture
def actor(operator: User) -> Actor:
    return Actor(operator, "page")


@pytest.fixture
def cluster() -> ClusterStatus:
    return ClusterStatus.objects.create(pk=1, reachable=True, nodes=[NODE])


@pytest.fixture
def model() -> RegisteredModel:
    facts = {"attention_heads": 8, "kv_heads": 4, "layers": 6, "max_context_tokens": 2048}
    return RegisteredModel.objects.create(name="demo", source_kind="folder", source="/m", facts=facts)


def deploy(actor: Actor, name: str = "chat", **changes: Any) -> Deployment:
    values: dict[str, Any] = {
        "engine": {"max_model_len": 1024},
        "capacity": {"price_per_accelerator_hour_usd": "1.5"},
    }
    with TestCase.captureOnCommitCallbacks(execute=True):
        return actions.create_deployment(actor=actor, name=name, model="demo", **{**values, **changes})


def test_creating_writes_row_revision_price_and_event_and_wakes_once(
    actor: Actor, model: RegisteredModel, cluster: ClusterStatus, wakes: list[str]
) -> None:
    deployment = deploy(actor)
    assert deployment.current_revision is not None and deployment.current_revision.number == 1
    assert deployment.current_revision.author_name == actor.name
    assert (
        PriceChange.objects.get().price_per_accelerator_hour_usd == deployment.price_per_accelerator_hour_usd
    )
    assert Event.objects.filter(kind="deployment.created").count() == 1
    assert wakes == ["workers.reconcile"]


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"name": "Bad Name"}, "name"),
        ({"name": ""}, "name"),
        ({"name": "x" * 41}, "name"),
        ({"name": "new"}, "name"),
        ({"engine": {"max_model_len": 4096}}, "max_model_len"),
        ({"engine": {"tensor_parallel_size": 3}}, "tensor_parallel_size"),
        ({"engine": {"tensor_parallel_size": "many"}}, "tensor_parallel_size"),
        ({"engine": {"nonsense": 1}}, "nonsense"),
        ({"capacity": {"min_replicas": 2, "max_replicas": 1}}, "min_replicas"),
        ({"capacity": {"price_per_accelerator_hour_usd": "free"}}, "price_per_accelerator_hour_usd"),
    ],
)
def test_bad_input_names_the_field_and_changes_nothing(
    actor: Actor, model: RegisteredModel, cluster: ClusterStatus, wakes: list[str], changes: dict, field: str
) -> None:
    with pytest.raises(InvalidSpec) as refused:
        deploy(actor, **changes)
    assert refused.value.field == field
    assert not Deployment.objects.exists() and not Event.objects.exists() and wakes == []


def test_a_model_with_faulty_files_is_refused_unless_that_is_accepted(
    actor: Actor, model: RegisteredModel, cluster: ClusterStatus
) -> None:
    before = deploy(actor, "earlier")
    fault = {"level": "error", "field": "model.safetensors", "message": "model.safetensors is cut off."}
    RegisteredModel.objects.update(problems=[fault])
    with pytest.raises(InvalidSpec, match="model.safetensors is cut off") as refused:
        deploy(actor)
    assert refused.value.field == "model"
    change: dict[str, Any] = {"actor": actor, "name": "earlier", "expected_version": before.version}
    with pytest.raises(InvalidSpec, match="accept_faulty_files"):
        actions.edit_deployment(**change, engine={"max_model_len": 512})
    after = actions.edit_deployment(**change, capacity={"max_replicas": 2})
    change["expected_version"] = after.version
    actions.edit_deployment(**change, engine={"max_model_len": 512}, accept_faulty_files=True)
    with pytest.raises(InvalidSpec) as still:
        deploy(actor, engine={"max_model_len": 4096}, accept_faulty_files=True)
    assert still.value.field == "max_model_len"
    deploy(actor, accept_faulty_files=True)


def test_an_engine_argument_that_vllm_does_not_have_is_refused_and_stored_ones_stay_readable(
    actor: Actor, model: RegisteredModel, cluster: ClusterStatus
) -> None:
    with pytest.raises(InvalidSpec, match="Did you mean “enable_prefix_caching”") as refused:
        deploy(actor, engine={"engine_kwargs": {"enable_prefix_cache": True}})
    assert refused.value.field == "engine_kwargs"
    stored = deploy(actor).current_revision
    assert stored is not None
    stored.engine["engine_kwargs"] = {"of_an_older_engine": 1}
    stored.save()
    assert not desired.desired_deployments()[1]


def test_an_unknown_model_is_refused(actor: Actor) -> None:
    with pytest.raises(InvalidSpec) as refused:
        deploy(actor)
    assert refused.value.field == "model"


def test_a_name_can_be_taken_only_once(actor: Actor, model: RegisteredModel) -> None:
    deploy(actor)
    with pytest.raises(InvalidSpec, match="already is a deployment"):
        deploy(actor)


def test_what_the_cluster_cannot_hold_is_refused_with_the_arithmetic(
    actor: Actor, model: RegisteredModel, cluster: ClusterStatus
) -> None:
    deploy(actor, "first")
    with pytest.raises(NotPlaceable) as refused:
        deploy(actor, "second", engine={"max_model_len": 1024, "tensor_parallel_size": 2})
    assert any("first holds 1 CPU core" in line for line in refused.value.arithmetic)
    assert not Deployment.objects.filter(name="second").exists()


def test_a_stopped_or_failed_deployment_holds_nothing(
    actor: Actor, model: RegisteredModel, cluster: ClusterStatus
) -> None:
    deploy(actor, "first")
    two = {"max_model_len": 1024, "tensor_parallel_size": 2}
    actions.stop_deployment(actor=actor, name="first")
    deploy(actor, "second", engine=two)
    with pytest.raises(NotPlaceable):
        actions.start_deployment(actor=actor, name="first")
    second = Deployment.objects.get(name="second")
    DeploymentStatus.objects.filter(deployment=second).update(generation=second.generation, failed_at=1.0)
    actions.start_deployment(actor=actor, name="first")


def test_a_capacity_edit_adds_no_revision_and_no_generation(actor: Actor, model: RegisteredModel) -> None:
    before = deploy(actor)
    after = actions.edit_deployment(
        actor=actor, name="chat", expected_version=before.version, capacity={"max_replicas": 2}
    )
    assert after.max_replicas == 2
    assert after.revisions.count() == 1 and after.generation == before.generation
    assert after.version == before.version + 1
    event = Event.objects.get(kind="deployment.capacity")
    assert event.message == "Most replicas 1 → 2"


def test_an_engine_edit_is_a_new_immutable_revision_and_a_new_generation(
    actor: Actor, model: RegisteredModel
) -> None:
    before = deploy(actor)
    after = actions.edit_deployment(
        actor=actor,
        name="chat",
        expected_version=before.version,
        engine={"max_model_len": 512},
        note="shorter",
    )
    assert [r.number for r in after.revisions.all()] == [2, 1]
    assert after.current_revision is not None and after.current_revision.engine["max_model_len"] == 512
    assert after.revisions.get(number=1).engine["max_model_len"] == 1024
    assert after.generation == before.generation + 1


def test_saving_without_a_change_does_nothing(actor: Actor, model: RegisteredModel, wakes: list[str]) -> None:
    before = deploy(actor)
    wakes.clear()
    events = Event.objects.count()
    actions.edit_deployment(
        actor=actor, name="chat", expected_version=before.version, engine={"max_model_len": 1024}
    )
    assert Event.objects.count() == events and wakes == []


def test_a_note_is_kept_with_a_change_of_capacity_and_not_dropped_without_one(
    actor: Actor, model: RegisteredModel
) -> None:
    version = deploy(actor).version
    with pytest.raises(InvalidSpec) as refused:
        actions.edit_deployment(actor=actor, name="chat", expected_version=version, note="why")
    assert refused.value.field == "note"
    actions.edit_deployment(
        actor=actor, name="chat", expected_version=version, capacity={"max_replicas": 2}, note="for Monday"
    )
    assert Event.objects.get(kind="deployment.capacity").message == "Most replicas 1 → 2: for Monday"


def test_the_second_of_two_operators_is_told_and_nothing_is_lost(
    actor: Actor, model: RegisteredModel
) -> None:
    seen = deploy(actor).version
    actions.edit_deployment(actor=actor, name="chat", expected_version=seen, capacity={"max_replicas": 2})
    with pytest.raises(Conflict) as refused:
        actions.edit_deployment(actor=actor, name="chat", expected_version=seen, capacity={"max_replicas": 5})
    assert refused.value.current["version"] == seen + 1
    assert refused.value.current["changed_by"] == actor.name
    assert refused.value.current["values"]["max_replicas"] == 2  # type: ignore[index]
    assert Deployment.objects.get().max_replicas == 2


def test_a_conflict_names_who_wrote_the_version_and_not_who_observed_it(
    actor: Actor, admin: User, model: RegisteredModel
) -> None:
    seen = deploy(actor).version
    first = actions.edit_deployment(
        actor=Actor(admin, "api"), name="chat", expected_version=seen, capacity={"max_replicas": 2}
    )
    for phase in ("placing", "stopped"):  # an operator's stop has the same kind of event
        record(
            actor=SYSTEM,
            kind=f"deployment.{phase}",
            message=f"chat is {phase}",
            subject_kind="deployment",
            subject_name="chat",
            deployment=first,
        )
    with pytest.raises(Conflict, match=f"{admin.username} changed chat") as refused:
        actions.edit_deployment(actor=actor, name="chat", expected_version=seen, capacity={"max_replicas": 5})
    assert refused.value.current["changed_by"] == admin.username


def test_a_models_conflict_names_who_wrote_it_and_not_who_read_its_files_again(
    actor: Actor, admin: User
) -> None:
    model = actions.register_model(actor=actor, name="m", source_kind="hub", source="meta/llama")
    edited = actions.edit_model(actor=Actor(admin, "page"), model=model, expected_version=1, note="first")
    actions.inspect_model(actor=actor, model=edited)
    with pytest.raises(Conflict, match=f"{admin.username} changed m") as refused:
        actions.edit_model(actor=actor, model=model, expected_version=1, note="second")
    assert refused.value.current["changed_by"] == admin.username


def test_roll_back_makes_a_new_revision_of_the_old_engine(actor: Actor, model: RegisteredModel) -> None:
    before = deploy(actor)
    actions.edit_deployment(
        actor=actor, name="chat", expected_version=before.version, engine={"max_model_len": 512}
    )
    after = actions.roll_back(actor=actor, name="chat", revision=1)
    assert after.current_revision is not None
    assert (after.current_revision.number, after.current_revision.rolled_back_from) == (3, 1)
    assert after.current_revision.engine == after.revisions.get(number=1).engine
    with pytest.raises(NotFound):
        actions.roll_back(actor=actor, name="chat", revision=9)
    with pytest.raises(InvalidSpec):
        actions.roll_back(actor=actor, name="chat", revision=3)


def test_deleting_needs_the_typed_name_and_keeps_the_history(actor: Actor, model: RegisteredModel) -> None:
    deploy(actor)
    with pytest.raises(InvalidSpec):
        actions.delete_deployment(actor=actor, name="chat", typed_name="cat")
    actions.delete_deployment(actor=actor, name="chat", typed_name="chat")
    assert not Deployment.objects.exists()
    kinds = set(Event.objects.filter(subject_name="chat").values_list("kind", flat=True))
    assert {"deployment.created", "deployment.deleted"} <= kinds


def test_a_price_change_is_dated_and_history_stays(actor: Actor, model: RegisteredModel) -> None:
    before = deploy(actor)
    actions.edit_deployment(
        actor=actor,
        name="chat",
        expected_version=before.version,
        capacity={"price_per_accelerator_hour_usd": "2.25"},
    )
    prices = [str(p.price_per_accelerator_hour_usd) for p in PriceChange.objects.order_by("from_at")]
    assert prices == ["1.500000", "2.250000"]


def test_only_a_failed_deployment_can_be_tried_again(actor: Actor, model: RegisteredModel) -> None:
    deployment = deploy(actor)
    with pytest.raises(InvalidSpec, match="has not failed"):
        actions.retry_deployment(actor=actor, name="chat")
    DeploymentStatus.objects.filter(deployment=deployment).update(generation=1, failed_at=1.0)
    assert desired.spec_of(Deployment.objects.get()).state == "failed"
    actions.retry_deployment(actor=actor, name="chat")
    assert desired.spec_of(Deployment.objects.get()).state == "serve"


def test_a_model_in_use_cannot_be_deleted_and_says_by_whom(actor: Actor, model: RegisteredModel) -> None:
    deploy(actor)
    with pytest.raises(InUse, match="chat"):
        actions.delete_model(actor=actor, model=model)
    actions.delete_deployment(actor=actor, name="chat")
    actions.delete_model(actor=actor, model=model)
    assert not RegisteredModel.objects.exists()


def test_a_hub_token_is_stored_encrypted_reaches_ray_and_is_never_in_events(actor: Actor) -> None:
    model = actions.register_model(
        actor=actor,
        name="gated",
        source_kind="hub",
        source="meta/llama",
        hub_revision="main",
        hub_token="hf_0123456789",
    )
    stored = RegisteredModel.objects.get()
    assert stored.has_hub_token and "hf_0123456789" not in stored.hub_token_encrypted
    deployment = actions.create_deployment(
        actor=actor, name="chat", model=model.name, engine={"max_model_len": 1024}, capacity={}
    )
    assert desired.spec_of(deployment).secret_env == {"HF_TOKEN": "hf_0123456789"}
    everything = json.dumps(list(Event.objects.values()), default=str)
    assert "hf_0123456789" not in everything
    actions.edit_model(actor=actor, model=model, expected_version=model.version, hub_token="")
    assert not RegisteredModel.objects.get().has_hub_token


@pytest.mark.parametrize(
    ("kind", "source", "field"),
    [
        ("folder", "relative/path", "source"),
        ("hub", "no-slash", "source"),
        ("hub", "../etc/passwd", "source"),
        ("object_store", "http://bucket/x", "source"),
        ("carrier-pigeon", "/m", "source_kind"),
    ],
)
def test_a_source_of_the_wrong_form_is_refused(actor: Actor, kind: str, source: str, field: str) -> None:
    with pytest.raises(InvalidSpec) as refused:
        actions.register_model(actor=actor, name="m", source_kind=kind, source=source)
    assert refused.value.field == field
    assert not RegisteredModel.objects.exists()


def test_a_folder_is_read_at_once_and_its_problems_are_said(actor: Actor, tmp_path: Path) -> None:
    model = actions.register_model(actor=actor, name="m", source_kind="folder", source=str(tmp_path))
    assert model.inspected_at is not None
    assert any(problem["level"] == "error" for problem in model.problems)


def test_a_key_is_shown_once_stored_as_a_digest_and_revoked_for_good(actor: Actor, wakes: list[str]) -> None:
    with TestCase.captureOnCommitCallbacks(execute=True):
        key, plaintext = actions.create_key(actor=actor, name="ci")
    assert plaintext not in json.dumps(list(ApiKey.objects.values()), default=str)
    assert key.digest in desired.gateway_keys()
    with TestCase.captureOnCommitCallbacks(execute=True):
        actions.revoke_key(actor=actor, key_id=key.pk)
    assert key.digest not in desired.gateway_keys()
    assert wakes == ["workers.reconcile", "workers.reconcile"]
    with pytest.raises(NotFound):
        actions.revoke_key(actor=actor, key_id=999_999)
