"""What the wizard, the API's actions and the reconciler say of one deployment: the same, from one plan."""

from __future__ import annotations

import time
from typing import Any

import pytest

from console import actions
from console.actions.deployments import plan_of
from console.events import Actor
from console.models import (
    AcceleratorPrice,
    ClusterStatus,
    Deployment,
    DeploymentStatus,
    PriceChange,
    RegisteredModel,
    Replica,
    Revision,
    User,
)
from console.placements import ClusterNow, cluster_now, other_claims, update_of
from serving.errors import InvalidSpec, NotPlaceable
from serving.planner.placement_groups import Shape
from serving.planner.report import read_stored, stored
from tests.unit.planner.configs import LLAMA_8B, LLAMA_70B

pytestmark = pytest.mark.django_db
GIB = 1 << 30


def node(name: str, **values: Any) -> dict[str, Any]:
    return {
        "node_id": name,
        "name": name,
        "alive": True,
        "cpus": 16,
        "memory_bytes": 64 * GIB,
        "accelerators": {},
        **values,
    }


def see(*nodes: dict[str, Any]) -> None:
    ClusterStatus.objects.update_or_create(pk=1, defaults={"reachable": True, "nodes": list(nodes)})


@pytest.fixture
def actor(operator: User) -> Actor:
    return Actor(operator, "page")


@pytest.fixture
def model(db: None) -> RegisteredModel:
    facts = {"attention_heads": 64, "kv_heads": 8, "layers": 80, "kv_bytes_per_token": 327_680}
    return RegisteredModel.objects.create(
        name="big", source_kind="hub", source="meta/big", config=LLAMA_70B, facts=facts
    )


@pytest.fixture
def small(db: None) -> RegisteredModel:
    facts = {"attention_heads": 32, "kv_heads": 8, "layers": 32, "kv_bytes_per_token": 131_072}
    return RegisteredModel.objects.create(
        name="small", source_kind="hub", source="meta/small", config=LLAMA_8B, facts=facts
    )


def deploy(actor: Actor, model: str, name: str = "chat", **engine: Any) -> Deployment:
    capacity = engine.pop("capacity", {})
    engine = {"max_model_len": 8192, **engine}
    return actions.create_deployment(actor=actor, name=name, model=model, engine=engine, capacity=capacity)


def change(actor: Actor, name: str = "chat", **given: Any) -> Deployment:
    version = Deployment.objects.get(name=name).version
    return actions.edit_deployment(actor=actor, name=name, expected_version=version, **given)


def replica(deployment: Deployment, name: str, node_id: str, accelerators: int, **values: Any) -> Replica:
    return Replica.objects.create(
        deployment=deployment, deployment_name=deployment.name, replica_id=name, node_id=node_id,
        accelerators=accelerators, revision=1, state="RUNNING", started_at=1.0, last_seen_at=1.0, **values,
    )  # fmt: skip


# --- one verdict ---------------------------------------------------------------------------------------


def test_weights_quantised_on_the_fly_are_the_planners_not_the_files(
    actor: Actor, model: RegisteredModel
) -> None:
    see(node("a", accelerators={"H200": 1}))
    RegisteredModel.objects.update(facts={**model.facts, "weight_bytes": 141 * GIB, "parameters": 70 * 10**9})
    with pytest.raises(NotPlaceable) as refused:
        deploy(actor, "big", accelerator_type="H200", max_model_len=4096)
    assert any("weights" in line for line in refused.value.arithmetic)
    made = deploy(
        actor, "big", accelerator_type="H200", max_model_len=4096, engine_kwargs={"quantization": "fp8"}
    )
    assert made.current_revision is not None
    assert made.current_revision.plan["verdict"] == "fits"
    change(actor, engine={"max_model_len": 8192})


def test_a_kv_cache_that_is_too_large_is_named_as_such(actor: Actor, small: RegisteredModel) -> None:
    see(node("a"))
    with pytest.raises(NotPlaceable) as refused:
        deploy(actor, "small", kv_cache_memory_bytes=200 * GIB)
    assert refused.value.field == "kv_cache_memory_bytes"


def test_a_cast_to_float32_counts(actor: Actor, small: RegisteredModel) -> None:
    see(node("a", memory_bytes=24 * GIB))
    deploy(actor, "small", name="sixteen", max_model_len=1024)
    actions.delete_deployment(actor=actor, name="sixteen")
    with pytest.raises(NotPlaceable):
        deploy(actor, "small", max_model_len=1024, dtype="float32")


def test_memory_of_other_cpu_deployments_is_not_free(actor: Actor, small: RegisteredModel) -> None:
    see(node("a", memory_bytes=24 * GIB))
    deploy(actor, "small", name="first", max_model_len=1024)
    with pytest.raises(NotPlaceable, match="of its node's memory") as refused:
        deploy(actor, "small", name="second", max_model_len=1024)
    assert any("first holds 1 CPU core and 16." in line for line in refused.value.arithmetic)


