"""Why vLLM 0.29 would refuse a model, a topology or the options before any memory is counted. Pure.

Sources: config/model.py (verify_with_parallel_config, dtype and length checks), config/scheduler.py, the
quantisation classes' minimum capability and types. Each refusal names the field and the divisor; what is
found while weights are divided comes from `weights`.
"""

from __future__ import annotations

from serving.engine_support import engine_support
from serving.planner.architecture import Architecture
from serving.planner.quantization_reading import Quantization
from serving.planner.request import PlanRequest

Refusal = tuple[str, str]
"""(field, message)"""

NO_FLOAT16 = ("gemma2", "gemma3", "gemma3_text", "glm4")
NO_PIPELINE = ("mamba2", "gemma3n", "zamba2")
UNNAMED_TEXT_MODEL = ("qwen3_vl", "qwen3_vl_moe")
"""With stages vLLM looks for the text part's class by its architectures, which these configs do not give."""
BFLOAT16_CAPABILITY = 80


def refusals(request: PlanRequest, architecture: Architecture, quantization: Quantization) -> list[Refusal]:
    """What the engine would refuse at start, the first being what it would say. `request` is resolved."""
    return [
        *_architecture(architecture),
        *_quantization(request, quantization),
        *_types(request, architecture, quantization),
        *_windows(architecture),
        *_parallel(request, architecture),
        *_lengths(request, architecture),
    ]


def _architecture(architecture: Architecture) -> list[Refusal]:
    support, name = engine_support(), architecture.name or ""
    version = support["vllm_version"]
    if name in support["draft_only"]:
        return [("architectures", f"{name} is a draft model for speculative decoding, not served alone.")]
    if name in support["no_longer_supported"]:
        last = support["no_longer_supported"][name]
        return [("architectures", f"{name} was supported by vLLM up to {last}, and is not by {version}.")]
    if name in support["needs_plugin"]:
        return [("architectures", f"{name} needs a vLLM plugin ({support['needs_plugin'][name]}).")]
    return []


def _quantization(request: PlanRequest, quantization: Quantization) -> list[Refusal]:
    if quantization.refusal:
        return [("quantization", quantization.refusal)]
    card = request.accelerator
    capability = card.compute_capability if card else None
    if capability is None or card is None or not quantization.method:
        return []
    have, least = capability[0] * 10 + capability[1], quantization.minimum_capability
    if have < least:
        return [
            (
                "quantization",
                f"{quantization.method} needs compute capability {least / 10:.1f}; "
                f"{card.name} has {have / 10:.1f}.",
            )
        ]
    return []


def _types(request: PlanRequest, architecture: Architecture, quantization: Quantization) -> list[Refusal]:
    card = request.accelerator
    capability = card.compute_capability if card else None
    if architecture.dtype == "float16" and architecture.model_type in NO_FLOAT16:
        return [
            (
                "dtype",
                f"vLLM does not run {architecture.model_type} in float16, which is too imprecise for it.",
            )
        ]
    if architecture.dtype == "float16" and quantization.method == "mxfp4":
        return [("dtype", "MXFP4 models run in bfloat16 only.")]
    if (
        card
        and capability
        and capability[0] * 10 + capability[1] < BFLOAT16_CAPABILITY
        and architecture.dtype == "bfloat16"
    ):
        return [
            (
                "dtype",
                f"bfloat16 needs compute capability 8.0; {card.name} has {capability[0]}.{capability[1]}. "
                "Ask for float16.",
            )
        ]
    return []


def _windows(architecture: Architecture) -> list[Refusal]:
    """vLLM's Qwen 2 class has one attention for all layers: either all keep a window or none."""
    text, layers = architecture.text, len(architecture.layers)
    first = text.get("max_window_layers")
    if architecture.family != "qwen2" or text.get("use_sliding_window") is not True:
        return []
    if type(first) is not int or not 0 < first < layers or not text.get("sliding_window"):
        return []
    return [
        (
            "max_window_layers",
            f"vLLM does not run a sliding window in some layers only: max_window_layers is {first}, "
            f"the model has {layers} layers.",
        )
    ]


def _parallel(request: PlanRequest, architecture: Architecture) -> list[Refusal]:
    tensor, pipeline = request.tensor_parallel_size, request.pipeline_parallel_size
    found: list[Refusal] = []
    if architecture.attention_layers and architecture.attention_heads % tensor:
        found.append(
            (
                "tensor_parallel_size",
                f"Total number of attention heads ({architecture.attention_heads}) must be divisible by "
                f"tensor parallel size ({tensor}).",
            )
        )
    if pipeline > 1 and architecture.family in NO_PIPELINE:
        found.append(
            ("pipeline_parallel_size", f"{architecture.name} does not support pipeline parallelism.")
        )
    is_unnamed = architecture.family in UNNAMED_TEXT_MODEL and not architecture.text.get("architectures")
    if pipeline > 1 and is_unnamed:
        found.append(
            (
                "pipeline_parallel_size",
                f"vLLM does not build {architecture.name} in pipeline stages: its text_config names no "
                "architectures.",
            )
        )
    if pipeline > len(architecture.layers):
        found.append(
            (
                "pipeline_parallel_size",
                f"{pipeline} pipeline stages are more than the model's {len(architecture.layers)} layers.",
            )
        )
    mixture = architecture.mixture
    if mixture is not None and tensor > mixture.experts:
        found.append(
            (
                "tensor_parallel_size",
                f"Tensor parallel size {tensor} is greater than the number of experts {mixture.experts}.",
            )
        )
    return found


def _lengths(request: PlanRequest, architecture: Architecture) -> list[Refusal]:
    found: list[Refusal] = []
    length, batch, sequences = request.max_model_len, request.max_num_batched_tokens, request.max_num_seqs
    assert length is not None and batch is not None and sequences is not None
    if length > architecture.max_context_tokens and architecture.is_known:
        found.append(
            (
                "max_model_len",
                f"max_model_len {length:,} is beyond the model's {architecture.max_context_tokens:,} tokens.",
            )
        )
    if batch < sequences:
        found.append(
            (
                "max_num_batched_tokens",
                f"max_num_batched_tokens ({batch:,}) must be at least max_num_seqs ({sequences:,}).",
            )
        )
    return found
