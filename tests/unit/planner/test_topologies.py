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
    two_nodes = ClusterView({"a": 8, "b": 8}, {"a": 8, "b": 8})
    inside = by_sizes(topologies(question(LLAMA_8B), two_nodes))
    assert "network" in inside[(16, 1)].impossible
    assert inside[(16, 1)].rank is None
    spanning = by_sizes(topologies(question(LLAMA_8B), two_nodes, tp_may_span_nodes=True))
    assert spanning[(16, 1)].spans_nodes
    assert spanning[(16, 1)].now == "free"
    assert "network" in spanning[(16, 1)].warning
    assert not spanning[(4, 1)].warning
    smaller = by_sizes(
        topologies(
            question(LLAMA_8B), ClusterView({"a": 4, "b": 4}, {"a": 4, "b": 4}), tp_may_span_nodes=True
        )
    )
    assert (smaller[(8, 1)].now, smaller[(8, 1)].nodes_at_least) == ("free", 2)
    assert "over 2 nodes" in smaller[(8, 1)].warning


def test_what_the_cluster_is_too_small_for_is_planned_as_it_could_be() -> None:
    ranked = topologies(question(LLAMA_70B), ClusterView({"a": 1}, {"a": 1}))
    four = by_sizes(ranked)[(4, 1)]
    assert (four.plan.verdict, four.impossible, four.now) == ("fits", "", "never")
    assert four.now_reason == "The largest node has 1."
    assert four.nodes_at_least == 1
    assert any(one.marks for one in ranked)


def test_what_the_cluster_can_hold_comes_before_what_it_never_can() -> None:
    ranked = topologies(question(LLAMA_8B), ClusterView({"a": 2}, {"a": 2}))
    fitting = [one.now for one in ranked if one.plan.verdict == "fits" and one.rank]
    assert fitting[0] == "free"
    assert fitting == sorted(fitting, key=lambda now: now == "never")
    assert all(one.now == "free" for one in ranked if one.marks)


@pytest.mark.parametrize(
    ("total", "free", "now"),
    [
        ({"a": 3, "b": 3}, {"a": 3, "b": 3}, "never"),
        ({"a": 4, "b": 4}, {"a": 3, "b": 3}, "waits"),
        ({"a": 4, "b": 4}, {"a": 2, "b": 2}, "free"),
        ({"a": 4, "b": 4}, {"a": 1, "b": 4}, "free"),
    ],
)
def test_room_that_would_split_a_group_is_none(total: dict[str, int], free: dict[str, int], now: str) -> None:
    one = by_sizes(topologies(question(LLAMA_8B), ClusterView(total, free)))[(2, 2)]
    assert one.now == now
    assert ("would span nodes" in one.now_reason) == (now != "free")
    assert one.is_possible  # on other nodes it would serve


def test_a_size_that_every_usual_node_splits_is_impossible() -> None:
    heads = {**LLAMA_8B, "num_attention_heads": 48, "num_key_value_heads": 48, "hidden_size": 6144}
    one = by_sizes(
        topologies(question({**heads, "vocab_size": 3072 * 40, "intermediate_size": 12288}), NOWHERE)
    )
    assert "would span nodes" in one[(3, 4)].impossible
    assert not one[(3, 2)].impossible


def test_without_a_core_beside_it_no_accelerator_is_free() -> None:
    busy = ClusterView({"a": 8}, {"a": 8}, {"a": 0.0})
    assert by_sizes(topologies(question(LLAMA_8B), busy))[(1, 1)].now == "waits"


def on_cpu(**options: object) -> PlanRequest:
    defaults: dict[str, object] = {
        "config": LLAMA_8B, "node_memory_bytes": 96 << 30, "max_model_len": 4096,
        "kv_cache_memory_bytes": 1 << 30,
    }  # fmt: skip
    return PlanRequest(**{**defaults, **options})  # type: ignore[arg-type]


def test_on_cpu_all_ranks_share_one_node() -> None:
    found = by_sizes(topologies(on_cpu(), ClusterView({"a": 2, "b": 2}, {"a": 2, "b": 2})))
    assert found[(2, 1)].now == "free"
    assert found[(1, 2)].now == "free"
    both = found[(2, 2)]
    assert (both.now, both.nodes_at_least, both.spans_nodes) == ("never", 1, False)
    assert "share one node" in both.now_reason
    assert not any("network" in one.impossible for one in found.values())
    waits = by_sizes(topologies(on_cpu(), ClusterView({"a": 4}, {"a": 2})))[(2, 2)]
    assert waits.now == "waits"


def test_cpu_ranks_divide_one_nodes_memory() -> None:
    plan = by_sizes(topologies(on_cpu(), ClusterView({"a": 8}, {"a": 8})))[(2, 2)].plan
    assert plan.memory is not None
    assert plan.memory.usable_bytes == (96 << 30) // 4


def test_the_number_of_plans_is_bounded_whatever_the_nodes_have() -> None:
    big = ClusterView({"a": 64, "b": 64}, {"a": 64, "b": 64})
    for spans in (False, True):
        ranked = topologies(question(LLAMA_8B), big, tp_may_span_nodes=spans, most_accelerators=10_000)
        assert len(ranked) < 100
        assert max(one.accelerators for one in ranked) <= 64


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
