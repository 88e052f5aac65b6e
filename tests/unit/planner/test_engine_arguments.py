"""Engine arguments that a plan counts, and what it says of those that it does not."""

from __future__ import annotations

import pytest

from serving.accelerators import accelerator
from serving.planner.engine_arguments import uncounted
from serving.planner.plan import make_plan
from serving.planner.request import PlanRequest
from tests.unit.planner.configs import LLAMA_8B, LLAMA_70B

GIB = 1 << 30


def question(config: dict[str, object] = LLAMA_8B, **options: object) -> PlanRequest:
    defaults: dict[str, object] = {"max_model_len": 8192, "max_num_seqs": 64}
    return PlanRequest(config=config, accelerator=accelerator("H100"), **{**defaults, **options})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("given", "names"),
    [
        ({}, ()),
        ({"seed": 1, "tokenizer_mode": "slow", "enable_lora": False, "max_loras": None}, ()),
        ({"enable_lora": True, "max_loras": 4}, ("enable_lora", "max_loras")),
        ({"speculative_config": {"method": "ngram"}}, ("speculative_config",)),
        ({"mamba_cache_mode": "all", "enable_dbo": True}, ("enable_dbo", "mamba_cache_mode")),
        ({"enable_chunked_prefill": False}, ("enable_chunked_prefill",)),
        ({"block_size": 32}, ()),
        ({"of_a_later_version": 3}, ("of_a_later_version",)),
    ],
)
def test_what_may_matter_is_named(given: dict[str, object], names: tuple[str, ...]) -> None:
    assert uncounted(given, planned=("block_size",)) == names


def test_with_an_uncounted_argument_nothing_surely_fits() -> None:
    assert make_plan(question()).verdict == "fits"
    plan = make_plan(question(uncounted=("speculative_config",)))
    assert plan.verdict == "tight"
    assert plan.reasons[0].startswith("Not counted: speculative_config;")


def test_what_does_not_fit_stays_so_unless_the_argument_may_save_memory() -> None:
    assert make_plan(question(LLAMA_70B, uncounted=("enable_lora",))).verdict == "does_not_fit"
    plan = make_plan(question(LLAMA_70B, uncounted=("offload_group_size",)))
    assert plan.verdict == "unknown"
    assert "Not counted: offload_group_size" in plan.reasons[-1]


def test_a_number_of_blocks_is_the_cache_whatever_room_there_is() -> None:
    plan = make_plan(question(num_gpu_blocks_override=1000))
    assert plan.verdict == "fits"
    assert plan.memory is not None
    assert plan.memory.num_blocks == 1000
    assert plan.memory.kv_cache_bytes == 1000 * 16 * 131_072
    assert make_plan(question(num_gpu_blocks_override=100)).verdict == "does_not_fit"  # 512 are one request
    too_many = make_plan(question(num_gpu_blocks_override=60_000))
    assert too_many.verdict == "does_not_fit"
    assert "54.07 GiB are missing" in too_many.reasons[0]


def test_offloaded_weights_leave_room_and_nothing_is_said_of_the_speed() -> None:
    before, after = make_plan(question()), make_plan(question(cpu_offload_gib=4))
    assert before.memory is not None
    assert after.memory is not None
    assert before.memory.stages[0].weight_bytes - after.memory.stages[0].weight_bytes == 4 * GIB
    assert after.memory.kv_cache_bytes - before.memory.kv_cache_bytes == 4 * GIB
    assert after.latency is None
    assert any("in the node's memory 4.00 GiB" in line for line in after.arithmetic)
    assert make_plan(question(LLAMA_70B)).verdict == "does_not_fit"
    assert make_plan(question(LLAMA_70B, cpu_offload_gib=80)).verdict == "fits"


def test_no_more_is_offloaded_than_the_layers_have() -> None:
    plan = make_plan(question(cpu_offload_gib=1000))
    assert plan.memory is not None
    assert plan.memory.stages[0].weight_bytes > 2 * 128_256 * 4096  # at least the embedding stays
