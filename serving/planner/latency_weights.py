"""How many weights of a layer one token is multiplied with, and at which peak: what FLOPs follow from. Pure.

Counts per tensor-parallel rank, of the large matrices alone. Bytes are never computed here: they are the
plan's own (`Memory.stages[].weight_parts`), and bytes over weights say how many bits each takes.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

from serving.planner.architecture import Architecture, Attention, Latent, Layer, Recurrent
from serving.planner.request import Accelerator

WeightClass = Literal["attention", "mlp", "experts", "head", "other", "unread"]

UNREAD_PARTS = ("rotary", "vision", "audio", "encoder", "projector", "buffer")
MIXING_PARTS = ("attention", "recurrent", "mamba", "linear_attention", "convolution")
FOUR_BIT_BELOW = 6.5
EIGHT_BIT_BELOW = 12.0
"""Bits per weight, scales and padding included, that tell the formats apart."""


def weight_class(part: str) -> WeightClass:
    """Which class a part of the weights (a key of `weight_parts`) belongs to, by its name."""
    if part in ("head", "lm_head"):
        return "head"
    if part == "embedding" or any(word in part for word in UNREAD_PARTS):
        return "unread"
    if part == "experts":
        return "experts"
    if any(word in part for word in MIXING_PARTS):
        return "attention"
    return "mlp" if "mlp" in part or "shared_expert" in part else "other"


def class_bytes(parts: dict[str, int], architecture: Architecture, *, is_last: bool) -> dict[str, float]:
    """Bytes per class of one stage. A head that is tied to the embedding is read where it is used: last."""
    sums: dict[str, float] = {}
    for part, held in parts.items():
        kind = weight_class(part)
        sums[kind] = sums.get(kind, 0.0) + held
    # Some classes build the head on every stage; only the last one ever multiplies with it.
    head = sums.pop("head", 0.0)
    if not head and architecture.tie_word_embeddings:
        head = float(parts.get("embedding", 0))
    if is_last:
        sums["head"] = head
    sums.pop("unread", None)
    return sums


def class_weights(
    layers: Iterable[Layer], architecture: Architecture, tensor_parallel_size: int
) -> dict[str, float]:
    """Weights per class on one rank of the given layers; all experts are counted."""
    hidden, ranks = architecture.hidden_size, tensor_parallel_size
    counts = {"attention": 0.0, "mlp": 0.0, "experts": 0.0}
    for layer in layers:
        if layer.attention:
            counts["attention"] += attention_weights(layer.attention, hidden, ranks)
        if layer.recurrent:
            counts["attention"] += recurrent_weights(layer.recurrent, hidden) / ranks
        counts["mlp"] += 3 * hidden * layer.dense_intermediate / ranks
        if layer.mixture:
            counts["mlp"] += 3 * hidden * layer.mixture.shared_intermediate / ranks
            counts["experts"] += 3 * hidden * layer.mixture.intermediate * layer.mixture.experts / ranks
    return counts


def attention_weights(attention: Attention, hidden: int, ranks: int) -> float:
    """Weights of one attention block on one rank; key/value heads are replicated beyond their number."""
    if attention.latent:
        return latent_weights(attention.latent, heads=attention.heads / ranks, hidden=hidden)
    kv_heads = max(1.0, attention.kv_heads / ranks)
    queries = attention.heads / ranks * (attention.head_dim + attention.value_head_dim)
    return hidden * (queries + kv_heads * (attention.head_dim + attention.value_head_dim))


def latent_weights(latent: Latent, *, heads: float, hidden: int) -> float:
    """Weights of one MLA block on one rank: the projections down are replicated, those up are sharded."""
    query_dim = latent.nope_head_dim + latent.rope_head_dim
    query = hidden * heads * query_dim
    if latent.query_rank:
        query = latent.query_rank * (hidden + heads * query_dim)
    down = hidden * (latent.key_value_rank + latent.rope_head_dim)
    up = latent.key_value_rank * heads * (latent.nope_head_dim + latent.value_head_dim)
    return query + down + up + heads * latent.value_head_dim * hidden


def recurrent_weights(recurrent: Recurrent, hidden: int) -> float:
    """Weights of the projections of one recurrent block, unsharded: in (with its gate) and out."""
    inner = recurrent.heads * recurrent.head_dim
    return hidden * (3 * inner + 2 * recurrent.groups * recurrent.state_size)


def peak_of(bits: float, *, card: Accelerator, config: dict[str, Any]) -> tuple[float, bool]:
    """(FLOP/s that weights of so many bits are multiplied at, whether they are first widened to 16 bits).

    Formats the accelerator has no arithmetic for are weight-only: vLLM's Marlin kernels read the narrow
    weights and multiply in 16 bits. MXFP4 experts are multiplied with 8-bit activations on accelerators that
    have FP4 arithmetic.
    """
    assert card.flops_16bit is not None
    if bits >= EIGHT_BIT_BELOW:
        return card.flops_16bit, False
    if bits >= FOUR_BIT_BELOW:
        return (card.flops_fp8, False) if card.flops_fp8 else (card.flops_16bit, True)
    method = four_bit_method(config)
    if method == "mxfp4" and card.flops_fp4 and card.flops_fp8:
        return card.flops_fp8, False
    if method == "nvfp4" and card.flops_fp4:
        return card.flops_fp4, False
    return card.flops_16bit, True


def four_bit_method(config: dict[str, Any]) -> str:
    """mxfp4, nvfp4 or integer, as the config's quantisation section says."""
    section = config.get("quantization_config") or _text(config).get("quantization_config") or {}
    if not isinstance(section, dict):
        return "integer"
    words = " ".join(str(section.get(key, "")) for key in ("quant_method", "quant_algo", "format")).lower()
    if "mxfp4" in words:
        return "mxfp4"
    return "nvfp4" if "fp4" in words else "integer"


def _text(config: dict[str, Any]) -> dict[str, Any]:
    text = config.get("text_config")
    return text if isinstance(text, dict) else {}
