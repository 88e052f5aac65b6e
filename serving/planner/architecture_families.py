"""Which vLLM class an architecture name means, and how its layers are built. Pure.

One entry per architecture; the builders live beside it by kind of model. An architecture that is not here
has no closed form and is planned as unknown: silently wrong would be the worst answer.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from serving.planner import architecture_classic as classic
from serving.planner import architecture_dense as dense
from serving.planner import architecture_hybrid as hybrid
from serving.planner import architecture_latent as latent
from serving.planner import architecture_mixture as mixture
from serving.planner import architecture_transformers as transformers
from serving.planner.architecture import Layer, Traits
from serving.planner.architecture_fields import Fields
from serving.planner.architecture_gemma4 import gemma4
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
    tower: str = ""


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
    "OlmoeForCausalLM": Family("olmoe", mixture.olmoe),
    "PhiMoEForCausalLM": Family("phimoe", mixture.phimoe),
    "Ernie4_5_MoeForCausalLM": Family("ernie45_moe", mixture.ernie_moe, ties_by_default=True),
    "Glm4MoeForCausalLM": Family("glm4_moe", mixture.glm4_moe),
    "MiniMaxM2ForCausalLM": Family("minimax_m2", mixture.minimax_m2),
    "GraniteMoeForCausalLM": Family("granitemoe", mixture.granite_moe),
    "GraniteMoeSharedForCausalLM": Family("granitemoeshared", mixture.granite_moe),
    "GemmaForCausalLM": Family("gemma", classic.gemma, ties_by_default=True),
    "GPT2LMHeadModel": Family("gpt2", classic.gpt2, ties_by_default=True),
    "GPTNeoXForCausalLM": Family("gpt_neox", classic.gpt_neox),
    "OPTForCausalLM": Family("opt", classic.opt, ties_by_default=True),
    "BloomForCausalLM": Family("bloom", classic.bloom, ties_by_default=True),
    "FalconForCausalLM": Family("falcon", classic.falcon, ties_by_default=True),
    "PhiForCausalLM": Family("phi", classic.phi),
    "CohereForCausalLM": Family("commandr", classic.cohere, ties_by_default=True),
    "Cohere2ForCausalLM": Family("commandr", classic.cohere, ties_by_default=True),
    "StableLmForCausalLM": Family("stablelm", classic.stablelm),
    "InternLM2ForCausalLM": Family("internlm2", classic.internlm2),
    "GlmForCausalLM": Family("glm", classic.glm),
    "Glm4ForCausalLM": Family("glm4", classic.glm4),
    "Ernie4_5ForCausalLM": Family("ernie45", classic.ernie, ties_by_default=True),
    "SeedOssForCausalLM": Family("seed_oss", classic.seed_oss),
    "Exaone4ForCausalLM": Family("exaone4", classic.exaone4),
    "NemotronForCausalLM": Family("nemotron", classic.nemotron),
    "ArceeForCausalLM": Family("arcee", classic.arcee),
    "ApertusForCausalLM": Family("apertus", classic.apertus),
    "MiMoForCausalLM": Family("mimo", classic.mimo),
    "GraniteForCausalLM": Family("granite", classic.granite),
    "SolarForCausalLM": Family("solar", dense.llama),
    "ExaoneForCausalLM": Family("exaone", dense.llama),
    "DeepseekV2ForCausalLM": Family("deepseek_v2", latent.deepseek),
    "DeepseekV3ForCausalLM": Family("deepseek_v3", latent.deepseek),
    "DeepseekV32ForCausalLM": Family("deepseek_v32", latent.sparse_deepseek),
    "GlmMoeDsaForCausalLM": Family("glm_moe_dsa", latent.sparse_deepseek),
    "Glm4MoeLiteForCausalLM": Family("glm4_moe_lite", latent.glm4_moe_lite),
    "Qwen3NextForCausalLM": Family("qwen3_next", hybrid.qwen3_next),
    "Qwen3_5ForCausalLM": Family("qwen3_5", hybrid.qwen3_5),
    "Qwen3_5MoeForCausalLM": Family("qwen3_5_moe", hybrid.qwen3_5),
    "JambaForCausalLM": Family("jamba", hybrid.jamba),
    "GraniteMoeHybridForCausalLM": Family("granitemoehybrid", hybrid.granite_hybrid),
    "NemotronHForCausalLM": Family("nemotron_h", hybrid.nemotron_h),
    "FalconH1ForCausalLM": Family("falcon_h1", hybrid.falcon_h1),
    "Lfm2ForCausalLM": Family("lfm2", hybrid.lfm2, ties_by_default=True),
    "Lfm2MoeForCausalLM": Family("lfm2_moe", hybrid.lfm2, ties_by_default=True),
    "SmolLM3ForCausalLM": Family("smollm3", transformers.smollm3, ties_by_default=True),
    "OlmoForCausalLM": Family("olmo", transformers.olmo),
    "Olmo2ForCausalLM": Family("olmo2", transformers.olmo2),
    "Olmo3ForCausalLM": Family("olmo3", transformers.olmo3),
    "Starcoder2ForCausalLM": Family("starcoder2", transformers.starcoder2, ties_by_default=True),
    "Gemma4ForCausalLM": Family("gemma4", gemma4, ties_by_default=True),
    "Gemma3ForConditionalGeneration": Family("gemma3", dense.gemma3, ties_by_default=True, tower="siglip"),
    "Mistral3ForConditionalGeneration": Family("mistral3", dense.llama, tower="pixtral"),
    "Qwen2VLForConditionalGeneration": Family("qwen2_vl", dense.qwen2, tower="qwen2_vl"),
    "Qwen2_5_VLForConditionalGeneration": Family("qwen2_5_vl", dense.qwen2, tower="qwen2_5_vl"),
    "Qwen3VLForConditionalGeneration": Family("qwen3_vl", dense.qwen3, tower="qwen3_vl"),
    "Qwen3VLMoeForConditionalGeneration": Family("qwen3_vl_moe", mixture.qwen3_moe, tower="qwen3_vl"),
    "Qwen3_5ForConditionalGeneration": Family("qwen3_5", hybrid.qwen3_5, tower="qwen3_vl"),
    "Qwen3_5MoeForConditionalGeneration": Family("qwen3_5_moe", hybrid.qwen3_5, tower="qwen3_vl"),
    "Llama4ForConditionalGeneration": Family("llama4", mixture.llama4, tower="llama4"),
    "MambaForCausalLM": Family("mamba", hybrid.mamba, ties_by_default=True),
    "FalconMambaForCausalLM": Family("falcon_mamba", hybrid.mamba, ties_by_default=True),
    "Mamba2ForCausalLM": Family("mamba2", hybrid.mamba2),
}  # fmt: skip
