"""The planner against figures that real vLLM engines logged (tests/recordings/planner/models.json)."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest

from serving.planner.plan import make_plan
from serving.planner.request import GIB, Accelerator, PlanRequest
from serving.planner.result import Plan
from tests.unit.planner.recorded import card, model, recording
from tests.unit.planner.test_vision_towers import MISTRAL_SMALL_3_2, QWEN_3_VL_30B

ROWS = recording("models.json")["observations"]
CONFIGS = {
    "meta-llama/Llama-3.1-8B": "meta-llama/Llama-3.1-8B-Instruct",
    "Llama-3.1-8B (a DPO fine-tune)": "meta-llama/Llama-3.1-8B-Instruct",
    "meta-llama/Llama-3.1-405B-Instruct-FP8 (first release, 16 KV heads)": (
        "meta-llama/Llama-3.1-405B-Instruct-FP8(kv16)"
    ),
}
W8A8 = {
    "quant_method": "compressed-tensors", "format": "int-quantized", "ignore": ["lm_head"],
    "config_groups": {"group_0": {
        "targets": ["Linear"],
        "weights": {"num_bits": 8, "type": "int", "strategy": "channel", "symmetric": True, "dynamic": False},
        "input_activations": {"num_bits": 8, "type": "int", "strategy": "token", "dynamic": True},
    }},
}  # fmt: skip
UNLIKE = 21
"""A Qwen2.5-0.5B log whose weights no reading of the classes explains."""


def config_of(row: dict[str, Any]) -> dict[str, Any] | None:
    """The config of a logged model; None where the log names none that is known."""
    name = row["model"]
    if name == "mistralai/Mistral-Small-3.2-24B-Instruct-2506":
        return MISTRAL_SMALL_3_2
    if name.startswith("Qwen/Qwen3-VL-30B-A3B"):
        return QWEN_3_VL_30B
    if name.startswith("Llama-3.1-70B w8a8"):
        plain = model("RedHatAI/Llama-3.3-70B-Instruct-FP8-dynamic")["config"]
        return plain | {"quantization_config": W8A8}
    found = CONFIGS.get(name, name)
    return next((m["config"] for m in recording("models.json")["models"] if m["id"] == found), None)


def accelerator_of(row: dict[str, Any]) -> Accelerator:
    setting = row["setting"]
    hopper = "H100" in setting["gpu"] or row["model"] == "openai/gpt-oss-120b"
    return card(
        usable_gib=setting.get("total_gib", 1000.0),
        name=setting["gpu"],
        capability=(9, 0) if hopper else (8, 6),
    )


def plan_of(row: dict[str, Any], **changes: Any) -> Plan:
    setting, config = row["setting"], config_of(row)
    assert config is not None
    given: dict[str, Any] = {
        "accelerator": accelerator_of(row),
        "tensor_parallel_size": setting.get("tp", 1),
        "max_model_len": setting.get("max_len"),
        "max_num_seqs": setting.get("seqs"),
        "max_num_batched_tokens": setting.get("mbt"),
        "gpu_memory_utilization": setting.get("util", 0.9),
        "enforce_eager": setting.get("eager", False),
        "regime": setting.get("regime", "v1"),
    }
    return make_plan(PlanRequest(config, **(given | changes)))


def test_no_row_is_left_out_unseen() -> None:
    """The rows that a figure is compared in, and those that no config is known of."""
    counts = {"model_loading_gib": 15, "kv_tokens": 8, "available_kv_gib": 13}
    assert {figure: len(rows_with(figure)) for figure in counts} == counts
    assert {figure: sum(figure in row["observed"] for row in ROWS) for figure in counts} == counts
    assert (len(ROWS), len(END_TO_END), len(WITH_TOKENS)) == (18, 10, 7)
    # 32 names two versions and no figure of either; 33 has a test of its own below.
    assert [row["n"] for row in ROWS if config_of(row) is None] == [32, 33]


def rows_with(figure: str) -> list[Any]:
    return [
        pytest.param(row, id=f"{row['n']}-{row['model']}")
        for row in ROWS
        if figure in row["observed"] and config_of(row) is not None
    ]


@pytest.mark.parametrize("row", rows_with("model_loading_gib"))
def test_logged_weights(row: dict[str, Any]) -> None:
    plan = plan_of(row)
    logged = row["observed"]["model_loading_gib"]
    # A refused method (fbgemm_fp8 is deprecated) leaves the weights what they are.
    assert plan.memory is not None, plan.reasons
    planned = plan.memory.stages[0].weight_bytes / GIB
    if row["n"] == UNLIKE:
        assert planned < logged
        return
    # Logs round to two decimals: 0.005 GiB is 0.45 % of the smallest model.
    assert planned == pytest.approx(logged, rel=3e-3, abs=0.005)


WITH_TOKENS = [row for row in rows_with("kv_tokens") if "available_kv_gib" in row.values[0]["observed"]]


@pytest.mark.parametrize("row", WITH_TOKENS)
def test_tokens_from_a_logged_cache_size(row: dict[str, Any]) -> None:
    observed = row["observed"]
    length = observed.get("at_tokens_per_request") or row["setting"].get("max_len")
    plan = plan_of(row, kv_cache_memory_bytes=int(observed["available_kv_gib"] * GIB), max_model_len=length)
    assert plan.memory is not None, plan.reasons
    assert plan.memory.kv_cache_tokens == pytest.approx(observed["kv_tokens"], rel=1.2e-2)


END_TO_END = [row for row in rows_with("available_kv_gib") if "regime" in row.values[0]["setting"]]


@pytest.mark.parametrize("row", END_TO_END)
def test_cache_size_end_to_end(row: dict[str, Any]) -> None:
    """From the card, the utilisation, the model and the limits to the room that is left for the cache."""
    plan = plan_of(row)
    assert plan.memory is not None, plan.reasons
    logged = row["observed"]["available_kv_gib"]
    assert plan.memory.kv_cache_bytes / GIB == pytest.approx(logged, rel=2e-2, abs=1.0)


@pytest.mark.parametrize("regime", ["v1", "v2"])
def test_never_fits_where_the_engine_refused(regime: str) -> None:
    plan = make_plan(
        PlanRequest(
            model("Qwen/Qwen3-32B")["config"],
            accelerator=card(usable_gib=79.18),
            max_model_len=32000,
            gpu_memory_utilization=0.9,
            regime=regime,  # type: ignore[arg-type]
        )
    )
    assert plan.verdict in ("tight", "does_not_fit")
    assert plan.lever


GPT_OSS_20B = model("openai/gpt-oss-120b")["config"] | {"num_hidden_layers": 24, "num_local_experts": 32}
DEEPSEEK_R1 = next(f["config"] for f in recording("exact.json")["facts"] if f["name"] == "dsr1")
BENCHMARKED = {
    "max_model_len": 16000, "max_num_seqs": 1024, "max_num_batched_tokens": 8192,
    "gpu_memory_utilization": 0.9,
}  # fmt: skip
"""Of llm-d-benchmark's empirical-vllm-memory-results.md, whose rows the recording holds in part."""


