"""Every figure says which estimate it belongs to, and what is not known or does not run sells no times."""

from __future__ import annotations

import re
from typing import Any

import pytest

from serving.accelerators import accelerator
from serving.planner.memory import expected_parts
from serving.planner.plan import make_plan
from serving.planner.report import flat
from serving.planner.request import GIB, PlanRequest
from tests.unit.planner.configs import LLAMA_8B, LLAMA_70B
from tests.unit.planner.recorded import card, model, models

H100 = accelerator("H100")
QWEN_32B = PlanRequest(
    model("Qwen/Qwen3-32B")["config"], accelerator=H100, max_num_seqs=1024, max_model_len=40960
)


def test_what_is_missing_names_its_estimate_and_agrees_with_the_expected_cache() -> None:
    plan = make_plan(QWEN_32B)
    assert plan.verdict == "does_not_fit" and plan.memory is not None
    found = re.search(
        r"needs ([\d.]+) GiB of KV cache per rank; ([\d.]+) GiB are missing at the expected", plan.reasons[0]
    )
    assert found is not None, plan.reasons[0]
    needed, missing = float(found[1]), float(found[2])
    assert needed - missing == pytest.approx(plan.memory.kv_cache_bytes / GIB, abs=0.02)
    assert "at the lower one" in plan.reasons[0]
    assert "tokens at the lower estimate" in plan.reasons[0] and "at the upper one" in plan.reasons[0]
    assert "at the upper estimate" in plan.lever


@pytest.mark.parametrize("config", [found["config"] for found in models()][::4])
@pytest.mark.parametrize(("tensor", "pipeline"), [(1, 1), (2, 2), (1, 3)])
def test_the_expected_parts_are_what_is_requested(config: dict[str, Any], tensor: int, pipeline: int) -> None:
    big = card(usable_gib=4000)
    request = PlanRequest(
        config,
        accelerator=big,
        tensor_parallel_size=tensor,
        pipeline_parallel_size=pipeline,
        max_model_len=4096,
    )
    memory = make_plan(request).memory
    if memory is None:
        pytest.skip("refused in this topology")
    parts = expected_parts(memory)
    assert sum(size for size, _ in parts.values()) == memory.requested_bytes
    assert all(band.low <= size <= band.high + 4 for size, band in parts.values())


def test_what_does_not_fit_has_no_times_and_no_price_per_token() -> None:
    answer = flat(make_plan(PlanRequest(LLAMA_70B, accelerator=H100)))
    assert answer["verdict"] == "does_not_fit"
    for name in ("ttft_unloaded_s", "tpot_s", "usd_per_million_output_tokens", "full_load_concurrency"):
        assert answer[name] is None
    assert "does not fit" in answer["no_times_because"]
    assert answer["usd_per_hour"] > 0
    assert flat(make_plan(PlanRequest(LLAMA_8B, accelerator=H100)))["no_times_because"] is None


@pytest.mark.parametrize(
    ("name", "verdict"),
    [
        ("TPU-V4", "unknown"),
        ("Ascend910B", "unknown"),
        ("Intel-GAUDI", "unknown"),
        ("AMD-Instinct-MI300X-OAM", "tight"),
    ],
)
def test_other_vendors_get_no_clean_fits(name: str, verdict: str) -> None:
    plan = make_plan(PlanRequest(LLAMA_8B, accelerator=accelerator(name), max_model_len=4096))
    assert plan.verdict == verdict
    assert "CUDA" in plan.reasons[0]
    assert (plan.latency is None) == (verdict == "unknown")


def test_the_cuda_cards_keep_theirs() -> None:
    plan = make_plan(PlanRequest(LLAMA_8B, accelerator=H100, max_model_len=4096))
    assert plan.verdict == "fits"


@pytest.mark.parametrize(
    "changes",
    [{"max_model_len": 16384}, {"max_num_seqs": 512, "max_num_batched_tokens": 256}],
)
def test_a_refusal_of_options_keeps_the_exact_figures(changes: dict[str, int]) -> None:
    config = model("microsoft/Phi-3-mini-4k-instruct")["config"]
    plan = make_plan(PlanRequest(config, accelerator=H100, **changes))  # type: ignore[arg-type]
    served = make_plan(PlanRequest(config, accelerator=H100))
    assert plan.verdict == "refused" and plan.latency is None
    assert plan.memory is not None and served.memory is not None
    assert plan.memory.stages[0].weight_bytes == served.memory.stages[0].weight_bytes
    assert plan.memory.kv_bytes_per_token == served.memory.kv_bytes_per_token


def test_a_card_too_old_for_the_type_keeps_the_exact_figures_too() -> None:
    plan = make_plan(PlanRequest(LLAMA_8B, accelerator=accelerator("T4")))
    assert (plan.verdict, plan.refused_field) == ("refused", "dtype")
    assert plan.memory is not None and plan.memory.stages[0].weight_bytes > 14 * GIB


def test_a_topology_that_cannot_be_split_has_no_figures() -> None:
    assert make_plan(PlanRequest(LLAMA_8B, accelerator=H100, tensor_parallel_size=3)).memory is None


RWKV = {
    "architectures": ["Rwkv7ForCausalLM"], "model_type": "rwkv7", "num_hidden_layers": 24,
    "hidden_size": 2048, "head_dim": 64, "vocab_size": 65536, "torch_dtype": "bfloat16",
}  # fmt: skip


def test_a_model_without_attention_is_not_spoken_of_as_if_it_had_some() -> None:
    plan = make_plan(PlanRequest(RWKV, accelerator=H100, checkpoint_bytes=3 * GIB))
    assert plan.verdict == "unknown" and plan.memory is None
    assert "plain attention" not in " ".join(plan.reasons)
    assert "GiB of weights per rank" in " ".join(plan.reasons)
    assert "structure" in plan.no_times_because


def test_an_unknown_architecture_says_what_its_figures_suppose() -> None:
    frob = LLAMA_8B | {"architectures": ["FrobForCausalLM"]}
    plan = make_plan(PlanRequest(frob, accelerator=H100, checkpoint_bytes=16 * GIB, max_model_len=8192))
    assert plan.verdict == "unknown"
    assert "Were every layer plain attention, a request of 8,192 tokens has room" in plan.reasons[-1]
    assert flat(plan)["weights_are_exact"] is False
