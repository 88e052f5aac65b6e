"""What is asked of the planner: a model, an accelerator, a topology and the engine's limits. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Literal

GIB = 1 << 30

Regime = Literal["v1", "v2", "v1-native", "v1-flashinfer"]
"""Which runner's profiling rule decides the activation peak: v2 is vLLM 0.29's default on CUDA; v1 is the
older runner with its native sampler (v1-native) or FlashInfer's."""


class BadPlanInput(ValueError):
    """The request or the model's files are senseless; `field` names what, the message says why."""

    def __init__(self, message: str, *, field: str) -> None:
        super().__init__(message)
        self.message = message
        self.field = field


@dataclass(frozen=True)
class Accelerator:
    """One accelerator as the planner needs it. Bandwidths in bytes per second, peaks in FLOP/s (dense).

    `usable_bytes` is what the driver reports as total memory, which `gpu_memory_utilization` multiplies.
    `intra_node_bytes_per_s` and `inter_node_bytes_per_s` are one way, per accelerator.
    """

    name: str
    usable_bytes: int
    memory_bandwidth_bytes_per_s: float | None = None
    flops_16bit: float | None = None
    flops_fp8: float | None = None
    flops_fp4: float | None = None
    intra_node_bytes_per_s: float | None = None
    inter_node_bytes_per_s: float | None = None
    compute_capability: tuple[int, int] | None = None
    accelerators_per_node: int = 8
    free_at_start_bytes: Mapping[int, int] = field(default_factory=dict)
    """Tensor-parallel size -> free bytes when the engine looks first, where measured."""
    usd_per_hour: Decimal | None = None
    price_note: str = ""
    variant: str = ""
    vendor: str = ""


@dataclass(frozen=True)
class TensorGroup:
    """Tensors of a checkpoint that differ only in the numbers of their names.

    `pattern` is the name with every run of digits between dots replaced by `*`
    (`model.layers.*.self_attn.q_proj.weight`); `shape` is None when they differ in shape.
    """

    pattern: str
    dtype: str
    shape: tuple[int, ...] | None
    count: int
    total_bytes: int
    indices: tuple[int, ...] = ()
    """Values of the first `*`, sorted, when they are fewer than those of the whole model: which layers."""


@dataclass(frozen=True)
class PlanRequest:
    """Everything a plan depends on. None means "as vLLM would choose".

    `accelerator` None plans for vLLM's CPU engine, with `node_memory_bytes` of the largest node.
    `max_num_batched_tokens`, `max_num_seqs` None take vLLM's default for the accelerator.
    `concurrency` is the number of requests in flight that the latency is predicted at.
    """

    config: dict[str, Any]
    tensors: tuple[TensorGroup, ...] | None = None
    checkpoint_bytes: int | None = None
    checkpoint_doubt: str = ""
    """What the checkpoint's files say against each other; empty where nothing does."""
    accelerator: Accelerator | None = None
    node_memory_bytes: int | None = None
    tensor_parallel_size: int = 1
    pipeline_parallel_size: int = 1
    dtype: str = "auto"
    quantization: str | None = None
    kv_cache_dtype: str = "auto"
    max_model_len: int | None = None
    max_num_seqs: int | None = None
    max_num_batched_tokens: int | None = None
    gpu_memory_utilization: float = 0.92
    kv_cache_memory_bytes: int | None = None
    block_size: int | None = None
    num_gpu_blocks_override: int | None = None
    """Blocks of the KV cache, whatever memory there is for it."""
    cpu_offload_gib: float = 0
    """GiB of weights per rank that stay in the node's memory (vLLM's cpu_offload_gb)."""
    enable_prefix_caching: bool = True
    enforce_eager: bool = False
    enable_expert_parallel: bool = False
    async_scheduling: bool = True
    regime: Regime = "v2"
    concurrency: int = 1
    prompt_tokens: int = 1024
    output_tokens: int = 256
    nodes_per_replica: int | None = None
    """Nodes one replica spreads over; None: as few as the accelerator's usual node allows."""
    usd_per_accelerator_hour: Decimal | None = None
    uncounted: tuple[str, ...] = ()
    """Engine arguments that may matter and are not planned: the verdict is then at most "tight"."""
