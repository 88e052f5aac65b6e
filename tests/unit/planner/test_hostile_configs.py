"""Whatever stands in a config.json: a plan, or a refusal that names the field; never a traceback."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from serving.planner.plan import make_plan
from serving.planner.request import GIB, BadPlanInput, PlanRequest
from serving.planner.result import Plan
from tests.unit.planner.recorded import card, model, models

VERDICTS = ("fits", "tight", "does_not_fit", "refused", "unknown")
SAMPLES = [found["config"] for found in models()][::3]
NASTY: list[Any] = [
    None, True, False, -1, 0, 1, 3, 2**31, 10**30, -(10**30), 0.5, math.nan, math.inf, -math.inf, "",
    "x" * 5000,
    "NaN", [], {}, [[]], [1] * 5000, ["full_attention"] * 10, {"a": {"b": {"c": {}}}}, "../../etc/passwd",
    [None] * 50, {"first_8": [1], "counts": 3}, b"bytes",
]  # fmt: skip
EXTRA = (
    "quantization_config", "rope_scaling", "rope_parameters", "text_config", "vision_config",
    "sliding_window",
    "layer_types", "head_dim", "attention_bias", "num_local_experts", "n_shared_experts", "q_lora_rank",
    "tie_word_embeddings", "hidden_act", "mlp_only_layers", "no_rope_layers", "block_configs",
    "hybrid_override_pattern", "torch_dtype", "moe_intermediate_size", "linear_num_value_heads",
)  # fmt: skip


def answer(config: Any, **changes: Any) -> Plan | BadPlanInput:
    """The plan, or the error that names a field; anything else fails the test."""
    request = PlanRequest(config, accelerator=card(usable_gib=79.18), **changes)
    try:
        plan = make_plan(request)
    except BadPlanInput as error:
        assert error.field and error.message
        assert len(error.message) < 400
        return error
    assert plan.verdict in VERDICTS
    assert plan.verdict == "fits" or plan.reasons
    return plan


@settings(max_examples=600, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_mutated_configs_never_break_the_planner(data: st.DataObject) -> None:
    config = copy.deepcopy(data.draw(st.sampled_from(SAMPLES)))
    for _ in range(data.draw(st.integers(1, 4))):
        name = data.draw(st.sampled_from(sorted(config) + list(EXTRA)))
        value = data.draw(st.one_of(st.sampled_from(NASTY), st.integers(), st.text(max_size=20)))
        if data.draw(st.booleans()):
            config[name] = value
        else:
            config.pop(name, None)
    tensor, pipeline = data.draw(st.sampled_from([(1, 1), (2, 1), (3, 2), (8, 4), (64, 1)]))
    answer(config, tensor_parallel_size=tensor, pipeline_parallel_size=pipeline)


SECTION_KEYS = (
    "quant_method", "bits", "group_size", "modules_to_not_convert", "ignore", "config_groups", "quant_algo",
    "weight_block_size", "quantization", "format", "desc_act", "kv_cache_scheme", "exclude_modules",
    "ignored_layers",
)  # fmt: skip
METHODS = ("fp8", "awq", "gptq", "compressed-tensors", "modelopt", "mxfp4", "NVFP4", "fbgemm_fp8")
SECTION_VALUES = st.one_of(
    st.sampled_from([*METHODS, *NASTY]), st.integers(), st.lists(st.text(max_size=12), max_size=4)
)


@settings(max_examples=200, deadline=None)
@given(section=st.dictionaries(st.sampled_from(SECTION_KEYS), SECTION_VALUES))
def test_hostile_quantisation_sections(section: dict[str, Any]) -> None:
    answer(model("meta-llama/Llama-3.1-8B-Instruct")["config"] | {"quantization_config": section})


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("num_hidden_layers", 10**30),
        ("num_hidden_layers", 1_000_000),
        ("num_hidden_layers", -3),
        ("num_hidden_layers", True),
        ("num_attention_heads", 0),
        ("hidden_size", math.nan),
        ("hidden_size", "4096"),
        ("vocab_size", None),
        ("intermediate_size", {"a": 1}),
        ("num_key_value_heads", 7),
        ("rope_scaling", [1, 2]),
        ("rope_scaling", {"rope_type": "linear", "factor": 10**30}),
        ("layer_types", ["full_attention"] * 1_000_000),
        ("layer_types", [["full_attention"]] * 32),
        ("quantization_config", {"quant_method": 5}),
        ("quantization_config", "fp8"),
        ("intermediate_size", [1]),
        ("num_key_value_heads", [1]),
        ("num_attention_heads", None),
        ("torch_dtype", "float3"),
        ("torch_dtype", ["bfloat16"]),
        ("layer_types", ["frob"] * 32),
        ("layer_types", "full_attention"),
        ("text_config", [1]),
        ("model_type", ["x"]),
        ("rope_theta", [1]),
        ("rms_norm_eps", "small"),
        ("hidden_act", 3),
        ("use_sliding_window", [1]),
        ("architectures", []),
        ("architectures", "LlamaForCausalLM"),
        ("architectures", None),
    ],
)
def test_the_field_is_named(field: str, value: Any) -> None:
    found = answer(model("meta-llama/Llama-3.1-8B-Instruct")["config"] | {field: value})
    assert isinstance(found, BadPlanInput), found
    assert found.field == field


def test_missing_heads_are_named_and_not_invented() -> None:
    config = dict(model("meta-llama/Llama-3.1-8B-Instruct")["config"])
    del config["num_attention_heads"]
    found = answer(config)
    assert isinstance(found, BadPlanInput) and found.field == "num_attention_heads"


@pytest.mark.parametrize("field", ["intermediate_size", "num_key_value_heads"])
def test_a_size_per_layer_is_taken_where_classes_have_them(field: str) -> None:
    """Gemma 3n and OpenELM list such sizes; no closed form covers them."""
    config = model("meta-llama/Llama-3.1-8B-Instruct")["config"] | {
        "architectures": ["OpenELMForCausalLM"], field: [8] * 32,
    }  # fmt: skip
    found = answer(config)
    assert isinstance(found, Plan) and found.verdict == "unknown"


def test_too_many_experts_are_refused_before_any_sum() -> None:
    found = answer(model("Qwen/Qwen3-235B-A22B")["config"] | {"num_experts": 10**9})
    assert isinstance(found, BadPlanInput)
    assert found.field == "num_experts"


@pytest.mark.parametrize(
    "pattern", ["re:(a+)+$", "re:(.*)*x", r"re:(\w+)\1", "re:" + ".*" * 60, "re:(", "re:" + "(" * 300]
)
def test_expressions_that_never_end_are_refused(pattern: str) -> None:
    section = {"quant_method": "compressed-tensors", "format": "float-quantized", "ignore": [pattern]}
    found = answer(model("meta-llama/Llama-3.1-8B-Instruct")["config"] | {"quantization_config": section})
    assert isinstance(found, BadPlanInput)
    assert found.field == "ignore"


def test_deep_nesting_does_not_overflow() -> None:
    config: dict[str, Any] = dict(model("meta-llama/Llama-3.1-8B-Instruct")["config"])
    nest: dict[str, Any] = {}
    for _ in range(5000):
        nest = {"text_config": nest}
    answer(config | {"text_config": nest})


@settings(max_examples=60, deadline=None)
@given(small=st.integers(1, 60 * GIB), more=st.integers(0, 20 * GIB))
def test_more_cache_memory_never_holds_less(small: int, more: int) -> None:
    config = model("openai/gpt-oss-120b")["config"]
    tokens = []
    for size in (small, small + more):
        plan = make_plan(
            PlanRequest(
                config, accelerator=card(usable_gib=1000), kv_cache_memory_bytes=size, max_model_len=8192
            )
        )
        assert plan.memory is not None
        tokens.append(plan.memory.kv_cache_tokens)
    assert tokens[0] <= tokens[1]


@settings(max_examples=60, deadline=None)
@given(
    index=st.integers(0, len(SAMPLES) - 1),
    used=st.integers(1, 20),
    length=st.sampled_from([512, 2048, 4096]),
)
def test_a_larger_share_of_the_card_never_turns_fits_into_less(index: int, used: int, length: int) -> None:
    order = {"does_not_fit": 0, "tight": 1, "fits": 2}
    verdicts = []
    for utilization in (used / 20 * 0.9, min(0.95, used / 20 * 0.9 + 0.05)):
        plan = make_plan(
            PlanRequest(
                SAMPLES[index],
                accelerator=card(usable_gib=141),
                gpu_memory_utilization=utilization,
                max_model_len=length,
            )
        )
        verdicts.append(order.get(plan.verdict, 0))
    assert verdicts[0] <= verdicts[1]
