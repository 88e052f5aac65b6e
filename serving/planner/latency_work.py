"""What one engine step has to do: bytes read, floating point work, kernels and transfers of each stage. Pure.

Counts only. How long a count takes on real machines is `latency`'s, from coefficients that were fitted on
measurements; it must not know them. Bytes of weights come from the plan's own memory, so that latency and
memory can never speak of different models.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import log2
from typing import Any

from serving.planner.architecture import Architecture, Attention, Layer
from serving.planner.latency_weights import class_bytes, class_weights, peak_of
from serving.planner.request import Accelerator, PlanRequest
from serving.planner.result import Memory, StageMemory

TYPICAL_BATCHED_TOKENS = 2048
"""vLLM 0.29's smallest default of max_num_batched_tokens, for plans that do not say one."""


class UnknownSpeed(Exception):
    """Nothing can be predicted; the message is a sentence that names what is not known."""


@dataclass(frozen=True)
class Reads:
    """The attention of several equal layers on one rank.

    `kv_bytes_per_token` of one layer; `flops_per_pair`: work for one new token and one token it attends to,
    while prefilling and while decoding.
    """

    layers: int
    window_tokens: int | None
    kv_bytes_per_token: float
    prefill_flops_per_pair: float
    decode_flops_per_pair: float

    def attended(self, context_tokens: float) -> float:
        """Tokens of the context that one new token attends to."""
        return min(context_tokens, self.window_tokens) if self.window_tokens else context_tokens

    def pairs(self, prompt_tokens: float) -> float:
        """Pairs of tokens of a whole causal prompt: half the square, or a band of the window's width."""
        seen = self.attended(prompt_tokens)
        return prompt_tokens * seen - seen * seen / 2


@dataclass(frozen=True)
class StageWork:
    """One rank of one pipeline stage. Seconds here are at the accelerator's peak, before any coefficient."""

    layers: int
    moe_layers: int
    all_reduces: int
    fixed_weights_s: float
    expert_weights_s: float
    fixed_dequantised_s: float
    expert_dequantised_s: float
    linear_s_per_token: float
    head_s_per_sequence: float
    attention: tuple[Reads, ...]
    state_s_per_sequence: float


@dataclass(frozen=True)
class Work:
    """A whole replica's steps. `hop_bytes_per_token`: what one stage hands to the next."""

    stages: tuple[StageWork, ...]
    accelerator: Accelerator
    hidden_size: int
    element_bytes: int
    experts: int
    experts_per_token: int
    tensor_parallel_size: int
    link_bytes_per_s: float | None
    hop_bytes_per_s: float | None
    batched_tokens: int
    memory_bandwidth_bytes_per_s: float
    flops_16bit: float

    @property
    def all_reduce_depth(self) -> float:
        """How the cost of starting an all-reduce grows with the ranks: log2, 0 for one rank."""
        return log2(self.tensor_parallel_size)

    def touched_share(self, tokens: float) -> float:
        """Share of the experts that at least one of `tokens` tokens is routed to, if routing were even."""
        if not self.experts:
            return 0.0
        return 1.0 - (1.0 - self.experts_per_token / self.experts) ** tokens

    def all_reduce_s_per_token(self, stage: StageWork) -> float:
        """Seconds on the wire per token: a ring moves 2 (n - 1) / n of the activations per all-reduce."""
        ranks = self.tensor_parallel_size
        if ranks == 1 or not self.link_bytes_per_s:
            return 0.0
        one = self.hidden_size * self.element_bytes * 2 * (ranks - 1) / ranks
        return stage.all_reduces * one / self.link_bytes_per_s

    def hop_s(self, tokens: float) -> float:
        """Seconds on the wire between two stages for the hidden states of `tokens` tokens."""
        if not self.hop_bytes_per_s:
            return 0.0
        return tokens * self.hidden_size * self.element_bytes / self.hop_bytes_per_s


