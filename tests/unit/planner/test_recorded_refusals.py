"""Topologies that vLLM 0.29 refused or took (recorded), and refusals that need no memory count."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from serving.planner.plan import make_plan
from serving.planner.request import GIB, PlanRequest
from serving.planner.result import Plan
from tests.unit.planner.recorded import card, model, recording
from tests.unit.planner.test_vision_towers import QWEN_3_VL_30B

CASES = recording("models.json")["refusals"]["cases"]
LLAMA = "meta-llama/Llama-3.1-8B-Instruct"

PHI_4: dict[str, Any] = {
    "architectures": ["Phi3ForCausalLM"], "model_type": "phi3", "num_hidden_layers": 40, "hidden_size": 5120,
    "num_attention_heads": 40, "num_key_value_heads": 10, "intermediate_size": 17920, "vocab_size": 100352,
    "max_position_embeddings": 16384, "torch_dtype": "bfloat16",
}  # fmt: skip
GRANITE_4_SMALL: dict[str, Any] = {
    "architectures": ["GraniteMoeHybridForCausalLM"], "model_type": "granitemoehybrid",
    "num_hidden_layers": 40, "hidden_size": 4096, "num_attention_heads": 32, "num_key_value_heads": 8,
    "intermediate_size": 768, "shared_intermediate_size": 1536, "vocab_size": 100352,
    "num_local_experts": 72, "num_experts_per_tok": 10, "mamba_n_heads": 128, "mamba_d_head": 64,
    "mamba_d_state": 128, "mamba_n_groups": 1, "mamba_d_conv": 4, "mamba_expand": 2, "mamba_conv_bias": True,
    "mamba_proj_bias": False, "attention_bias": False, "position_embedding_type": "nope",
    "layer_types": [("attention" if index in (5, 15, 25, 35) else "mamba") for index in range(40)],
    "max_position_embeddings": 131072, "tie_word_embeddings": True, "torch_dtype": "bfloat16",
}  # fmt: skip
OTHERS = {"microsoft/phi-4": PHI_4, "ibm-granite/granite-4.0-h-small": GRANITE_4_SMALL}
SAME_AS = {
    "openai/gpt-oss-20b": "openai/gpt-oss-120b",
    "meta-llama/Llama-3.1-405B-Instruct-FP8 (fbgemm_fp8)": "meta-llama/Llama-3.1-405B-Instruct-FP8(kv16)",
}


def plan(name: str, **changes: Any) -> Plan:
    config = OTHERS.get(name) or model(SAME_AS.get(name, name))["config"]
    given = {"accelerator": card(usable_gib=79.18), "max_model_len": 4096, "kv_cache_memory_bytes": 4 * GIB}
    return make_plan(PlanRequest(config, **(given | changes)))


@pytest.mark.parametrize(("name", "facts", "tensor", "pipeline", "verdict", "message"), CASES)
def test_recorded_verdict(
    name: str, facts: dict[str, int], tensor: int, pipeline: int, verdict: str, message: str
) -> None:
    found = plan(name, tensor_parallel_size=tensor, pipeline_parallel_size=pipeline)
    assert found.architecture_is_known
    assert (found.verdict == "refused") == (verdict == "refuse"), (found.verdict, found.reasons)
    if found.verdict == "refused":
        assert found.reasons[0] and found.refused_field


@pytest.mark.parametrize(
    ("changes", "field", "words"),
    [
        ({"tensor_parallel_size": 3}, "tensor_parallel_size", "divisible by tensor parallel size (3)"),
        ({"pipeline_parallel_size": 33}, "pipeline_parallel_size", "33 pipeline stages"),
        ({"max_model_len": 200_000}, "max_model_len", "131,072"),
        ({"max_num_seqs": 512, "max_num_batched_tokens": 256}, "max_num_batched_tokens", "max_num_seqs"),
        ({"quantization": "bitsandbytes"}, "quantization", "bitsandbytes"),
        ({"quantization": "gguf"}, "quantization", "gguf"),
        ({"quantization": "awq"}, "quantization", "is not"),
    ],
)
def test_refused_with_the_field_and_the_number(changes: dict[str, Any], field: str, words: str) -> None:
    found = plan(LLAMA, **changes)
    assert (found.verdict, found.refused_field) == ("refused", field)
    assert words in found.reasons[0]


@pytest.mark.parametrize("method", ["bitsandbytes", "gguf", "aqlm", "hqq", "eetq"])
def test_quantisation_methods_that_vllm_dropped(method: str) -> None:
    config = model(LLAMA)["config"] | {"quantization_config": {"quant_method": method}}
    found = make_plan(PlanRequest(config, accelerator=card(usable_gib=79.18)))
    assert found.verdict == "refused"
    assert method in found.reasons[0]


def test_fp8_needs_a_capability() -> None:
    config = model("Qwen/Qwen3-8B-FP8")["config"] | {"torch_dtype": "float16"}
    old = card(usable_gib=32, name="V100", capability=(7, 0))
    found = make_plan(PlanRequest(config, accelerator=old))
    assert found.verdict == "refused"
    assert "7.5" in found.reasons[0] and "V100" in found.reasons[0]


def test_bfloat16_needs_a_capability() -> None:
    found = plan(LLAMA, accelerator=card(usable_gib=15, name="T4", capability=(7, 5)))
    assert (found.verdict, found.refused_field) == ("refused", "dtype")


def test_blocks_of_fp8_weights_must_stay_whole() -> None:
    config = model("Qwen/Qwen3-8B-FP8")["config"] | {"intermediate_size": 12288 + 128}
    found = make_plan(
        PlanRequest(config, accelerator=card(usable_gib=79.18), tensor_parallel_size=4, max_model_len=4096)
    )
    assert (found.verdict, found.refused_field) == ("refused", "quantization_config")
    assert "128" in found.reasons[0]


def test_groups_of_packed_weights_must_stay_whole() -> None:
    found = plan("Qwen/Qwen2.5-7B-Instruct-AWQ", tensor_parallel_size=4)
    # 18,944 / 4 = 4,736 = 37 groups of 128: whole
    assert found.verdict != "refused"
    config = model("Qwen/Qwen2.5-7B-Instruct-AWQ")["config"] | {"intermediate_size": 18944 - 128}
    found = make_plan(PlanRequest(config, accelerator=card(usable_gib=79.18), tensor_parallel_size=4))
    assert (found.verdict, found.refused_field) == ("refused", "quantization_config")


def test_an_architecture_that_vllm_dropped() -> None:
    config = model(LLAMA)["config"] | {"architectures": ["BaichuanForCausalLM"]}
    found = make_plan(PlanRequest(config, accelerator=card(usable_gib=79.18)))
    assert (found.verdict, found.refused_field) == ("refused", "architectures")
    assert "0.23.0" in found.reasons[0]


@pytest.mark.parametrize(
    ("section", "word"),
    [
        ({"quant_method": "gptq", "bits": 4, "group_size": 128, "sym": False}, "asymmetric"),
        ({"quant_method": "gptq", "bits": 3, "group_size": 128, "sym": True}, "3"),
        ({"quant_method": "awq", "bits": 8, "group_size": 128, "zero_point": True}, "4 bits"),
        (
            {
                "quant_method": "compressed-tensors", "format": "float-quantized", "config_groups": {},
                "sparsity_config": {"format": "sparse-24-bitmask", "targets": ["Linear"]},
            },
            "sparse",
        ),
    ],
)  # fmt: skip
def test_formats_that_the_engine_has_no_kernel_for(section: dict[str, Any], word: str) -> None:
    config = model(LLAMA)["config"] | {"quantization_config": section}
    found = make_plan(PlanRequest(config, accelerator=card(usable_gib=79.18)))
    assert (found.verdict, found.refused_field) == ("refused", "quantization")
    assert word in found.reasons[0]


def test_a_window_in_some_layers_only_of_qwen_2() -> None:
    sliding = {"use_sliding_window": True, "sliding_window": 4096, "max_window_layers": 14}
    config = model("Qwen/Qwen2.5-7B-Instruct")["config"] | sliding
    found = make_plan(PlanRequest(config, accelerator=card(usable_gib=79.18)))
    assert (found.verdict, found.refused_field) == ("refused", "max_window_layers")
    everywhere = make_plan(
        PlanRequest(config | {"max_window_layers": 28}, accelerator=card(usable_gib=79.18))
    )
    assert everywhere.verdict == "fits"


def test_experts_of_compressed_tensors_get_no_finer_blocks() -> None:
    weights = {"num_bits": 8, "type": "float", "strategy": "block", "block_structure": [128, 128]}
    config = model("Qwen/Qwen3-235B-A22B")["config"] | {
        "moe_intermediate_size": 768,
        "quantization_config": {
            "quant_method": "compressed-tensors", "format": "float-quantized", "ignore": ["lm_head"],
            "config_groups": {"group_0": {"targets": ["Linear"], "weights": weights}},
        },
    }  # fmt: skip
    request = PlanRequest(
        config, accelerator=card(usable_gib=79.18), tensor_parallel_size=4, kv_cache_memory_bytes=GIB
    )
    found = make_plan(request)
    assert (found.verdict, found.refused_field) == ("refused", "quantization_config")
    finer = {"quant_method": "fp8", "activation_scheme": "dynamic", "weight_block_size": [128, 128]}
    assert make_plan(replace(request, config=config | {"quantization_config": finer})).verdict != "refused"


def test_qwen_3_vl_has_no_stages() -> None:
    request = PlanRequest(
        QWEN_3_VL_30B, accelerator=card(usable_gib=79.18), pipeline_parallel_size=2, max_model_len=4096
    )
    found = make_plan(request)
    assert (found.verdict, found.refused_field) == ("refused", "pipeline_parallel_size")
    named = QWEN_3_VL_30B | {
        "text_config": QWEN_3_VL_30B["text_config"] | {"architectures": ["Qwen3MoeForCausalLM"]}
    }
    assert make_plan(replace(request, config=named)).verdict == "fits"
