"""Vision towers: sizes against published parameter counts, logs and vLLM's own classes."""

from __future__ import annotations

from typing import Any

import pytest

from serving.planner.plan import make_plan
from serving.planner.request import BadPlanInput, PlanRequest
from tests.unit.planner.recorded import card

MISTRAL_SMALL_3_2: dict[str, Any] = {
    "architectures": ["Mistral3ForConditionalGeneration"], "model_type": "mistral3",
    "spatial_merge_size": 2, "multimodal_projector_bias": False, "projector_hidden_act": "gelu",
    "text_config": {
        "model_type": "mistral", "num_hidden_layers": 40, "hidden_size": 5120, "num_attention_heads": 32,
        "num_key_value_heads": 8, "head_dim": 128, "intermediate_size": 32768, "vocab_size": 131072,
        "max_position_embeddings": 131072, "sliding_window": None, "rope_theta": 1000000000.0,
    },
    "vision_config": {
        "model_type": "pixtral", "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24,
        "num_attention_heads": 16, "num_channels": 3, "image_size": 1540, "patch_size": 14,
    },
    "torch_dtype": "bfloat16",
}  # fmt: skip
QWEN_3_VL_30B: dict[str, Any] = {
    "architectures": ["Qwen3VLMoeForConditionalGeneration"], "model_type": "qwen3_vl_moe",
    "tie_word_embeddings": False,
    "text_config": {
        "model_type": "qwen3_vl_moe_text", "num_hidden_layers": 48, "hidden_size": 2048,
        "num_attention_heads": 32, "num_key_value_heads": 4, "head_dim": 128, "intermediate_size": 6144,
        "moe_intermediate_size": 768, "num_experts": 128, "num_experts_per_tok": 8, "vocab_size": 151936,
        "max_position_embeddings": 262144, "rope_theta": 5000000, "dtype": "bfloat16",
        "rope_scaling": {"mrope_interleaved": True, "mrope_section": [24, 20, 20], "rope_type": "default"},
    },
    "vision_config": {
        "depth": 27, "hidden_size": 1152, "intermediate_size": 4304, "num_heads": 16, "in_channels": 3,
        "patch_size": 16, "temporal_patch_size": 2, "spatial_merge_size": 2, "out_hidden_size": 2048,
        "num_position_embeddings": 2304, "deepstack_visual_indexes": [8, 16, 24],
    },
}  # fmt: skip


def parts(config: dict[str, Any], *, pipeline: int = 1) -> list[dict[str, int]]:
    plan = make_plan(
        PlanRequest(
            config,
            accelerator=card(usable_gib=141),
            pipeline_parallel_size=pipeline,
            max_model_len=4096,
            kv_cache_memory_bytes=1 << 30,
        )
    )
    assert plan.memory is not None, plan.reasons
    return [stage.weight_parts for stage in plan.memory.stages]


def test_mistral_small_has_the_published_tower() -> None:
    assert parts(MISTRAL_SMALL_3_2)[0]["vision_tower"] == pytest.approx(2 * 438_958_080, rel=2e-3)


def test_every_pipeline_stage_holds_the_tower() -> None:
    first, second = parts(MISTRAL_SMALL_3_2, pipeline=2)
    assert first["vision_tower"] == second["vision_tower"] > 800_000_000


def test_multimodal_positions_have_four_times_the_room() -> None:
    assert parts(QWEN_3_VL_30B)[0]["rotary_tables"] == 4 * 262144 * 128 * 2


def test_a_senseless_tower_is_named() -> None:
    with pytest.raises(BadPlanInput) as error:
        parts(QWEN_3_VL_30B | {"vision_config": [1, 2]})
    assert error.value.field == "vision_config"
