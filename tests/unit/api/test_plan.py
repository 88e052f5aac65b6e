"""The planner through the API: one topology, all topologies, and refusals that name their field."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from console.actions.deployments import make_engine
from console.models import AcceleratorPrice, ClusterStatus, Deployment, RegisteredModel, Replica
from console.planning import plan_engine
from serving.checkpoint import facts_of_config
from tests.unit.api.conftest import NODE, Caller, error_of
from tests.unit.planner.configs import LLAMA_8B, QWEN_7B

DEMO = Path(__file__).resolve().parents[3] / "serving" / "demo" / "model"

pytestmark = pytest.mark.django_db


def body(**changed: Any) -> dict[str, Any]:
    return {"config": LLAMA_8B, "accelerator": "H100", "max_model_len": 16384, **changed}


def test_a_config_is_planned(as_viewer: Caller) -> None:
    answer = as_viewer.post("plan", body(tensor_parallel_size=2)).json()
    assert answer["verdict"] == "fits"
    assert answer["weight_bytes_per_rank"] == [8064082432]
    assert answer["tpot_s"]["low"] <= answer["tpot_s"]["expected"] <= answer["tpot_s"]["high"]
    assert answer["basis"] == "predicted"
    assert not Deployment.objects.exists()


def test_a_registered_model_is_planned_from_what_was_read(as_viewer: Caller, model: RegisteredModel) -> None:
    RegisteredModel.objects.filter(pk=model.pk).update(config=LLAMA_8B)
    answer = as_viewer.post("plan", {"model": model.name, "accelerator": "h100"}).json()
    assert answer["architecture"] == "LlamaForCausalLM"


def test_a_model_whose_files_are_not_known_asks_for_its_config(as_viewer: Caller) -> None:
    RegisteredModel.objects.create(name="far", source_kind="hub", source="a/b")
    error = error_of(as_viewer.post("plan", {"model": "far", "accelerator": "H100"}), 400)
    assert error["field"] == "model"
    assert "config" in error["message"]


@pytest.mark.parametrize(
    ("changed", "status", "field"),
    [
        ({"model": "x"}, 400, "model"),
        ({"config": None}, 400, "model"),
        ({"config": None, "model": "nobody"}, 404, None),
        ({"accelerator": "H1000"}, 400, "accelerator"),
        ({"tensor_parallel_size": 0}, 400, "tensor_parallel_size"),
        ({"kv_cache_dtype": "int3"}, 400, "kv_cache_dtype"),
        ({"safetensors_index": {}}, 400, "safetensors_index:weight_map"),
        ({"speed": 1}, 400, "speed"),
    ],
)
def test_bad_input_names_its_field(
    as_viewer: Caller, changed: dict[str, Any], status: int, field: str | None
) -> None:
    assert error_of(as_viewer.post("plan", body(**changed)), status)["field"] == field


def test_a_senseless_config_names_its_field(as_viewer: Caller) -> None:
    error = error_of(as_viewer.post("plan", body(config={**LLAMA_8B, "num_hidden_layers": -2})), 400)
    assert "num_hidden_layers" in error["field"]


def test_a_refusal_of_the_engine_is_a_verdict_not_an_error(as_viewer: Caller) -> None:
    answer = as_viewer.post("plan", body(config=QWEN_7B, tensor_parallel_size=3)).json()
    assert answer["verdict"] == "refused"
    assert "28" in answer["reasons"][0]


def test_topologies_are_ranked_with_what_the_cluster_has_free(as_viewer: Caller) -> None:
    nodes = [
        {**NODE, "node_id": f"n{index}", "name": f"n{index}", "accelerators": {"H100": 4}} for index in (1, 2)
    ]
    ClusterStatus.objects.update_or_create(pk=1, defaults={"reachable": True, "nodes": nodes})
    items = as_viewer.post("plan/topologies", body(max_num_seqs=64, concurrency=16)).json()["items"]
    by_sizes = {(one["tensor_parallel_size"], one["pipeline_parallel_size"]): one for one in items}
    assert items[0]["rank"] == 1
    assert by_sizes[(4, 1)]["now"] == "free"
    assert by_sizes[(4, 2)]["nodes_at_least"] == 2
    eight = by_sizes[(8, 1)]
    assert (eight["impossible"], eight["now"], eight["now_reason"]) == (
        None,
        "never",
        "The largest node has 4.",
    )
    assert "network" in by_sizes[(16, 1)]["impossible"]
    assert {mark for one in items for mark in one["marks"]} == {"best_latency", "best_cost", "smallest"}
    spanning = as_viewer.post("plan/topologies", body(tp_may_span_nodes=True)).json()["items"]
    wide = next(one for one in spanning if one["tensor_parallel_size"] == 8)
    assert (wide["now"], wide["nodes_at_least"]) == ("free", 2)
    assert "network" in wide["warning"]


def test_an_update_of_a_deployment_counts_its_replicas(
    as_viewer: Caller, model: RegisteredModel, deployment: Deployment
) -> None:
    nodes = [{**NODE, "cpus": 4}]
    ClusterStatus.objects.update_or_create(pk=1, defaults={"reachable": True, "nodes": nodes})
    for index in range(2):
        Replica.objects.create(
            deployment=deployment, deployment_name=deployment.name, replica_id=f"r{index}", node_id="n1",
            state="RUNNING", started_at=1.0, last_seen_at=1.0,
        )  # fmt: skip
    asked = body(accelerator="CPU", kv_cache_memory_bytes=1 << 30)
    alone = as_viewer.post("plan/topologies", asked).json()["items"]
    changed = as_viewer.post("plan/topologies", {**asked, "deployment": "chat"}).json()["items"]
    by_sizes = [
        {(one["tensor_parallel_size"], one["pipeline_parallel_size"]): one for one in items}
        for items in (alone, changed)
    ]
    four = (4, 1)
    assert [found[four]["now"] for found in by_sizes] == ["waits", "free"]
    assert [found[four]["accelerators_during_update"] for found in by_sizes] == [4, 9]
    assert "Callers" in by_sizes[1][four]["during_update"] or "callers" in by_sizes[1][four]["during_update"]
    error_of(as_viewer.post("plan/topologies", {**asked, "deployment": "nobody"}), 404)


def test_cpu_is_planned_as_a_deployment_of_the_model_would_be(
    as_viewer: Caller, model: RegisteredModel
) -> None:
    config = json.loads((DEMO / "config.json").read_text())
    facts, _ = facts_of_config(config)
    RegisteredModel.objects.filter(pk=model.pk).update(config=config, facts=facts)
    model.refresh_from_db()
    answer = as_viewer.post("plan", {"model": model.name, "accelerator": "CPU"}).json()
    engine = make_engine(model, {})
    assert (answer["verdict"], answer["kv_cache_bytes_per_rank"]) == ("fits", engine.kv_cache_memory_bytes)
    deployed = plan_engine(engine, model)
    assert deployed is not None and deployed.memory is not None
    assert answer["kv_cache_tokens"] == deployed.memory.kv_cache_tokens


def test_an_index_that_lies_names_its_field(as_viewer: Caller) -> None:
    index = {"metadata": {"total_size": "16"}, "weight_map": {"a": "b"}}
    error = error_of(as_viewer.post("plan", body(safetensors_index=index)), 400)
    assert error["field"] == "safetensors_index:metadata.total_size"


def test_an_operators_price_counts(as_viewer: Caller) -> None:
    before = as_viewer.post("plan", body()).json()["usd_per_hour"]
    AcceleratorPrice.objects.create(
        accelerator_type="H100", usd_per_hour="1.25", from_date="2026-01-01", source="contract"
    )
    assert before != 1.25
    assert as_viewer.post("plan", body()).json()["usd_per_hour"] == 1.25
