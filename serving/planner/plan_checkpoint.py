"""What a checkpoint's tensors and size say against its config.json: formats it does not name. Pure.

GPTQ and AWQ checkpoints leave it to their tensors which modules are quantised (vLLM reads the safetensors
headers for it); ModelOpt's may hold their quantisation in a file of its own, hf_quant_config.json.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from serving.planner.architecture import Architecture
from serving.planner.quantization_reading import Quantization
from serving.planner.request import PlanRequest, TensorGroup
from serving.planner.weights import total_parameters

PACKED = ("qweight", "weight_packed")
NARROW = ("U8", "I8", "I32", "F8_E4M3", "F8_E5M2", "F8_E8M0", "F4")
SMALLEST_SHARE = 0.7
"""A 16-bit checkpoint below this share of its config's parameters is not the whole model, or not 16 bit."""


def with_tensors(quantization: Quantization, tensors: tuple[TensorGroup, ...] | None) -> Quantization:
    """GPTQ and AWQ: only modules whose tensors are packed are quantised, as vLLM decides it."""
    if quantization.method not in ("gptq", "awq") or not tensors:
        return quantization
    quantized = frozenset(_modules(tensors))
    if not quantized:
        return quantization
    return replace(quantization, modules=quantized, head=any(name.endswith("lm_head") for name in quantized))


def _modules(tensors: Iterable[TensorGroup]) -> Iterable[str]:
    """Names within a layer of the packed modules (`self_attn.q_proj`, `mlp.experts.*.gate_proj`)."""
    for group in tensors:
        name, _, last = group.pattern.rpartition(".")
        if last in PACKED:
            yield name.partition("layers.*.")[2] or name


def doubt(request: PlanRequest, architecture: Architecture, quantization: Quantization) -> str:
    """Why the config cannot be all there is to say of the checkpoint; empty where nothing is against it."""
    if quantization.method is not None or not architecture.is_known:
        return ""
    narrow = _narrow_weight(request.tensors or ())
    if narrow:
        return (
            f"The checkpoint's {narrow.pattern} is stored as {narrow.dtype}, but config.json names no "
            "quantisation (it may be in hf_quant_config.json), so the weights cannot be computed."
        )
    if request.checkpoint_bytes:
        expected = 2 * total_parameters(architecture)
        if request.checkpoint_bytes < expected * SMALLEST_SHARE:
            return (
                f"The checkpoint has {request.checkpoint_bytes:,} bytes, its config describes {expected:,} "
                "in 16 bit: it is quantised without saying so, or not whole."
            )
    return ""


def _narrow_weight(tensors: Iterable[TensorGroup]) -> TensorGroup | None:
    return next(
        (
            group
            for group in tensors
            if group.dtype in NARROW and group.pattern.endswith(("weight", "weight_packed"))
        ),
        None,
    )
