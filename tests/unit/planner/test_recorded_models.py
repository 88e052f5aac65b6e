"""The closed form against what vLLM 0.29's own classes said of 33 real models (tests/recordings/planner)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from serving.planner.plan import make_plan
from serving.planner.request import GIB, PlanRequest
from serving.planner.result import Plan
from tests.unit.planner.recorded import card, model, models, topology

ROOM = 20 * GIB

RANKS = [
    pytest.param(found, key, sizes, id=f"{found['id']}-{key}")
    for found in models()
    for key, sizes in found["vllm_weight_bytes_per_rank"].items()
    if isinstance(sizes, list)
]
CAPACITIES = [
    pytest.param(found, key, int(length), expected, id=f"{found['id']}-{key}-{length}")
    for found in models()
    for key, by_length in found.get("kv_capacity_for_20GiB_per_rank_mbt8192", {}).items()
    for length, expected in by_length.items()
]


def planned(found: dict[str, Any], key: str, **changes: Any) -> Plan:
    """The plan of a recorded model on the accelerator that the recording's kernels belong to."""
    tensor, pipeline = topology(key)
    # Without an accelerator's kernels, as recorded; the Marlin rows name theirs.
    capability = (8, 0) if found["id"].endswith("@marlin") else None
    request = PlanRequest(
        found["config"],
        accelerator=card(usable_gib=80, capability=capability),
        tensor_parallel_size=tensor,
        pipeline_parallel_size=pipeline,
        max_num_batched_tokens=8192,
        max_num_seqs=256,
        kv_cache_memory_bytes=ROOM,
    )
    return make_plan(replace(request, **changes))


@pytest.mark.parametrize(("found", "key", "sizes"), RANKS)
def test_weights_of_every_stage_are_those_vllm_allocates(
    found: dict[str, Any], key: str, sizes: list[int]
) -> None:
    plan = planned(found, key)
    if "fbgemm" in str(found["config"]):
        assert plan.verdict == "refused"
        return
    assert plan.memory is not None, plan.reasons
    assert [stage.weight_bytes for stage in plan.memory.stages] == pytest.approx(sizes, rel=1e-3)
    assert plan.memory.weights_are_exact


def test_weights_of_a_deprecated_method_are_known_although_it_is_refused() -> None:
    from serving.planner.architecture_fields import Fields
    from serving.planner.architecture_reading import read_architecture
    from serving.planner.quantization_reading import read_quantization
    from serving.planner.weights import plan_weights

    found = model("meta-llama/Llama-3.1-405B-Instruct-FP8(kv16)")
    weights = plan_weights(
        read_architecture(found["config"]),
        read_quantization(Fields(found["config"]), None),
        tensor_parallel=8,
        pipeline_parallel=1,
    )
    assert weights.stages[0].total_bytes == pytest.approx(62008544192, rel=1e-3)


@pytest.mark.parametrize(("found", "key", "length", "expected"), CAPACITIES)
def test_kv_capacity_is_what_the_engine_would_log(
    found: dict[str, Any], key: str, length: int, expected: dict[str, Any]
) -> None:
    plan = planned(found, key, max_model_len=length)
    if "error" in expected:
        assert plan.verdict == "does_not_fit"
        return
    assert plan.memory is not None, plan.reasons
    assert plan.memory.num_blocks == pytest.approx(expected["num_blocks"], rel=5e-4)
    assert plan.memory.kv_cache_tokens == pytest.approx(expected["tokens"], rel=5e-4)
    assert plan.memory.max_concurrency == pytest.approx(expected["concurrency"], rel=5e-4)


@pytest.mark.parametrize("found", models(), ids=lambda found: found["id"])
def test_parameters_are_those_of_the_reference_implementation(found: dict[str, Any]) -> None:
    from serving.planner.architecture_reading import read_architecture
    from serving.planner.weights import active_parameters, total_parameters

    architecture = read_architecture(found["config"])
    published = found.get("params_transformers_meta")
    if published is not None:
        assert total_parameters(architecture) == pytest.approx(published, rel=1e-5)
    assert 0 < active_parameters(architecture) <= total_parameters(architecture)


def test_a_tied_matrix_is_held_twice_by_two_stages() -> None:
    plan = planned(model("Qwen/Qwen3-0.6B"), "tp1pp2")
    assert plan.memory is not None
    matrix = 151936 * 1024 * 2
    assert [stage.weight_parts["embedding"] for stage in plan.memory.stages] == [matrix, matrix]
