"""Which vLLM class an architecture name means, and how its layers are built. Pure.

One entry per architecture; the builders live beside it by kind of model. An architecture that is not here
has no closed form and is planned as unknown: silently wrong would be the worst answer.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from serving.planner import architecture_dense as dense
from serving.planner import architecture_hybrid as hybrid
from serving.planner import architecture_latent as latent
from serving.planner import architecture_mixture as mixture
from serving.planner.architecture import Layer, Traits
from serving.planner.architecture_fields import Fields
from serving.planner.architecture_sizes import Sizes
from serving.planner.architecture_unmodelled import Unmodelled

__all__ = ["FAMILIES", "Family", "Unmodelled"]

Built = tuple[list[Layer], Traits]


@dataclass(frozen=True)
class Family:
    """One closed form: `build` reads layers and traits; `ties_by_default`: the config class's default."""

    name: str
    build: Callable[[Fields, Sizes], Built]
    ties_by_default: bool = False


_LLAMA = Family("llama", dense.llama)

FAMILIES: dict[str, Family] = {
    **dict.fromkeys(
        ("LlamaForCausalLM", "LLaMAForCausalLM", "MistralForCausalLM", "Ministral3ForCausalLM",
         "InternLM3ForCausalLM", "CwmForCausalLM", "IQuestCoderForCausalLM", "TeleChat3ForCausalLM"),
        _LLAMA,
    ),
    "Phi3ForCausalLM": Family("phi3", dense.phi3),
    "Qwen2ForCausalLM": Family("qwen2", dense.qwen2),
    "Qwen3ForCausalLM": Family("qwen3", dense.qwen3),
    "Gemma2ForCausalLM": Family("gemma2", dense.gemma2, ties_by_default=True),
    "Gemma3ForCausalLM": Family("gemma3", dense.gemma3, ties_by_default=True),
    "Qwen2MoeForCausalLM": Family("qwen2_moe", mixture.qwen2_moe),
    "Qwen3MoeForCausalLM": Family("qwen3_moe", mixture.qwen3_moe),
    "MixtralForCausalLM": Family("mixtral", mixture.mixtral),
    "GptOssForCausalLM": Family("gpt_oss", mixture.gpt_oss),
    "Llama4ForCausalLM": Family("llama4", mixture.llama4),
    "DeepseekV2ForCausalLM": Family("deepseek_v2", latent.deepseek),
    "DeepseekV3ForCausalLM": Family("deepseek_v3", latent.deepseek),
    "Qwen3NextForCausalLM": Family("qwen3_next", hybrid.qwen3_next),
    "JambaForCausalLM": Family("jamba", hybrid.jamba),
}  # fmt: skip