def test_a_stored_plan_reads_back_without_what_ages(actor: Actor, small: RegisteredModel) -> None:
    plan = plan_of(deploy(actor, "small", accelerator_type="H100"))
    assert plan is not None
    assert plan.memory is not None
    assert plan.memory.stages[0].weight_bytes == 16_094_077_440
    assert plan.latency is None
    assert read_stored(stored(plan)) == plan
    assert read_stored({"verdict": "fits"}) is None
    assert read_stored(None) is None


# --- who holds what ------------------------------------------------------------------------------------


def test_living_replicas_beyond_the_fewest_are_claimed(actor: Actor, small: RegisteredModel) -> None:
    see(node("a", accelerators={"H100": 8}))
    made = deploy(actor, "small", accelerator_type="H100", capacity={"max_replicas": 4})
    assert [claim.replicas for claim in other_claims(but="")] == [1]
    for index in range(3):
        replica(made, f"r{index}", "a", 1)
    replica(made, "gone", "a", 1, ended_at=2.0)
    assert [claim.replicas for claim in other_claims(but="")] == [3]


def test_what_ray_counts_as_claimed_is_ours_once_and_the_rest_somebody_elses(
    actor: Actor, small: RegisteredModel
) -> None:
    busy = node("a", accelerators={"H100": 8}, cpus_claimed=3.0, accelerators_claimed={"H100": 6})
    see(node("a", accelerators={"H100": 8}))
    made = deploy(actor, "small", accelerator_type="H100", tensor_parallel_size=2)
    see(busy)
    assert foreign(cluster_now()) == (2.0, {"H100": 4})  # claimed, not seen yet: taken to be ours
    replica(made, "r0", "a", 2)
    now = cluster_now()
    assert foreign(now) == (2.0, {"H100": 4})
    assert now.floor.count("H100") == {"a": 2}
    assert cluster_now(but="chat").floor.count("H100") == {"a": 4}
    with pytest.raises(NotPlaceable, match="4 × H100 and 2 × H100 are free"):
        deploy(actor, "small", name="other", accelerator_type="H100", tensor_parallel_size=4)


def test_draining_replicas_of_stopped_and_deleted_deployments_are_nobody_elses(
    actor: Actor, small: RegisteredModel
) -> None:
    see(node("a", accelerators={"H100": 8}))
    made = deploy(actor, "small", accelerator_type="H100", tensor_parallel_size=4)
    replica(made, "r0", "a", 4)
    see(node("a", accelerators={"H100": 8}, cpus_claimed=1.0, accelerators_claimed={"H100": 4}))
    actions.stop_deployment(actor=actor, name="chat")
    assert foreign(cluster_now()) == (0.0, {})
    actions.delete_deployment(actor=actor, name="chat")
    assert foreign(cluster_now()) == (0.0, {})
    Replica.objects.update(ended_at=time.time() - 1)  # Ray lets go a moment later
    assert foreign(cluster_now()) == (0.0, {})
    Replica.objects.update(ended_at=time.time() - 60)
    assert foreign(cluster_now()) == (1.0, {"H100": 4})


def foreign(now: ClusterNow) -> tuple[float, dict[str, int]]:
    (only,) = now.nodes
    return only.cpus_foreign, only.accelerators_foreign


# --- groups and nodes ----------------------------------------------------------------------------------


def test_odd_remainders_are_refused_before_they_are_sent(actor: Actor, small: RegisteredModel) -> None:
    see(node("a", accelerators={"H100": 3}), node("b", accelerators={"H100": 3}))
    wanted = {"accelerator_type": "H100", "tensor_parallel_size": 2, "pipeline_parallel_size": 2}
    with pytest.raises(NotPlaceable, match="group of 2 in stage 1 would span nodes"):
        deploy(actor, "small", **wanted)


def test_a_group_may_span_nodes_where_it_is_asked_for(actor: Actor, small: RegisteredModel) -> None:
    see(node("a", accelerators={"H100": 4}), node("b", accelerators={"H100": 4}))
    wide = {"accelerator_type": "H100", "tensor_parallel_size": 8}
    with pytest.raises(NotPlaceable, match="at most 4 on one node"):
        deploy(actor, "small", **wide)
    made = deploy(actor, "small", **wide, tp_may_span_nodes=True)
    assert made.current_revision is not None
    assert made.current_revision.engine["tp_may_span_nodes"] is True
    with pytest.raises(InvalidSpec) as refused:
        change(actor, engine={"accelerator_type": None, "tensor_parallel_size": 1})
    assert refused.value.field == "tp_may_span_nodes"


# --- price and cache follow what they belong to --------------------------------------------------------


def price(kind: str, usd: str) -> None:
    AcceleratorPrice.objects.create(
        accelerator_type=kind, usd_per_hour=usd, from_date="2026-01-01", source="contract"
    )


