"""What the planner answers. Bytes and tokens are whole numbers, times seconds, money Decimal USD. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from decimal import Decimal
from typing import Literal

Verdict = Literal["fits", "tight", "does_not_fit", "refused", "unknown"]
"""fits: also at the upper estimate. tight: at the lower estimate only. refused: the engine would refuse the
topology or the options whatever the memory. unknown: the architecture or the accelerator is not known."""


@dataclass(frozen=True)
class Range:
    """An estimate with its bounds: low <= expected <= high."""

    low: float
    expected: float
    high: float


@dataclass(frozen=True)
class ByteRange:
    """Bounds of a part of memory that cannot be computed exactly."""

    low: int
    high: int


@dataclass(frozen=True)
class StageMemory:
    """One pipeline stage, per tensor-parallel rank. `weight_parts`: embedding, attention, mlp, experts, …"""

    first_layer: int
    layers: int
    weight_bytes: int
    weight_parts: dict[str, int]
    kv_bytes_per_token: int
    activation: ByteRange = ByteRange(0, 0)


@dataclass(frozen=True)
class CacheGroup:
    """Layers of one kind that share block tables: KV bytes per block and rank, blocks one request needs."""

    kind: str
    layers: int
    block_tokens: int
    page_bytes: int
    blocks_per_request: int


@dataclass(frozen=True)
class Memory:
    """Where one rank's memory goes. `requested_bytes` = usable × gpu_memory_utilization.

    `kv_cache_bytes` is the expected room (the middle of low and high where they differ); tokens, blocks and
    concurrency belong to it; `kv_cache_range` holds the room at the upper and the lower estimate of the rest.
    Both are those of `tightest_stage`, which holds the fewest blocks.
    """

    usable_bytes: int | None
    requested_bytes: int | None
    stages: tuple[StageMemory, ...]
    activation: ByteRange
    cuda_graphs: ByteRange
    runtime: ByteRange
    kv_cache_bytes: int
    kv_cache_range: ByteRange
    kv_bytes_per_token: int
    groups: tuple[CacheGroup, ...]
    num_blocks: int
    kv_cache_tokens: int
    max_concurrency: float
    weights_are_exact: bool
    state_bytes_per_request: int = 0
    """Fixed recurrent state (Mamba, linear attention) of one request on one rank."""
    tightest_stage: int = 0


@dataclass(frozen=True)
class Latency:
    """Predicted times. `tpot_s` at the asked concurrency; `ttft_unloaded_s` is prefill without a queue.

    `basis` says what the prediction rests on: "roofline" or "corrected by measurements".
    `parts_s`: seconds of one decode step by cause (weights, kv_cache, compute, layers, all_reduce, moe).
    """

    ttft_unloaded_s: Range
    tpot_s: Range
    parts_s: dict[str, float]
    basis: str = "roofline"
    band_note: str = ""


@dataclass(frozen=True)
class Money:
    """Prices of one replica. Per million output tokens: at full load and at the asked concurrency."""

    usd_per_hour: Decimal
    usd_per_million_output_tokens: Decimal | None
    usd_per_million_output_tokens_full_load: Decimal | None
    full_load_concurrency: int | None = None


@dataclass(frozen=True)
class Plan:
    """The whole answer. `reasons` says why, in sentences that name the field or the number; `lever` what
    would help most when it is tight or does not fit; `arithmetic` the sum line by line."""

    verdict: Verdict
    reasons: tuple[str, ...] = ()
    lever: str = ""
    refused_field: str = ""
    memory: Memory | None = None
    latency: Latency | None = None
    money: Money | None = None
    arithmetic: tuple[str, ...] = ()
    architecture: str | None = None
    architecture_is_known: bool = True
    no_times_because: str = ""
    """Why there are no times, and so no price per token, where there are none; a sentence."""
    settings: dict[str, object] = field(default_factory=dict)
    """What the plan assumed where the request said nothing: max_num_seqs, max_num_batched_tokens, dtype …"""
