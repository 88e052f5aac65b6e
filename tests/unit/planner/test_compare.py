"""A plan beside a measurement: signed errors, bands, rounding that is no error, and causes in words."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.planner.causes import likely_cause
from serving.planner.compare import PARTS, Difference, compare, read_plan, to_json, verdict_was_wrong
from serving.planner.measured import Measured
from serving.planner.measured_log import bytes_of_gib, from_log, resolution_of_gib
from serving.planner.result import ByteRange, CacheGroup, Memory, Plan, StageMemory

GIB = 1 << 30
MIB = 1 << 20
ENGINE: dict[str, Any] = {"accelerator_type": "H100", "dtype": "auto", "max_model_len": 8192}
CPU_ENGINE: dict[str, Any] = {**ENGINE, "accelerator_type": None, "kv_cache_memory_bytes": 64 * MIB}

H100_BYTES = bytes_of_gib("79.18")
LLAMA_8B = Memory(
    usable_bytes=H100_BYTES,
    requested_bytes=bytes_of_gib("72.85"),
    stages=(StageMemory(0, 32, 16_094_077_440, {}, 131_072),),
    activation=ByteRange(GIB, 5 * GIB),
    cuda_graphs=ByteRange(GIB // 2, GIB),
    runtime=ByteRange(GIB // 8, GIB // 4),
    kv_cache_bytes=52 * GIB,
    kv_cache_range=ByteRange(50 * GIB, 54 * GIB),
    kv_bytes_per_token=131_072,
    groups=(CacheGroup("full", 32, 16, 16 * 131_072, 512),),
    num_blocks=26_624,
    kv_cache_tokens=425_984,
    max_concurrency=52.0,
    weights_are_exact=True,
)
AS_PLANNED = Measured(
    weight_bytes=16_094_077_440,
    kv_room_bytes=52 * GIB,
    num_blocks=26_624,
    block_tokens=16,
    kv_cache_bytes=52 * GIB,
    kv_cache_tokens=425_984,
    max_concurrency=52.0,
    max_concurrency_at_tokens=8192,
    activation_bytes=3 * GIB,
    cuda_graph_bytes=GIB // 2,
    non_torch_bytes=GIB // 8,
)


def stored(memory: Memory | None = LLAMA_8B, **values: Any) -> dict[str, Any]:
    """A plan as a revision keeps it."""
    plan = Plan(
        verdict=values.pop("verdict", "fits"), memory=memory, architecture="LlamaForCausalLM", **values
    )
    return dict(json.loads(json.dumps(asdict(plan))))


def differences_of(
    measured: Measured, plan: dict[str, Any] | None = None, engine: dict[str, Any] = ENGINE
) -> dict[str, Difference]:
    found = compare(
        read_plan(plan or stored()),
        measured,
        on_cpu=engine["accelerator_type"] is None,
        max_model_len=engine["max_model_len"],
    )
    return {one.part: one for one in found}


def cause_of(measured: Measured, plan: dict[str, Any] | None = None, engine: dict[str, Any] = ENGINE) -> str:
    found = differences_of(measured, plan, engine)
    return likely_cause(read_plan(plan or stored()), measured, list(found.values()), engine)


def test_what_was_measured_as_planned_has_no_error_and_no_cause() -> None:
    found = differences_of(AS_PLANNED)
    assert [one.part for one in found.values()] == [part for part, _ in PARTS]
    assert not any(one.is_off for one in found.values())
    assert {part: found[part].error for part in ("weights", "kv_cache", "kv_blocks", "kv_tokens")} == {
        "weights": 0,
        "kv_cache": 0,
        "kv_blocks": 0,
        "kv_tokens": 0,
    }
    assert (found["activation"].planned, found["activation"].is_within_band) == (3 * GIB, True)
    assert found["device"].note == "not measured"
    assert cause_of(AS_PLANNED) == ""


@given(st.floats(-0.9, 3.0))
def test_the_error_is_signed_and_relative_to_the_plan_and_five_percent_are_allowed(error: float) -> None:
    planned = LLAMA_8B.stages[0].weight_bytes
    measured = round(planned * (1 + error))
    found = differences_of(replace(AS_PLANNED, weight_bytes=measured))["weights"]
    assert found.error == pytest.approx((measured - planned) / planned)
    assert found.is_off == (abs(measured - planned) > 0.05 * planned)


@given(st.integers(1, 40 * MIB))
def test_rounding_of_the_log_is_never_an_error_however_small_the_model(size_bytes: int) -> None:
    text = f"Model loading took {round(size_bytes / GIB, 2)} GiB memory and 1.000000 seconds"
    memory = replace(LLAMA_8B, stages=(StageMemory(0, 1, size_bytes, {}, 1),))
    assert not differences_of(from_log(text), stored(memory))["weights"].is_off


@given(st.integers(0, 20 * GIB))
def test_an_estimate_is_off_only_outside_its_band(activation_bytes: int) -> None:
    found = differences_of(replace(AS_PLANNED, activation_bytes=activation_bytes))["activation"]
    assert found.is_within_band == (GIB <= activation_bytes <= 5 * GIB)
    assert found.is_off == (activation_bytes < 0.95 * GIB or activation_bytes > 1.05 * 5 * GIB)


def test_the_cache_is_off_beside_its_expected_figure_even_inside_the_band() -> None:
    found = differences_of(replace(AS_PLANNED, kv_room_bytes=50 * GIB - MIB, kv_cache_bytes=49 * GIB))
    assert not found["kv_cache"].is_off
    wide = replace(LLAMA_8B, kv_cache_range=ByteRange(40 * GIB, 60 * GIB))
    found = differences_of(replace(AS_PLANNED, kv_room_bytes=45 * GIB), stored(wide))
    assert found["kv_cache"].is_off and found["kv_cache"].is_within_band
    assert "inside the planned band" in cause_of(replace(AS_PLANNED, kv_room_bytes=45 * GIB), stored(wide))


def test_of_a_given_cache_only_whole_blocks_are_allocated_which_is_no_error() -> None:
    block = 12 * MIB
    memory = replace(LLAMA_8B, kv_cache_bytes=64 * MIB, kv_cache_range=ByteRange(64 * MIB, 64 * MIB))
    measured = Measured(kv_cache_bytes=5 * block, resolution={"kv_cache_bytes": float(block)})
    found = differences_of(measured, stored(memory))["kv_cache"]
    assert found.error == pytest.approx(-4 / 64) and not found.is_off


def test_another_stage_than_the_largest_stands_for_the_weights_where_it_is_off() -> None:
    stages = tuple(StageMemory(i, 1, size, {}, 1) for i, size in enumerate((500, 450, 480)))
    plan = stored(replace(LLAMA_8B, stages=stages))
    fine = differences_of(Measured(weight_bytes=500, weight_bytes_per_stage=(500, 450, 480)), plan)["weights"]
    assert (fine.planned, fine.measured) == (500, 500)
    off = differences_of(Measured(weight_bytes=600, weight_bytes_per_stage=(500, 600, 480)), plan)["weights"]
    assert (off.planned, off.measured, off.is_off) == (450, 600, True)


def test_what_cannot_be_compared_says_why() -> None:
    measured = replace(AS_PLANNED, max_concurrency_at_tokens=4096, cuda_graph_bytes=-MIB, num_blocks=None)
    found = differences_of(measured)
    assert "4,096" in found["max_concurrency"].note and "8,192" in found["max_concurrency"].note
    assert "free" in found["cuda_graphs"].note
    assert found["kv_blocks"].note == "not measured"
    assert "CPU" in differences_of(AS_PLANNED, engine=CPU_ENGINE)["activation"].note
    assert all(one.error is None for one in found.values() if one.note)


@pytest.mark.parametrize(
    "plan", [{}, {"memory": None}, {"memory": {"stages": [None], "groups": "x", "activation": [1, 2]}}]
)
def test_a_plan_of_another_form_is_compared_in_what_it_says(plan: dict[str, Any]) -> None:
    found = differences_of(AS_PLANNED, plan={"verdict": "fits", **plan})
    assert {one.note for one in found.values()} <= {"the plan does not say", "not measured"}


def test_differences_are_json() -> None:
    kept = json.loads(json.dumps(to_json(differences_of(AS_PLANNED).values())))
    assert kept["weights"]["planned"] == 16_094_077_440
    assert set(kept) == {part for part, _ in PARTS}


# --- causes ------------------------------------------------------------------------------------------------

HALF_AS_MUCH = LLAMA_8B.stages[0].weight_bytes // 2
CAUSES: list[tuple[dict[str, Any], dict[str, Any], dict[str, Any], str]] = [
    # measured otherwise, plan otherwise, engine otherwise, words
    ({"weight_bytes": 2 * 16_094_077_440}, {}, {}, "twice"),
    ({"weight_bytes": HALF_AS_MUCH}, {"settings": {"dtype": "float32"}}, {}, "half what was planned"),
    ({"weight_bytes": 17_100_000_000}, {"settings": {"quantization": "mxfp4"}}, {}, "MXFP4 kernel"),
    ({"weight_bytes": 36_000_000_000}, {"settings": {"quantization": "awq"}}, {}, "were not loaded as awq"),
    ({"weight_bytes": 18 * GIB}, {"architecture_is_known": False}, {}, "unknown to the planner"),
    (
        {"num_blocks": 3328, "kv_cache_tokens": 425_984, "block_tokens": 128},
        {},
        {},
        "A KV block holds 128 tokens; 16 were planned",
    ),
    (
        {"num_blocks": 53_248, "kv_cache_tokens": 851_968, "max_concurrency": 104.0},
        {},
        {},
        "another KV number format",
    ),
    ({"kv_room_bytes": 20 * GIB, "kv_cache_bytes": 20 * GIB, "num_blocks": 10_240}, {},
     {"kv_cache_memory_bytes": 20 * GIB}, "gives the KV cache 20.00 GiB explicitly"),
    ({"kv_room_bytes": 46 * GIB, "activation_bytes": 9 * GIB}, {}, {}, "activation peak took 6.00 GiB more"),
    ({"kv_room_bytes": 40 * GIB, "device_total_bytes": 70 * GIB}, {}, {}, "The accelerator has 70.00 GiB"),
    (
        {"kv_room_bytes": 40 * GIB, "device_total_bytes": H100_BYTES, "free_at_start_bytes": 60 * GIB},
        {},
        {},
        "taken by other processes",
    ),
    ({"kv_room_bytes": 40 * GIB, "engine_version": "0.31.1"}, {}, {}, "The engine is vLLM 0.31.1"),
    ({"non_torch_bytes": GIB}, {}, {}, "estimate of runtime memory"),
    ({"kv_room_bytes": 40 * GIB}, {}, {}, "No cause is known for kv cache"),
]  # fmt: skip


@pytest.mark.parametrize(("seen", "plan", "engine", "words"), CAUSES)
def test_the_likely_cause_is_said_in_words(
    seen: dict[str, Any], plan: dict[str, Any], engine: dict[str, Any], words: str
) -> None:
    assert words in cause_of(replace(AS_PLANNED, **seen), stored(**plan), {**ENGINE, **engine})


def test_on_cpu_the_variable_that_overrides_the_given_size_is_named() -> None:
    memory = replace(LLAMA_8B, kv_cache_bytes=64 * MIB, kv_cache_range=ByteRange(64 * MIB, 64 * MIB))
    cause = cause_of(Measured(kv_cache_bytes=4 * GIB), stored(memory), CPU_ENGINE)
    assert "VLLM_CPU_KVCACHE_SPACE" in cause and "4 GiB" in cause
    without = {**CPU_ENGINE, "kv_cache_memory_bytes": None}
    assert "the process" in cause_of(Measured(kv_cache_bytes=4 * GIB), stored(memory), without)


@pytest.mark.parametrize(("verdict", "word"), [("refused", "was refused"), ("does_not_fit", "does not fit")])
def test_an_engine_that_runs_although_the_plan_said_no_proves_the_plan_wrong(verdict: str, word: str) -> None:
    plan = stored(None, verdict=verdict, reasons=("28 heads are not divisible by 3.",))
    assert verdict_was_wrong(read_plan(plan))
    assert word in cause_of(AS_PLANNED, plan) and "28 heads" in cause_of(AS_PLANNED, plan)


@given(
    st.dictionaries(
        st.sampled_from(
            [
                "weight_bytes",
                "kv_room_bytes",
                "num_blocks",
                "block_tokens",
                "kv_cache_bytes",
                "activation_bytes",
            ]
        ),
        st.integers(0, 1 << 45),
    ),
    st.sampled_from(["fits", "tight", "unknown", "refused"]),
)
def test_whatever_was_measured_is_compared_and_what_is_off_has_a_cause(
    seen: dict[str, int], verdict: str
) -> None:
    measured = Measured(**seen)  # type: ignore[arg-type]
    plan = stored(verdict=verdict)
    cause = cause_of(measured, plan)
    is_off = any(one.is_off for one in differences_of(measured, plan).values())
    assert bool(cause) == (is_off or verdict == "refused")


def test_resolution_of_a_zero_is_half_a_hundredth() -> None:
    assert resolution_of_gib("0.0") == pytest.approx(0.005 * GIB)
