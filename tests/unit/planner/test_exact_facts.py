"""The closed form against the exact mode's recorded answers: families and formats beyond the 33 models."""

from __future__ import annotations

from typing import Any

import pytest

from serving.planner.plan import make_plan
from serving.planner.request import Accelerator, PlanRequest
from tests.unit.planner.recorded import recording

RECORDED = recording("exact.json")
ASKED = RECORDED["asked"]
FACTS = [
    pytest.param(
        fact, id=f"{fact['name']}-tp{fact['tensor_parallel_size']}pp{fact['pipeline_parallel_size']}"
    )
    for fact in RECORDED["facts"]
]


@pytest.mark.parametrize("fact", FACTS)
def test_closed_form_says_what_the_exact_mode_says(fact: dict[str, Any]) -> None:
    plan = make_plan(
        PlanRequest(
            fact["config"],
            accelerator=Accelerator("H100", ASKED["accelerator_bytes"], compute_capability=(9, 0)),
            tensor_parallel_size=fact["tensor_parallel_size"],
            pipeline_parallel_size=fact["pipeline_parallel_size"],
            max_num_batched_tokens=ASKED["max_num_batched_tokens"],
            max_num_seqs=ASKED["max_num_seqs"],
            kv_cache_memory_bytes=ASKED["kv_cache_memory_bytes"],
            **fact["options"],
        )
    )
    if plan.verdict == "unknown":
        assert not plan.architecture_is_known
        return
    assert plan.memory is not None, plan.reasons
    assert [stage.weight_bytes for stage in plan.memory.stages] == pytest.approx(
        fact["weight_bytes"], rel=1e-3
    )
    assert plan.settings["max_model_len"] == fact["max_model_len"]
    assert plan.memory.num_blocks == pytest.approx(fact["num_blocks"], rel=5e-4)
    assert plan.memory.kv_cache_tokens == pytest.approx(fact["kv_cache_tokens"], rel=5e-4)
    assert plan.memory.max_concurrency == pytest.approx(fact["max_concurrency"], rel=5e-4)


def test_the_facts_are_of_the_release_that_is_installed_in_production() -> None:
    from serving.engine_support import engine_support

    assert RECORDED["vllm_version"] == engine_support()["vllm_version"]
