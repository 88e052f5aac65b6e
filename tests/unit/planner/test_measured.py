"""Figures of real engines: from recorded log lines, and from the series that a replica publishes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.planner.compare import compare, read_plan
from serving.planner.measured import Measured, facts_of_pages, from_facts, from_json, merged
from serving.planner.measured_log import bytes_of_gib, from_log, resolution_of_gib
from serving.planner.plan import make_plan
from serving.planner.report import stored
from serving.planner.request import PlanRequest
from tests.unit.planner.recorded import card, recording

RECORDED = Path(__file__).resolve().parents[2] / "recordings" / "engine_starts"
GIB = 1 << 30
MIB = 1 << 20


def recorded(name: str) -> str:
    return (RECORDED / name).read_text()


# --- logs --------------------------------------------------------------------------------------------------


def test_the_cpu_engine_says_its_cache_and_its_release_but_not_its_weights() -> None:
    seen = from_log(recorded("cpu_one_rank.txt"))
    assert (seen.kv_cache_tokens, seen.max_concurrency, seen.max_concurrency_at_tokens) == (21_760, 42.5, 512)
    assert seen.kv_room_bytes == bytes_of_gib("0.06")
    assert abs(64 * MIB - seen.kv_room_bytes) <= seen.resolution["kv_room_bytes"]
    assert (seen.engine_version, seen.weight_load_seconds) == ("0.29.0", 0.04)
    assert (seen.weight_bytes, seen.activation_bytes, seen.num_blocks) == (None, None, None)


def test_of_several_ranks_the_fullest_and_the_least_room_decide() -> None:
    seen = from_log(recorded("gpu_three_ranks.txt"))
    assert (seen.weight_bytes, seen.weight_load_seconds) == (bytes_of_gib("61.74"), 42.528694)
    assert seen.weight_bytes_per_stage == (bytes_of_gib("61.74"),)
    assert seen.kv_room_bytes == bytes_of_gib("17.73")
    assert (seen.kv_cache_tokens, seen.max_concurrency) == (2_143_243, 2.04)
    assert seen.cuda_graph_bytes == bytes_of_gib("0.25")
    # The logged peak holds the graphs' estimate; what was consumed holds the weights.
    assert seen.activation_bytes == pytest.approx((4.19 - 0.38) * GIB, abs=2)
    assert seen.non_torch_bytes == pytest.approx((64.5 - 61.74) * GIB, abs=2)
    assert (seen.free_at_start_bytes, seen.device_total_bytes) == (
        bytes_of_gib("91.45"),
        bytes_of_gib("94.97"),
    )


def test_the_estimate_of_the_graphs_is_no_part_of_the_peak_where_it_is_switched_off() -> None:
    text = recorded("gpu_three_ranks.txt").replace("profiling is enabled", "profiling is disabled")
    assert from_log(text).activation_bytes == bytes_of_gib("4.19")


def test_pipeline_stages_keep_their_own_weights() -> None:
    lines = [
        f"(Worker_PP{stage}_TP{rank} pid=1) INFO Model loading took {gib} GiB memory and 3.000000 seconds"
        for stage, gib in ((0, "5.48"), (1, "4.5"), (2, "5.07"))
        for rank in (0, 1)
    ]
    seen = from_log("\n".join(lines))
    assert seen.weight_bytes_per_stage == tuple(bytes_of_gib(gib) for gib in ("5.48", "4.50", "5.07"))
    assert seen.weight_bytes == bytes_of_gib("5.48")


ROWS = [row for row in recording("models.json")["observations"] if "model_loading_gib" in row["observed"]]


def lines_of(observed: dict[str, Any]) -> str:
    """An observation of vLLM 0.8 to 0.15 in the words in which those releases log it."""
    weights, graphs = observed["model_loading_gib"], observed.get("cuda_graph_gib")
    lines = [f"INFO [gpu_model_runner.py:2007] Model loading took {weights} GiB and 4.500000 seconds"]
    if "available_kv_gib" in observed:
        lines += [f"INFO [gpu_worker.py:276] Available KV cache memory: {observed['available_kv_gib']} GiB"]
    if "kv_tokens" in observed:
        lines += [f"INFO [kv_cache_utils.py:864] GPU KV cache size: {observed['kv_tokens']:,} tokens"]
    if "max_concurrency" in observed:
        at, times = observed["at_tokens_per_request"], observed["max_concurrency"]
        lines += [f"INFO [kv_cache_utils.py:868] Maximum concurrency for {at:,} tokens per request: {times}x"]
    if "peak_activation_gib" in observed:
        peak, outside = observed["peak_activation_gib"], observed["non_torch_gib"]
        lines += [
            "INFO [gpu_worker.py:391] Free memory on device (78.57/79.18 GiB) on startup. Desired GPU memory"
            f" utilization is (0.95, 75.22 GiB). Actual usage is {weights} GiB for weight, {peak} GiB for"
            f" peak activation, {outside} GiB for non-torch memory, and {graphs} GiB for CUDAGraph memory."
        ]
    elif graphs is not None:
        lines += [f"INFO [gpu_model_runner.py:3118] Graph capturing finished in 21 secs, took {graphs} GiB"]
    return "\n".join(lines)


@pytest.mark.parametrize("row", [pytest.param(row, id=f"{row['n']}-{row['model']}") for row in ROWS])
def test_figures_of_older_releases_are_read_too(row: dict[str, Any]) -> None:
    observed = row["observed"]
    seen = from_log(lines_of(observed))
    for figure, name in (
        ("model_loading_gib", "weight_bytes"),
        ("available_kv_gib", "kv_room_bytes"),
        ("cuda_graph_gib", "cuda_graph_bytes"),
        ("peak_activation_gib", "activation_bytes"),
        ("non_torch_gib", "non_torch_bytes"),
    ):
        expected = bytes_of_gib(str(observed[figure])) if figure in observed else None
        assert getattr(seen, name) == expected, name
    assert seen.kv_cache_tokens == observed.get("kv_tokens")
    assert seen.max_concurrency == observed.get("max_concurrency")
    assert seen.max_concurrency_at_tokens == observed.get("at_tokens_per_request")


PLANNED_MODELS = {one["id"]: one["config"] for one in recording("models.json")["models"]}
UNLIKE = 21
"""A Qwen2.5-0.5B log whose weights no reading of its classes explains."""


@pytest.mark.parametrize(
    "row",
    [pytest.param(row, id=f"{row['n']}-{row['model']}") for row in ROWS if row["model"] in PLANNED_MODELS],
)
def test_what_was_planned_and_logged_of_real_models_agrees(row: dict[str, Any]) -> None:
    setting = row["setting"]
    hopper = "H100" in setting["gpu"] or "gpt-oss" in row["model"]
    request = PlanRequest(
        PLANNED_MODELS[row["model"]],
        accelerator=card(
            usable_gib=setting.get("total_gib", 1000.0),
            name=setting["gpu"],
            capability=(9, 0) if hopper else (8, 6),
        ),
        tensor_parallel_size=setting.get("tp", 1),
        max_model_len=setting.get("max_len"),
    )
    plan = read_plan(stored(make_plan(request)))
    seen = from_log(lines_of(row["observed"]))
    found = compare(plan, seen, on_cpu=False, max_model_len=setting.get("max_len") or 0)
    (weights,) = [one for one in found if one.part == "weights"]
    assert weights.error is not None
    assert weights.is_off == (row["n"] == UNLIKE)


def test_colours_and_a_given_cache_size_are_read() -> None:
    text = (
        "\x1b[36m(EngineCore pid=7)\x1b[0m INFO [gpu_worker.py:545] Initial free memory 78.57 GiB, reserved "
        "20.0 GiB memory for KV Cache as specified by kv_cache_memory_bytes config and skipped memory"
        " profiling."
    )
    assert from_log(text).kv_room_bytes == 20 * GIB


@given(st.text())
def test_any_text_is_read_without_an_error(text: str) -> None:
    assert isinstance(from_log(text), Measured)


@given(st.floats(0.001, 5000).map(lambda gib: (gib, f"{round(gib, 2)}")))
def test_a_rounded_figure_is_as_far_from_the_real_one_as_its_resolution_says(pair: tuple[float, str]) -> None:
    real, text = pair
    assert abs(bytes_of_gib(text) - real * GIB) <= resolution_of_gib(text) * 1.000001 + 1


# --- series ------------------------------------------------------------------------------------------------


def test_a_replicas_series_give_exact_figures() -> None:
    facts = facts_of_pages([recorded("cpu_one_rank_series.txt")])
    assert list(facts) == ["ensy7h17"]
    assert (facts["ensy7h17"]["num_gpu_blocks"], facts["ensy7h17"]["block_size"]) == (170, 128)
    seen = from_facts(facts["ensy7h17"], ranks=1)
    assert (seen.weight_bytes, seen.weight_bytes_per_stage) == (10_934_880, (10_934_880,))
    assert (seen.kv_cache_bytes, seen.num_blocks, seen.block_tokens) == (66_846_720, 170, 128)
    assert (seen.kv_cache_tokens, seen.max_concurrency, seen.max_concurrency_at_tokens) == (21_760, 42.5, 512)
    # What was allocated is the room rounded down to whole blocks: less than one is missing.
    assert seen.kv_cache_bytes <= 64 * MIB < seen.kv_cache_bytes + seen.resolution["kv_cache_bytes"]
    assert seen.process_bytes and seen.is_known()


def test_series_of_several_ranks_are_told_by_stage_and_sums_are_not_taken_for_one_rank() -> None:
    facts = {"weights_bytes": 300, "kv_cache_bytes": 80, "kv_cache_blocks": 4}
    assert from_facts(facts, ranks=4).weight_bytes is None
    staged = {
        **facts,
        "stages": {
            "weights": {1: 90, 0: 60},
            "kv_cache": {0: 20, 1: 18},
            "loaded": {0: 61, 1: 92},
            "consumed": {0: 70, 1: 99},
            "kv_room": {0: 22, 1: 21},
        },
    }
    seen = from_facts(staged, ranks=4)
    assert (seen.weight_bytes, seen.weight_bytes_per_stage) == (90, (60, 90))
    assert (seen.kv_cache_bytes, seen.kv_room_bytes, seen.non_torch_bytes) == (20, 21, 9)


def test_an_engine_that_says_nothing_is_not_known() -> None:
    assert not from_facts({}, ranks=1).is_known()
    assert facts_of_pages(['ray_raydeck_weights_bytes{ReplicaId="a"} NaN', "nonsense {", ""]) == {}


def test_exact_figures_win_over_logged_ones_and_bring_their_own_resolution() -> None:
    exact = Measured(weight_bytes=100, resolution={"kv_cache_bytes": 8.0}, kv_cache_bytes=64)
    logged = Measured(
        weight_bytes=107, cuda_graph_bytes=5, resolution={"weight_bytes": 5.0, "cuda_graph_bytes": 5.0}
    )
    both = merged(exact, logged)
    assert (both.weight_bytes, both.cuda_graph_bytes, both.kv_cache_bytes) == (100, 5, 64)
    assert both.resolution == {"kv_cache_bytes": 8.0, "cuda_graph_bytes": 5.0}


def test_figures_survive_the_database() -> None:
    seen = from_log(recorded("gpu_three_ranks.txt"))
    assert from_json({**seen.to_json(), "of_a_later_release": 1}) == seen
    assert from_json({}) == Measured()
