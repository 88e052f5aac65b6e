"""All ways to split a model: what is possible, in which order, what stands out, and why the rest is not."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal

import pytest

from serving.accelerators import accelerator
from serving.planner.request import PlanRequest
from serving.planner.topologies import ClusterView, Topology, topologies
from tests.unit.planner.configs import LLAMA_8B, LLAMA_70B, QWEN_7B
from tests.unit.planner.recorded import model

NOWHERE = ClusterView(seen=False)


def question(config: dict[str, object], name: str = "H100", **options: object) -> PlanRequest:
    defaults: dict[str, object] = {"max_model_len": 16_384, "max_num_seqs": 64, "concurrency": 16}
    return PlanRequest(config=config, accelerator=accelerator(name), **{**defaults, **options})  # type: ignore[arg-type]


def by_sizes(ranked: list[Topology]) -> dict[tuple[int, int], Topology]:
    return {(one.tensor_parallel_size, one.pipeline_parallel_size): one for one in ranked}


def test_possible_pairs_come_first_with_ranks_from_one() -> None:
    ranked = topologies(question(LLAMA_8B), NOWHERE)
    ranks = [one.rank for one in ranked]
    possible = [rank for rank in ranks if rank is not None]
    assert possible == list(range(1, len(possible) + 1))
    assert ranks[len(possible) :] == [None] * (len(ranks) - len(possible))
    assert {(1, 1), (2, 1), (4, 1), (8, 1), (2, 2), (8, 2)} <= {
        sizes for sizes, one in by_sizes(ranked).items() if one.is_possible
    }


def test_the_impossible_say_the_divisor_once() -> None:
    found = by_sizes(topologies(question(QWEN_7B), NOWHERE))
    assert "28" in found[(3, 1)].impossible
    assert "3" in found[(3, 1)].impossible
    assert (3, 2) not in found


def test_what_does_not_fit_says_how_much_is_missing() -> None:
    found = by_sizes(topologies(question(LLAMA_70B), NOWHERE))
    assert "GiB" in found[(1, 1)].impossible
    assert found[(4, 1)].is_possible


def test_the_distinctions_are_what_they_say() -> None:
    ranked = [one for one in topologies(question(LLAMA_70B), NOWHERE) if one.plan.verdict == "fits"]
    marked = {mark: one for one in ranked for mark in one.marks}
    assert set(marked) == {"best_latency", "best_cost", "smallest"}
    latencies = [one.plan.latency.tpot_s.expected for one in ranked if one.plan.latency]
    costs = [one.plan.money.usd_per_million_output_tokens for one in ranked if one.plan.money]
    fastest, cheapest = marked["best_latency"].plan, marked["best_cost"].plan
    assert fastest.latency is not None
    # Cheaper ones that the prediction cannot tell from the fastest come first.
    assert fastest.latency.tpot_s.expected <= min(latencies) * 1.1
    assert cheapest.money is not None
    assert cheapest.money.usd_per_million_output_tokens == min(cost for cost in costs if cost is not None)
    assert marked["smallest"].accelerators == min(one.accelerators for one in ranked)
    assert all(reason for one in ranked for reason in one.marks.values())


def test_a_difference_inside_the_error_does_not_cost_twice_the_money() -> None:
    large = model("meta-llama/Llama-3.1-405B-Instruct-FP8(kv16)")["config"] | {
        "num_key_value_heads": 8,
        "quantization_config": {"quant_method": "fp8", "activation_scheme": "dynamic"},
    }  # fmt: skip
    for config in (LLAMA_70B, large):
        for load in (1, 8, 64, 256):
            asked = question(config, concurrency=load, max_num_seqs=256)
            ranked = topologies(asked, NOWHERE, most_accelerators=16)
            marked = next(one for one in ranked if "best_latency" in one.marks)
            assert marked.plan.latency is not None and marked.plan.money is not None
            time, reason = marked.plan.latency.tpot_s.expected, marked.marks["best_latency"]
            for one in ranked:
                if one.plan.verdict != "fits" or one.plan.latency is None or one.plan.money is None:
                    continue
                if one.plan.money.usd_per_hour < marked.plan.money.usd_per_hour:
                    assert one.plan.latency.tpot_s.expected > time * 1.02, (load, one.accelerators)
                if one.plan.latency.tpot_s.expected < time:
                    assert "within the error" in reason
                    assert one.plan.money.usd_per_hour > marked.plan.money.usd_per_hour


def test_stages_do_not_lower_the_bound_of_a_single_request() -> None:
    found = by_sizes(topologies(question(LLAMA_8B, concurrency=1), NOWHERE))
    one, two = found[(1, 1)].plan.latency, found[(1, 2)].plan.latency
    assert one is not None and two is not None
    assert two.tpot_s.expected == pytest.approx(one.tpot_s.expected, rel=0.05)
    assert two.tpot_s.low >= one.tpot_s.low * 0.999
    assert two.ttft_unloaded_s.low >= one.ttft_unloaded_s.low * 0.9
    assert two.tpot_s.high > one.tpot_s.high


def test_tensor_parallel_spans_nodes_only_when_asked_and_then_with_a_warning() -> None:
    two_nodes = ClusterView({"a": 4, "b": 4}, {"a": 4, "b": 4})
    inside = by_sizes(topologies(question(LLAMA_8B), two_nodes))
    assert "network" in inside[(8, 1)].impossible
    assert inside[(8, 1)].rank is None
    spanning = by_sizes(topologies(question(LLAMA_8B), two_nodes, tp_may_span_nodes=True))
    assert spanning[(8, 1)].spans_nodes
    assert "network" in spanning[(8, 1)].warning
    assert not spanning[(4, 1)].warning


@pytest.mark.parametrize(
    ("free", "sizes", "now"),
    [
        ({"a": 4, "b": 4}, (4, 2), "free"),
        ({"a": 4, "b": 2}, (4, 2), "waits"),
        ({"a": 2, "b": 2}, (4, 1), "waits"),
        ({"a": 2, "b": 2}, (2, 2), "free"),
        ({"a": 4, "b": 4}, (4, 4), "never"),
    ],
)
def test_room_on_the_cluster_counts_whole_groups_per_node(
    free: dict[str, int], sizes: tuple[int, int], now: str
) -> None:
    view = ClusterView({"a": 4, "b": 4}, free)
    assert by_sizes(topologies(question(LLAMA_8B), view))[sizes].now == now


def test_a_cluster_without_the_type_can_never_place_it_and_is_still_planned() -> None:
    ranked = topologies(question(LLAMA_8B), ClusterView())
    assert {one.now for one in ranked} == {"never"}
    assert any(one.rank == 1 for one in ranked)


def test_the_price_of_a_topology_is_its_accelerators() -> None:
    base = question(LLAMA_8B, usd_per_accelerator_hour=Decimal("2.50"))
    for one in topologies(base, NOWHERE):
        if one.plan.money is not None:
            assert one.plan.money.usd_per_hour == Decimal("2.50") * one.accelerators


def test_the_load_changes_the_prediction_not_the_memory() -> None:
    light = by_sizes(topologies(question(LLAMA_8B), NOWHERE))[(1, 1)].plan
    heavy = by_sizes(topologies(replace(question(LLAMA_8B), concurrency=64), NOWHERE))[(1, 1)].plan
    assert light.memory == heavy.memory
    assert light.latency is not None
    assert heavy.latency is not None
    assert heavy.latency.tpot_s.expected > light.latency.tpot_s.expected
