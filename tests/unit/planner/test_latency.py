"""Predicted times move the way the machine does, have their unit, and say nothing where nothing is known."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.planner.architecture import Attention, Latent
from serving.planner.architecture_reading import read_architecture
from serving.planner.latency import load_of, predict, shipped_coefficients, tpot_parts, unknown_because
from serving.planner.latency_weights import class_bytes, class_weights, four_bit_method, peak_of, weight_class
from serving.planner.latency_work import prefill_terms, work_of
from serving.planner.plan import make_plan
from serving.planner.request import PlanRequest
from serving.planner.result import Latency
from tests.unit.planner.latency_cases import CARD, ask, case


def times(request: PlanRequest, **memory: Any) -> Latency:
    latency = predict(*case(request, **memory))
    assert latency is not None
    return latency


def test_one_request_on_an_h100_takes_at_least_its_weights_reading_time() -> None:
    latency = times(ask())
    weights_s = 2 * 7.5e9 / CARD.memory_bandwidth_bytes_per_s  # type: ignore[operator]
    assert weights_s < latency.tpot_s.expected < 4 * weights_s
    assert latency.tpot_s.low < latency.tpot_s.expected < latency.tpot_s.high
    assert latency.basis == "roofline" and "without a queue" in latency.band_note


def test_the_parts_add_up_to_the_prediction() -> None:
    for request in (ask(concurrency=8), ask(pipeline_parallel_size=2, concurrency=8)):
        latency = times(request)
        assert sum(latency.parts_s.values()) == pytest.approx(latency.tpot_s.expected)
        assert latency.parts_s["weights"] > 0 and latency.parts_s["layers"] > 0


@settings(max_examples=60, deadline=None)
@given(
    concurrency=st.integers(1, 400),
    more=st.integers(0, 400),
    prompt=st.integers(1, 20_000),
    output=st.integers(1, 4_000),
    tensor=st.sampled_from((1, 2, 4, 8)),
    stages=st.sampled_from((1, 2, 4)),
)
def test_more_requests_never_make_a_token_faster(
    concurrency: int, more: int, prompt: int, output: int, tensor: int, stages: int
) -> None:
    request = ask(
        prompt_tokens=prompt,
        output_tokens=output,
        tensor_parallel_size=tensor,
        pipeline_parallel_size=stages,
    )
    few = times(replace(request, concurrency=concurrency)).tpot_s
    many = times(replace(request, concurrency=concurrency + more)).tpot_s
    assert many.expected >= few.expected * (1 - 1e-9)
    assert 0 < few.low <= few.expected <= few.high


@settings(max_examples=40, deadline=None)
@given(factor=st.floats(1.0, 10.0), concurrency=st.integers(1, 256), prompt=st.integers(1, 20_000))
def test_a_faster_accelerator_is_never_slower(factor: float, concurrency: int, prompt: int) -> None:
    request = ask(concurrency=concurrency, prompt_tokens=prompt, tensor_parallel_size=2)
    before = times(request)
    for field in ("memory_bandwidth_bytes_per_s", "flops_16bit", "intra_node_bytes_per_s"):
        card = replace(CARD, **{field: getattr(CARD, field) * factor})
        after = times(replace(request, accelerator=card))
        assert after.tpot_s.expected <= before.tpot_s.expected * (1 + 1e-9)
        assert after.ttft_unloaded_s.expected <= before.ttft_unloaded_s.expected * (1 + 1e-9)


def test_more_tensor_parallel_ranks_read_fewer_weights_and_pay_all_reduces() -> None:
    parts = [times(ask(tensor_parallel_size=ranks)).parts_s for ranks in (1, 2, 4, 8)]
    weights = [part["weights"] for part in parts]
    assert weights == sorted(weights, reverse=True) and weights[3] < weights[0] / 6
    reduces = [part["all_reduce"] for part in parts]
    assert reduces[0] == 0 and reduces == sorted(reduces)


def test_all_reduces_over_the_network_cost_more_than_inside_a_node() -> None:
    inside = ask(tensor_parallel_size=8, concurrency=64)
    across = replace(inside, nodes_per_replica=2)
    assert times(across).parts_s["all_reduce"] > 1.5 * times(inside).parts_s["all_reduce"]
    assert "so slow a link" in times(across).band_note


def test_pipeline_stages_do_not_speed_up_one_request_but_share_many() -> None:
    one, two = ask(concurrency=1), ask(concurrency=1, pipeline_parallel_size=2)
    assert times(two).tpot_s.expected > times(one).tpot_s.expected * 0.999
    assert "pipeline stages" in times(two).band_note
    widest = times(two).tpot_s
    assert widest.high / widest.expected > times(one).tpot_s.high / times(one).tpot_s.expected


def test_a_long_prompt_costs_more_than_its_share_and_chunks_do_not_make_it_cheaper() -> None:
    short = times(ask(prompt_tokens=8_000)).ttft_unloaded_s.expected
    long = times(ask(prompt_tokens=80_000)).ttft_unloaded_s.expected
    assert long > 10 * short
    chunked = times(ask(prompt_tokens=80_000, max_num_batched_tokens=1024)).ttft_unloaded_s.expected
    assert chunked > long


def test_a_pipeline_prefills_chunks_side_by_side() -> None:
    alone = times(ask(prompt_tokens=60_000, max_num_batched_tokens=2048)).ttft_unloaded_s.expected
    piped = times(ask(prompt_tokens=60_000, max_num_batched_tokens=2048, pipeline_parallel_size=4))
    assert piped.ttft_unloaded_s.expected < alone / 2


def test_requests_that_do_not_fit_wait_and_the_note_says_so() -> None:
    crowded = times(ask(concurrency=200), num_blocks=720)
    assert crowded.tpot_s == times(ask(concurrency=10), num_blocks=720).tpot_s
    assert "At most 10 of 200 requests run at once" in crowded.band_note
    asked, _, memory = case(ask(concurrency=300))
    assert load_of(asked, memory).running == asked.max_num_seqs == 256


@pytest.mark.parametrize("field", ["memory_bandwidth_bytes_per_s", "flops_16bit"])
def test_an_accelerator_with_unknown_figures_is_not_guessed(field: str) -> None:
    request = ask(accelerator=replace(CARD, **{field: None}))
    assert predict(*case(request)) is None
    assert "is not known" in unknown_because(*case(request))
    assert unknown_because(*case(ask())) == ""


def test_without_an_accelerator_or_a_known_fabric_nothing_is_predicted() -> None:
    assert predict(*case(ask(accelerator=None))) is None
    unknown = replace(CARD, intra_node_bytes_per_s=None)
    assert predict(*case(ask(accelerator=unknown))) is not None
    assert predict(*case(ask(accelerator=unknown, tensor_parallel_size=2))) is None


def test_experts_touched_grow_with_the_batch_up_to_all_of_them() -> None:
    request, architecture, memory = case(ask(model="gpt-oss-120b", precision="fp4"), weight_bytes=0.53)
    work = work_of(request, architecture, memory)
    assert work.touched_share(1) == pytest.approx(4 / 128)
    assert 0.99 < work.touched_share(200) < 1
    few = tpot_parts(work, load_of(request, memory), shipped_coefficients())["weights"]
    everything = sum(stage.fixed_weights_s + stage.expert_weights_s for stage in work.stages)
    assert few < everything / 3


def test_a_sliding_window_bounds_what_is_read_and_multiplied() -> None:
    request, architecture, memory = case(ask(model="gpt-oss-120b", precision="fp4"), weight_bytes=0.53)
    reads = {each.window_tokens: each for each in work_of(request, architecture, memory).stages[0].attention}
    assert set(reads) == {None, 128} and reads[128].layers == 18
    assert reads[128].attended(10_000) == 128 and reads[None].attended(10_000) == 10_000
    assert reads[None].pairs(1000) == 500_000 and reads[128].pairs(1000) == 128 * 1000 - 128 * 64


def test_key_value_heads_are_not_split_below_one_per_rank() -> None:
    work = work_of(*case(ask(tensor_parallel_size=8)))
    # 8 key/value heads of 128 in 16 bits: one head per rank of eight, not fewer on sixteen.
    assert work.stages[0].attention[0].kv_bytes_per_token == 2 * 128 * 2
    wider = work_of(*case(ask(tensor_parallel_size=16)))
    assert wider.stages[0].attention[0].kv_bytes_per_token == 2 * 128 * 2


def test_latent_attention_reads_one_vector_whatever_the_ranks() -> None:
    latent = Latent(
        query_rank=1536, key_value_rank=512, nope_head_dim=128, rope_head_dim=64, value_head_dim=128
    )
    attention = Attention("mla", heads=64, kv_heads=64, head_dim=192, value_head_dim=128, latent=latent)
    for ranks in (1, 8):
        request, architecture, memory = case(ask(tensor_parallel_size=ranks))
        layers = tuple(replace(layer, attention=attention) for layer in architecture.layers)
        reads = work_of(request, replace(architecture, layers=layers), memory).stages[0].attention[0]
        assert reads.kv_bytes_per_token == (512 + 64) * 2
        assert reads.decode_flops_per_pair > reads.prefill_flops_per_pair


def test_an_fp8_cache_halves_the_read() -> None:
    full = times(ask(concurrency=64)).parts_s["kv_cache"]
    half = times(ask(concurrency=64, kv_cache_dtype="fp8")).parts_s["kv_cache"]
    assert half == pytest.approx(full / 2)


def test_fewer_bits_read_faster_but_weight_only_formats_pay_for_widening() -> None:
    wide, eight, four = (times(ask(), weight_bytes=size).parts_s["weights"] for size in (2.0, 1.0, 0.52))
    assert eight < wide * 0.65 and four < eight
    assert four > eight * 0.52 * 1.05


def test_formats_are_multiplied_at_the_peak_the_accelerator_has_for_them() -> None:
    blackwell = replace(CARD, flops_16bit=2250e12, flops_fp8=4500e12, flops_fp4=9000e12)
    ampere = replace(CARD, flops_fp8=None)
    nvfp4 = {"quantization_config": {"quant_method": "modelopt", "quant_algo": "NVFP4"}}
    mxfp4 = {"quantization_config": {"quant_method": "mxfp4"}}
    awq = {"text_config": {"quantization_config": {"quant_method": "awq"}}}
    assert peak_of(16, card=CARD, config={}) == (989e12, False)
    assert peak_of(8.02, card=CARD, config={}) == (1979e12, False)
    assert peak_of(8.02, card=ampere, config={}) == (989e12, True)
    assert peak_of(4.5, card=blackwell, config=nvfp4) == (9000e12, False)
    assert peak_of(4.5, card=CARD, config=nvfp4) == (989e12, True)
    assert peak_of(4.25, card=blackwell, config=mxfp4) == (4500e12, False)
    assert peak_of(4.16, card=blackwell, config=awq) == (2250e12, True)
    assert four_bit_method({"quantization_config": "nonsense"}) == "integer"


def test_parts_of_the_weights_are_told_apart_by_name() -> None:
    names = {
        "attention": "attention", "mlp": "mlp", "shared_experts": "mlp", "experts": "experts", "head": "head",
        "embedding": "unread", "rotary tables": "unread", "vision tower": "unread", "norms": "other",
        "router": "other", "recurrent": "attention",
    }  # fmt: skip
    assert {name: weight_class(name) for name in names} == names


def test_every_term_is_priced_once() -> None:
    fitted = shipped_coefficients()
    request, architecture, memory = case(ask())
    work = work_of(request, architecture, memory)
    assert set(prefill_terms(work, work.stages[0], prompt_tokens=100)) == set(fitted.prefill)
    assert all(value >= 0 for value in (*fitted.decode.values(), *fitted.prefill.values()))
    assert all(low <= high for low, high in fitted.bands.values())


@pytest.mark.parametrize(
    ("model", "precision"),
    [("Llama-3.1-70B", "fp8"), ("Qwen3-32B", "bf16"), ("gpt-oss-120b", "fp4"), ("Kimi-K2.5", "fp4")],
)
@pytest.mark.parametrize("ranks", [1, 4, 8])
def test_a_plan_reads_the_very_cache_that_it_holds(model: str, precision: str, ranks: int) -> None:
    huge = replace(CARD, usable_bytes=1 << 41, accelerators_per_node=16)
    request = ask(model=model, precision=precision, tensor_parallel_size=ranks, accelerator=huge)
    plan = make_plan(request)
    assert plan.memory is not None and plan.latency is not None
    architecture = read_architecture(request.config)
    reads = work_of(request, architecture, plan.memory).stages[0].attention
    per_token = sum(each.layers * each.kv_bytes_per_token for each in reads)
    assert per_token == plan.memory.stages[0].kv_bytes_per_token


@pytest.mark.parametrize(
    ("model", "precision", "bits"),
    [
        ("Llama-3.1-8B", "bf16", {"attention": 16, "mlp": 16}),
        ("Llama-3.1-70B", "fp8", {"attention": 8, "mlp": 8}),
        ("gpt-oss-120b", "fp4", {"attention": 16, "experts": 4.25}),
        ("Kimi-K2.5", "int4", {"attention": 16, "mlp": 16, "experts": 4.5}),
    ],
)
def test_the_plans_bytes_over_the_counted_weights_are_the_formats_bits(
    model: str, precision: str, bits: dict[str, float]
) -> None:
    request = ask(model=model, precision=precision, accelerator=replace(CARD, usable_bytes=1 << 41))
    memory, architecture = make_plan(request).memory, read_architecture(request.config)
    assert memory is not None
    held = class_bytes(memory.stages[0].weight_parts, architecture, is_last=True)
    counted = class_weights(architecture.layers, architecture, 1)
    found = {name: 8 * held[name] / counted[name] for name in bits}
    assert found == pytest.approx(bits, rel=0.1)