def decode_terms(
    work: Work, stage: StageWork, *, sequences: float, context_tokens: float
) -> dict[str, float]:
    """One step that gives each of `sequences` sequences its next token, at `context_tokens` tokens each.

    Keys are those of the fitted decode coefficients; seconds at the peak, or counts of kernels' groups.
    """
    touched = work.touched_share(sequences)
    kv_bytes = flops = 0.0
    for reads in stage.attention:
        attended = reads.attended(context_tokens) * sequences * reads.layers
        kv_bytes += attended * reads.kv_bytes_per_token
        flops += attended * reads.decode_flops_per_pair
    return {
        "weights": stage.fixed_weights_s + touched * stage.expert_weights_s,
        "dequantisation": stage.fixed_dequantised_s + touched * stage.expert_dequantised_s,
        "kv_cache": kv_bytes / work.memory_bandwidth_bytes_per_s + sequences * stage.state_s_per_sequence,
        "compute": sequences * (stage.linear_s_per_token + stage.head_s_per_sequence)
        + flops / work.flops_16bit,
        "layers": float(stage.layers),
        "all_reduces": stage.all_reduces * work.all_reduce_depth,
        "moe_layers": float(stage.moe_layers),
        "all_reduce_bytes": sequences * work.all_reduce_s_per_token(stage),
    }


def prefill_terms(work: Work, stage: StageWork, *, prompt_tokens: float) -> dict[str, float]:
    """All chunks of one prompt that nothing was cached of, through one stage. Keys as the fitted ones."""
    chunks = max(1.0, prompt_tokens / work.batched_tokens)
    touched = work.touched_share(prompt_tokens / chunks)
    flops = sum(
        reads.layers * reads.prefill_flops_per_pair * reads.pairs(prompt_tokens) for reads in stage.attention
    )
    activations = prompt_tokens * stage.layers * work.hidden_size * work.element_bytes
    return {
        "request": 1.0,
        "weights": chunks * (stage.fixed_weights_s + touched * stage.expert_weights_s),
        "compute": prompt_tokens * stage.linear_s_per_token
        + stage.head_s_per_sequence
        + flops / work.flops_16bit,
        "activations": activations / work.memory_bandwidth_bytes_per_s,
        "layers": chunks * stage.layers,
        "all_reduces": chunks * stage.all_reduces * work.all_reduce_depth,
        "moe_layers": chunks * stage.moe_layers,
        "all_reduce_bytes": prompt_tokens * work.all_reduce_s_per_token(stage),
    }


def work_of(request: PlanRequest, architecture: Architecture, memory: Memory) -> Work:
    """What each stage has to do. Raises UnknownSpeed where the accelerator or its fabric is not known."""
    card = request.accelerator
    if card is None:
        raise UnknownSpeed("Without an accelerator no speed is predicted.")
    if (card.memory_bandwidth_bytes_per_s or 0) <= 0 or (card.flops_16bit or 0) <= 0:
        raise UnknownSpeed(f"The memory bandwidth or the 16-bit peak of {card.name} is not known.")
    if not memory.stages:
        raise UnknownSpeed("How the model's weights are spread is not known.")
    assert card.memory_bandwidth_bytes_per_s and card.flops_16bit
    link, hop = _links(request, card)
    if request.tensor_parallel_size > 1 and (link or 0) <= 0:
        raise UnknownSpeed(f"How fast {card.name} accelerators reach each other is not known.")
    mixture = architecture.mixture
    return Work(
        stages=tuple(_stage(request, architecture, memory, stage) for stage in memory.stages),
        accelerator=card,
        hidden_size=architecture.hidden_size,
        element_bytes=architecture.bytes_per_element,
        experts=mixture.experts if mixture else 0,
        experts_per_token=mixture.experts_per_token if mixture else 0,
        tensor_parallel_size=request.tensor_parallel_size,
        link_bytes_per_s=link,
        hop_bytes_per_s=hop,
        batched_tokens=request.max_num_batched_tokens or TYPICAL_BATCHED_TOKENS,
        memory_bandwidth_bytes_per_s=card.memory_bandwidth_bytes_per_s,
        flops_16bit=card.flops_16bit,
    )