@pytest.mark.parametrize("regime", ["v1", "v2"])
@pytest.mark.parametrize(
    "config",
    [model("RedHatAI/Llama-3.3-70B-Instruct-FP8-dynamic")["config"], DEEPSEEK_R1],
    ids=["Llama-3.3-70B-FP8", "DeepSeek-R1"],
)
def test_never_more_than_one_card_holds(config: dict[str, Any], regime: str) -> None:
    """Logged: -1.44 GiB for the cache, and out of memory while loading."""
    request = PlanRequest(config, accelerator=card(usable_gib=79.18), **BENCHMARKED, regime=regime)  # type: ignore[arg-type]
    assert make_plan(request).verdict == "does_not_fit"


def test_a_log_that_the_recording_lacks() -> None:
    request = PlanRequest(GPT_OSS_20B, accelerator=card(usable_gib=79.18), **BENCHMARKED, regime="v1")  # type: ignore[arg-type]
    memory = make_plan(request).memory
    assert memory is not None
    assert memory.stages[0].weight_bytes / GIB == pytest.approx(13.47, rel=3e-3)
    assert memory.kv_cache_bytes / GIB == pytest.approx(50.28, abs=0.1)


def test_the_older_rule_is_no_sharper_than_its_logs() -> None:
    """A cache that is a few MiB too small by the rule, or large enough by as little, is tight."""
    request = PlanRequest(
        model("Qwen/Qwen3-32B")["config"], accelerator=card(usable_gib=79.18), **BENCHMARKED, regime="v1"
    )  # type: ignore[arg-type]
    memory = make_plan(request).memory
    assert memory is not None
    longest = memory.kv_cache_tokens
    for length in (longest - 32, longest + 32):
        assert make_plan(replace(request, max_model_len=length)).verdict == "tight"


QWEN_3_CODER_30B: dict[str, Any] = model("Qwen/Qwen3-30B-A3B-FP8")["config"] | {
    "max_position_embeddings": 262144
}


def test_two_stages_that_the_engine_refused() -> None:
    """Row 33, whose issue names Qwen3-Coder-30B-A3B-FP8: 24.0 GiB needed, 3.18 available, 34,736 tokens
    estimated. That version counted all layers on every stage; today's counts a stage's own, which are still
    too many."""
    observed = next(row for row in ROWS if row["n"] == 33)["observed"]["outcome"]
    assert "24.0 GiB needed, 3.18 available" in observed
    request = PlanRequest(
        QWEN_3_CODER_30B,
        accelerator=card(usable_gib=31.8, name="RTX 5090", capability=(12, 0)),
        max_model_len=262144,
        kv_cache_memory_bytes=int(3.18 * GIB),
    )
    whole = make_plan(request)
    assert whole.verdict == "does_not_fit" and "needs 24.00 GiB" in whole.reasons[0]
    longest = re.search(r"that fits has ([\d,]+) tokens", whole.reasons[0])
    assert longest is not None
    assert int(longest[1].replace(",", "")) == pytest.approx(34736, rel=2e-3)
    halves = make_plan(replace(request, pipeline_parallel_size=2))
    assert halves.verdict == "does_not_fit" and "needs 12.00 GiB" in halves.reasons[0]


def test_a_lever_holds_what_it_promises() -> None:
    request = PlanRequest(
        model("Qwen/Qwen3-32B")["config"], accelerator=card(usable_gib=79.18), max_model_len=32000
    )
    assert make_plan(request).lever == "Lowering max_num_seqs to 128 makes it fit at the upper estimate too."
    fewer = PlanRequest(
        model("Qwen/Qwen3-32B")["config"],
        accelerator=card(usable_gib=79.18),
        max_model_len=32000,
        max_num_seqs=128,
    )
    assert make_plan(fewer).verdict == "fits"
