"""Where one rank's memory goes: weights, activations, graphs, runtime, and the room that is left for the KV
cache, at the lower and the upper estimate of what cannot be computed. Pure.

Source: vllm/v1/worker/gpu_worker.py (determine_available_memory), v1/worker/utils.py (request_memory).
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

from serving.planner.activation import activation_band, graphs_band, runtime_band
from serving.planner.architecture import Architecture
from serving.planner.kv_cache import Geometry
from serving.planner.request import GIB, PlanRequest
from serving.planner.result import ByteRange, CacheGroup, Memory, StageMemory
from serving.planner.weights import StageWeights

NOT_OFFLOADED = frozenset({"embedding", "head", "norms", "rotary_tables", "vision_tower"})
"""Parts of a stage that are not in its layers."""


@dataclass(frozen=True)
class Rooms:
    """Bytes for the KV cache of every stage, at the lower and the upper estimate of the rest."""

    most: tuple[int, ...]
    least: tuple[int, ...]
    is_given: bool = False
    """The cache's size was asked for: nothing says yet whether the memory has room for it."""

    @property
    def expected(self) -> tuple[int, ...]:
        """The middle, never negative."""
        return tuple(max(0, (most + least) // 2) for most, least in zip(self.most, self.least, strict=True))


@dataclass(frozen=True)
class Parts:
    """What competes for a rank's memory: exact weights per stage and the bands of the rest."""

    stages: tuple[StageWeights, ...]
    activation: tuple[ByteRange, ...]
    graphs: ByteRange
    runtime: ByteRange
    offload_bytes: int = 0

    def weights(self, stage: int) -> int:
        """Weights in the accelerator: what may be offloaded of the layers is in the node's memory."""
        return self.stages[stage].total_bytes - self.offloaded(stage)

    def offloaded(self, stage: int) -> int:
        """Weights in the node's memory. Only what is in the layers is offloaded."""
        layers = sum(size for part, size in self.stages[stage].parts.items() if part not in NOT_OFFLOADED)
        return min(self.offload_bytes, layers)

    def used(self, stage: int, *, upper: bool) -> int:
        """Everything but the cache on one stage."""
        bands = (self.activation[stage], self.graphs, self.runtime)
        return self.weights(stage) + sum(band.high if upper else band.low for band in bands)


def parts_of(request: PlanRequest, architecture: Architecture, stages: tuple[StageWeights, ...]) -> Parts:
    """The bands of every stage beside its weights."""
    last = len(stages) - 1
    return Parts(
        stages,
        tuple(
            activation_band(request, architecture, is_first=index == 0, is_last=index == last)
            if request.accelerator is not None
            else ByteRange(0, 0)
            for index in range(len(stages))
        ),
        graphs_band(request, architecture),
        runtime_band(request, architecture),
        int(request.cpu_offload_gib * GIB) if request.accelerator is not None else 0,
    )


def usable_bytes(request: PlanRequest) -> int | None:
    """The accelerator's memory, or a CPU rank's even share of its node's."""
    if request.accelerator is not None:
        return request.accelerator.usable_bytes
    if request.node_memory_bytes is None:
        return None
    return request.node_memory_bytes // ranks_per_node(request)


def ranks_per_node(request: PlanRequest) -> int:
    """Ranks that share one node's memory on the CPU engine."""
    ranks = request.tensor_parallel_size * request.pipeline_parallel_size
    return max(1, -(-ranks // max(1, request.nodes_per_replica or 1)))


def requested_bytes(request: PlanRequest) -> int | None:
    """What gpu_memory_utilization asks for. A CPU engine asks for that share of the node's memory."""
    usable = usable_bytes(request)
    return None if usable is None else ceil(usable * request.gpu_memory_utilization)


def rooms_of(request: PlanRequest, parts: Parts, block_bytes: tuple[int, ...] = ()) -> Rooms | None:
    """Room for the cache; with --kv-cache-memory-bytes or a number of blocks exactly that. None where
    nothing says how much. `block_bytes`: bytes of a block on every stage, empty where nothing is kept."""
    count = len(parts.stages)
    if request.num_gpu_blocks_override is not None and block_bytes:
        asked = tuple(request.num_gpu_blocks_override * each for each in block_bytes)
        return Rooms(asked, asked, is_given=True)
    if request.kv_cache_memory_bytes is not None:
        asked = (request.kv_cache_memory_bytes,) * count
        return Rooms(asked, asked, is_given=True)
    requested = requested_bytes(request)
    if requested is None:
        return None
    return Rooms(
        tuple(requested - parts.used(stage, upper=False) for stage in range(count)),
        tuple(requested - parts.used(stage, upper=True) for stage in range(count)),
    )


def memory_of(
    request: PlanRequest, parts: Parts, rooms: Rooms, geometry: Geometry, kv_bytes: list[int], *, exact: bool
) -> Memory:
    """The whole account. `kv_bytes`: bytes per token on every stage."""
    expected = rooms.expected
    blocks = geometry.num_blocks(expected)
    tightest = min(range(len(expected)), key=lambda stage: _blocks_of(geometry, expected, stage))
    return Memory(
        usable_bytes=usable_bytes(request),
        requested_bytes=requested_bytes(request),
        stages=tuple(
            StageMemory(
                stage.first_layer,
                stage.layers,
                parts.weights(index),
                stage.parts,
                kv_bytes[index],
                parts.activation[index],
            )
            for index, stage in enumerate(parts.stages)
        ),
        activation=ByteRange(
            min(band.low for band in parts.activation), max(band.high for band in parts.activation)
        ),
        cuda_graphs=parts.graphs,
        runtime=parts.runtime,
        kv_cache_bytes=expected[tightest],
        kv_cache_range=ByteRange(max(0, rooms.least[tightest]), max(0, rooms.most[tightest])),
        kv_bytes_per_token=max(kv_bytes, default=0),
        groups=tuple(_shown(geometry)),
        num_blocks=blocks,
        kv_cache_tokens=geometry.tokens(blocks),
        max_concurrency=geometry.concurrency(blocks),
        weights_are_exact=exact,
        state_bytes_per_request=sum(
            group.spec.state_bytes * group.layers for group in geometry.groups if group.spec.kind == "state"
        ),
        tightest_stage=tightest,
    )


def expected_parts(memory: Memory) -> dict[str, tuple[int, ByteRange]]:
    """The tightest stage's memory by part: what is expected, and between which bounds.

    What is expected are the middles of the bounds, so that the parts are exactly what is requested wherever
    the cache takes the rest of it.
    """
    stage = memory.stages[memory.tightest_stage]
    bands = {"activation": stage.activation, "cuda_graphs": memory.cuda_graphs, "runtime": memory.runtime}
    middles = {name: (band.low + band.high) // 2 for name, band in bands.items()}
    cache = memory.kv_cache_range
    if memory.requested_bytes is not None and memory.kv_cache_bytes and cache.low < cache.high:
        # The middles were rounded one by one; the cache's was rounded once.
        others = stage.weight_bytes + memory.kv_cache_bytes + middles["cuda_graphs"] + middles["runtime"]
        middles["activation"] = max(0, memory.requested_bytes - others)
    exact = ByteRange(stage.weight_bytes, stage.weight_bytes)
    return {
        "weights": (stage.weight_bytes, exact),
        "kv_cache": (memory.kv_cache_bytes, cache),
        **{name: (middles[name], band) for name, band in bands.items()},
    }


def _blocks_of(geometry: Geometry, available: tuple[int, ...], stage: int) -> tuple[int, int]:
    if not geometry.groups or not geometry.bytes_per_block[stage]:
        return (1 << 62, available[stage])
    return (available[stage] // geometry.bytes_per_block[stage], available[stage])


def _shown(geometry: Geometry) -> list[CacheGroup]:
    """Groups of one kind and size as one line each, as the engine's own list has them."""
    return [
        CacheGroup(
            kind=group.spec.kind,
            layers=group.layers,
            block_tokens=group.spec.block_tokens,
            page_bytes=group.spec.page_bytes,
            blocks_per_request=geometry.group_blocks(group),
        )
        for group in geometry.groups
    ]