def requests_in_room(memory: Memory, tokens: int) -> int | None:
    """Requests of `tokens` tokens each that the KV cache holds at once; None where it is not known."""
    each = sum(min(group.blocks_per_request, -(-tokens // group.block_tokens)) for group in memory.groups)
    return memory.num_blocks // each if each > 0 else None


def _links(request: PlanRequest, card: Accelerator) -> tuple[float | None, float | None]:
    """Bytes per second between tensor-parallel ranks, and between pipeline stages."""
    total = request.tensor_parallel_size * request.pipeline_parallel_size
    nodes = request.nodes_per_replica or -(-total // max(1, card.accelerators_per_node))
    spans = request.tensor_parallel_size > -(-total // nodes)
    link = card.inter_node_bytes_per_s if spans else card.intra_node_bytes_per_s
    return link, card.inter_node_bytes_per_s if nodes > 1 else card.intra_node_bytes_per_s


def _stage(request: PlanRequest, architecture: Architecture, memory: Memory, stage: StageMemory) -> StageWork:
    card = request.accelerator
    assert card is not None and card.memory_bandwidth_bytes_per_s and card.flops_16bit
    bandwidth = card.memory_bandwidth_bytes_per_s
    layers = architecture.layers[stage.first_layer : stage.first_layer + stage.layers]
    held = class_bytes(stage.weight_parts, architecture, is_last=stage is memory.stages[-1])
    counts = class_weights(layers, architecture, request.tensor_parallel_size)
    mixture = architecture.mixture
    linear_s = fixed_dequantised = expert_dequantised = 0.0
    for name, weights in counts.items():
        if not weights:
            continue
        peak, is_widened = peak_of(8 * held.get(name, 0.0) / weights, card=card, config=architecture.config)
        routed = mixture.experts_per_token / mixture.experts if mixture and name == "experts" else 1.0
        linear_s += 2 * weights * routed / peak
        if is_widened and name == "experts":
            expert_dequantised = held[name]
        elif is_widened:
            fixed_dequantised += held[name]
    mixing = sum((layer.attention or layer.recurrent) is not None for layer in layers)
    feeding = sum(bool(layer.dense_intermediate or layer.mixture) for layer in layers)
    states = 2 * memory.state_bytes_per_request * len(layers) / max(1, len(architecture.layers))
    return StageWork(
        layers=stage.layers,
        moe_layers=sum(layer.mixture is not None for layer in layers),
        all_reduces=mixing + feeding if request.tensor_parallel_size > 1 else 0,
        fixed_weights_s=(sum(held.values()) - held.get("experts", 0.0)) / bandwidth,
        expert_weights_s=held.get("experts", 0.0) / bandwidth,
        fixed_dequantised_s=fixed_dequantised / bandwidth,
        expert_dequantised_s=expert_dequantised / bandwidth,
        linear_s_per_token=linear_s,
        head_s_per_sequence=2 * held.get("head", 0.0) / architecture.bytes_per_element / card.flops_16bit,
        attention=_reads(layers, request, architecture),
        state_s_per_sequence=states / bandwidth,
    )


def _reads(layers: tuple[Layer, ...], request: PlanRequest, architecture: Architecture) -> tuple[Reads, ...]:
    """The attention of the layers, equal ones together."""
    element = kv_element_bytes(request, architecture)
    counts: dict[tuple[int | None, float, float, float], int] = {}
    for layer in layers:
        if layer.attention:
            key = _one_read(layer.attention, ranks=request.tensor_parallel_size, element_bytes=element)
            counts[key] = counts.get(key, 0) + 1
    return tuple(Reads(count, *key) for key, count in counts.items())


def _one_read(
    attention: Attention, *, ranks: int, element_bytes: float
) -> tuple[int | None, float, float, float]:
    """(window, KV bytes per token, FLOPs per pair prefilling, and decoding) of one layer on one rank."""
    heads = attention.heads / ranks
    latent = attention.latent
    if latent:
        # One compressed vector serves all heads. Prefill widens it; decoding works on it directly (absorbed).
        width = latent.key_value_rank + latent.rope_head_dim
        prefill = 2 * heads * (latent.nope_head_dim + latent.rope_head_dim + latent.value_head_dim)
        decode = 2 * heads * (width + latent.key_value_rank)
        return attention.window_tokens, width * element_bytes, prefill, decode
    width = attention.head_dim + attention.value_head_dim
    kv_bytes = max(1.0, attention.kv_heads / ranks) * width * element_bytes
    return attention.window_tokens, kv_bytes, 2 * heads * width, 2 * heads * width


def kv_element_bytes(request: PlanRequest, architecture: Architecture) -> float:
    """Bytes of one element of the KV cache: as asked, else as the checkpoint's own KV scheme says."""
    if request.kv_cache_dtype.startswith("fp8"):
        return 1.0
    if request.kv_cache_dtype in ("bfloat16", "float16"):
        return 2.0
    text = architecture.config.get("text_config")
    for config in (architecture.config, text if isinstance(text, dict) else {}):
        section = config.get("quantization_config")
        if isinstance(section, dict) and _is_fp8_scheme(section):
            return 1.0
    return float(architecture.bytes_per_element)


def _is_fp8_scheme(section: dict[str, Any]) -> bool:
    scheme = section.get("kv_cache_scheme")
    if isinstance(scheme, dict):
        return scheme.get("num_bits") == 8 and scheme.get("type") == "float"
    return str(section.get("kv_cache_quant_algo", "")).upper() == "FP8"