def test_another_accelerator_has_another_price_unless_one_is_given(
    actor: Actor, small: RegisteredModel
) -> None:
    price("H100", "2.5")
    price("L40S", "0.75")
    deploy(actor, "small", accelerator_type="H100")
    assert shown_price() == "2.500000"
    change(actor, engine={"accelerator_type": "L40S"})
    assert shown_price() == "0.750000"
    assert PriceChange.objects.count() == 2
    change(actor, engine={"accelerator_type": "H100"}, capacity={"price_per_accelerator_hour_usd": "1.111"})
    assert shown_price() == "1.111000"
    change(actor, engine={"max_model_len": 4096})
    assert shown_price() == "1.111000"
    actions.roll_back(actor=actor, name="chat", revision=2)
    assert shown_price() == "0.750000"
    assert str(PriceChange.objects.order_by("-from_at")[0].price_per_accelerator_hour_usd) == "0.750000"
    change(actor, engine={"accelerator_type": None, "max_model_len": 1024})
    assert shown_price() == "0.000000"


def shown_price() -> str:
    return str(Deployment.objects.get().price_per_accelerator_hour_usd)


def test_an_automatic_cache_follows_context_and_hardware(actor: Actor, small: RegisteredModel) -> None:
    deploy(actor, "small", max_model_len=256)
    assert kv() == 256 * 8 * 131_072
    change(actor, engine={"max_model_len": 512})
    assert kv() == 512 * 8 * 131_072
    change(actor, engine={"accelerator_type": "H100"})
    assert kv() is None
    change(actor, engine={"accelerator_type": None})
    assert kv() == 512 * 8 * 131_072
    change(actor, engine={"kv_cache_memory_bytes": GIB})
    change(actor, engine={"max_model_len": 256})
    assert kv() == GIB
    change(actor, engine={"kv_cache_memory_bytes": None})
    assert kv() == 256 * 8 * 131_072


def test_a_revision_from_before_tells_by_its_number(actor: Actor, small: RegisteredModel) -> None:
    deploy(actor, "small", max_model_len=256)
    (revision,) = Revision.objects.all()
    old = {name: value for name, value in revision.engine.items() if name != "kv_cache_is_automatic"}
    Revision.objects.update(engine=old)
    change(actor, engine={"max_model_len": 256})
    assert Revision.objects.count() == 1  # the same for every replica
    change(actor, engine={"max_model_len": 512})
    assert kv() == 512 * 8 * 131_072


def kv() -> int | None:
    revision = Deployment.objects.select_related("current_revision").get().current_revision
    assert revision is not None
    found: int | None = revision.engine["kv_cache_memory_bytes"]
    return found


# --- a revision's own files ----------------------------------------------------------------------------


def test_a_roll_back_is_not_judged_by_files_the_revision_does_not_use(
    actor: Actor, small: RegisteredModel
) -> None:
    see(node("a", accelerators={"H100": 4}))
    deploy(actor, "small", accelerator_type="H100", tensor_parallel_size=1)
    RegisteredModel.objects.update(
        source="meta/other", config=LLAMA_70B, facts={"max_context_tokens": 2048, "attention_heads": 7}
    )
    plan = Revision.objects.get().plan
    actions.stop_deployment(actor=actor, name="chat")
    actions.start_deployment(actor=actor, name="chat")
    RegisteredModel.objects.update(source="meta/third", config=LLAMA_8B, facts={})
    change(actor, engine={"max_model_len": 1024})
    RegisteredModel.objects.update(config=LLAMA_70B, facts={"max_context_tokens": 2048})
    back = actions.roll_back(actor=actor, name="chat", revision=1)
    assert back.current_revision is not None
    assert back.current_revision.engine["model_source"] == "meta/small"
    assert back.current_revision.plan == plan


def test_a_failed_one_is_tried_again_by_its_own_plan(actor: Actor, small: RegisteredModel) -> None:
    see(node("a", accelerators={"H100": 4}))
    made = deploy(actor, "small", accelerator_type="H100")
    DeploymentStatus.objects.filter(deployment=made).update(generation=1, failed_at=1.0)
    RegisteredModel.objects.update(config=LLAMA_70B)
    actions.retry_deployment(actor=actor, name="chat")


# --- updates -------------------------------------------------------------------------------------------


def test_an_update_counts_what_runs(actor: Actor, small: RegisteredModel) -> None:
    made = deploy(actor, "small", accelerator_type="H100", capacity={"max_replicas": 4})
    assert update_of(made, Shape("H100", 2, 1), 1).most == 2
    for index in range(3):
        replica(made, f"r{index}", "a", 1)
    needs = update_of(made, Shape("H100", 2, 1), 1)
    assert (needs.least, needs.most) == (6, 7)
    assert update_of(None, Shape("H100", 2, 1), 3).most == 6
    actions.stop_deployment(actor=actor, name="chat")
    made.refresh_from_db()
    assert update_of(made, Shape("H100", 2, 1), 1).most == 2
