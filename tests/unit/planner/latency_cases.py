"""Small plans for the tests of latency and money: real architectures, memory put together by hand."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from typing import Any

from serving.planner.architecture import Architecture
from serving.planner.architecture_reading import read_architecture
from serving.planner.latency_data import config_of
from serving.planner.latency_weights import class_weights
from serving.planner.request import GIB, Accelerator, PlanRequest
from serving.planner.result import ByteRange, CacheGroup, Memory, StageMemory

CARD = Accelerator(
    name="H100",
    usable_bytes=79 * GIB,
    memory_bandwidth_bytes_per_s=3.35e12,
    flops_16bit=989e12,
    flops_fp8=1979e12,
    intra_node_bytes_per_s=450e9,
    inter_node_bytes_per_s=50e9,
    compute_capability=(9, 0),
    usd_per_hour=Decimal("2.95"),
)
NOTHING = ByteRange(0, 0)


def ask(*, model: str = "Llama-3.1-8B", precision: str = "bf16", **changes: Any) -> PlanRequest:
    """A request for one of the models whose config lies beside the measurements."""
    request = PlanRequest(
        config=config_of(f"any/{model}", precision),
        accelerator=CARD,
        max_num_seqs=256,
        max_num_batched_tokens=8192,
    )
    return replace(request, **changes)


def case(
    request: PlanRequest, *, num_blocks: int = 100_000, weight_bytes: float = 2.0
) -> tuple[PlanRequest, Architecture, Memory]:
    """The request with its architecture and a memory of `weight_bytes` per weight and so many blocks."""
    architecture = read_architecture(request.config)
    stages = _stages(request, architecture, weight_bytes)
    group = CacheGroup("full_attention", len(architecture.layers), 16, 65536, blocks_per_request=8192)
    memory = Memory(
        usable_bytes=79 * GIB,
        requested_bytes=72 * GIB,
        stages=stages,
        activation=NOTHING,
        cuda_graphs=NOTHING,
        runtime=NOTHING,
        kv_cache_bytes=num_blocks * 65536,
        kv_cache_range=NOTHING,
        kv_bytes_per_token=131072,
        groups=(group,),
        num_blocks=num_blocks,
        kv_cache_tokens=num_blocks * 16,
        max_concurrency=num_blocks / 8192,
        weights_are_exact=True,
    )
    return request, architecture, memory


def _stages(request: PlanRequest, architecture: Architecture, weight_bytes: float) -> tuple[StageMemory, ...]:
    count = len(architecture.layers) // request.pipeline_parallel_size
    stages = []
    for index in range(request.pipeline_parallel_size):
        first = index * count
        weights = class_weights(
            architecture.layers[first : first + count], architecture, request.tensor_parallel_size
        )
        parts = {name: int(number * weight_bytes) for name, number in weights.items() if number}
        matrix = architecture.vocab_size * architecture.hidden_size * 2 // request.tensor_parallel_size
        parts |= {"embedding": matrix} if index == 0 else {}
        parts |= {"head": matrix} if index == request.pipeline_parallel_size - 1 else {}
        stages.append(StageMemory(first, count, sum(parts.values()), parts, kv_bytes_per_token=131072))
    return tuple(stages)
