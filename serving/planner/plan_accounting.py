"""Everything a verdict rests on, computed once for one resolved request. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field

from serving.planner.architecture import Architecture
from serving.planner.architecture_fields import shown
from serving.planner.kv_cache import Geometry, RequestShape, cache_geometry
from serving.planner.kv_cache_specs import (
    CPU_BLOCK_TOKENS,
    DEFAULT_BLOCK_TOKENS,
    SPARSE_BLOCK_TOKENS,
    CacheFormat,
    layer_specs,
)
from serving.planner.memory import Parts, Rooms, memory_of, parts_of, rooms_of, usable_bytes
from serving.planner.quantization_reading import Quantization
from serving.planner.request import BadPlanInput, PlanRequest
from serving.planner.result import Memory
from serving.planner.weights import Weights, plan_weights, stage_layers

ELEMENT_BYTES = {"bfloat16": 2, "float16": 2, "half": 2, "float32": 4}
LATENT_KERNEL_BLOCKS = {8: 16, 9: 16, 10: 32, 12: 16}
"""Block of the first latent-attention kernel that vLLM tries, by major compute capability."""
CPU_KERNEL_BLOCK = 32


@dataclass(frozen=True)
class Account:
    """Weights, cache and room of one plan. `problems` are refusals found on the way (the rest is then None).

    `rooms` is None where nothing says how much memory there is.
    """

    parts: Parts | None = None
    geometry: Geometry | None = None
    rooms: Rooms | None = None
    memory: Memory | None = None
    block_tokens: int = DEFAULT_BLOCK_TOKENS
    kv_bytes: list[int] = field(default_factory=list)
    problems: list[tuple[str, str]] = field(default_factory=list)
    request_bytes: int | None = None

    def fits(self, *, upper: bool) -> bool:
        """Whether one full-length request fits where everything is at its upper (or lower) estimate."""
        assert self.rooms is not None and self.geometry is not None
        room = self.rooms.least if upper else self.rooms.most
        if not self.geometry.groups:
            return min(room) > 0
        return min(room) > 0 and self.geometry.fits_one_request(room)

    def longest_request(self, *, upper: bool) -> int:
        """Tokens of the longest request that fits at that estimate."""
        assert self.rooms is not None and self.geometry is not None
        return self.geometry.longest_request(self.rooms.least if upper else self.rooms.most)


def account_of(
    request: PlanRequest,
    architecture: Architecture,
    quantization: Quantization,
    weights: Weights | None = None,
    *,
    with_memory: bool = True,
) -> Account:
    """The account of a known architecture. `request` must be resolved; `weights` of the same topology."""
    weights = weights or weights_of(request, architecture, quantization)
    if weights.problems:
        return Account(problems=weights.problems)
    cache = cache_format(request, architecture, quantization)
    specs = layer_specs(architecture, cache)
    stages = stage_layers(len(architecture.layers), request.pipeline_parallel_size)
    geometry = cache_geometry(specs, stages, request_shape(request, architecture))
    if geometry is None:
        return Account(
            problems=[("kv_cache_dtype", "The pages of this model's layers cannot be brought to one size.")]
        )
    parts = parts_of(request, architecture, weights.stages)
    kv_bytes = [
        sum(spec.bytes_per_token for layer in specs[first : first + count] for spec in layer)
        for first, count in stages
    ]
    rooms = rooms_of(request, parts, geometry.bytes_per_block)
    memory = None
    if rooms is not None and with_memory:
        memory = memory_of(request, parts, rooms, geometry, kv_bytes, exact=True)
    block = next((spec.block_tokens for layer in specs for spec in layer), DEFAULT_BLOCK_TOKENS)
    return Account(parts, geometry, rooms, memory, block, kv_bytes)


def weights_of(request: PlanRequest, architecture: Architecture, quantization: Quantization) -> Weights:
    """The weights of the request's topology."""
    card = request.accelerator
    return plan_weights(
        architecture,
        quantization,
        tensor_parallel=request.tensor_parallel_size,
        pipeline_parallel=request.pipeline_parallel_size,
        expert_parallel=request.enable_expert_parallel,
        compute_capability=card.compute_capability if card else None,
    )


def cache_format(request: PlanRequest, architecture: Architecture, quantization: Quantization) -> CacheFormat:
    """How the cache is stored for this request. Raises BadPlanInput for a type that vLLM does not have."""
    kind = request.kv_cache_dtype
    if kind == "auto":
        kind = quantization.kv_cache_dtype or architecture.dtype
    is_fp8 = kind.startswith("fp8") and "per_token_head" not in kind
    if not is_fp8 and kind not in ELEMENT_BYTES:
        raise BadPlanInput(
            f"kv_cache_dtype must be auto, fp8 or a 16-bit type, not {shown(kind)}.", field="kv_cache_dtype"
        )
    latent = architecture.latent
    is_sparse = latent is not None and latent.indexer_heads > 0
    card = request.accelerator
    block = CPU_BLOCK_TOKENS if card is None else DEFAULT_BLOCK_TOKENS
    if card is not None and latent is not None:
        major = card.compute_capability[0] if card.compute_capability else 8
        block = LATENT_KERNEL_BLOCKS.get(major, DEFAULT_BLOCK_TOKENS)
        if is_sparse or (is_fp8 and major == 9):
            block = SPARSE_BLOCK_TOKENS
    return CacheFormat(
        element_bytes=1 if is_fp8 else ELEMENT_BYTES[kind],
        state_element_bytes=architecture.bytes_per_element,
        block_tokens=request.block_size or block,
        tensor_parallel=request.tensor_parallel_size,
        is_fp8_latent=is_fp8 and is_sparse,
        smallest_kernel_block=CPU_KERNEL_BLOCK if card is None else DEFAULT_BLOCK_TOKENS,
    )


def request_shape(request: PlanRequest, architecture: Architecture) -> RequestShape:
    """How many tokens may be scheduled but not settled, and how many states a request keeps."""
    assert request.max_model_len is not None and request.max_num_batched_tokens is not None
    batches = request.pipeline_parallel_size
    if request.accelerator is not None and request.async_scheduling:
        if not request.regime.startswith("v1"):
            batches += 1
        elif batches == 1:
            batches = 2
    # Models without any attention do without prefix caching, and so keep one state.
    caches_prefixes = request.enable_prefix_caching and architecture.attention_layers > 0
    return RequestShape(
        request.max_model_len, batches * request.max_num_batched_tokens, 2 if caches_prefixes else 1
    )


def spare_bytes(request: PlanRequest, account: Account, *, upper: bool) -> int | None:
    """With a fixed cache size: memory left over on the fullest stage, negative where it does not fit."""
    usable = usable_bytes(request)
    rooms, parts = account.rooms, account.parts
    if rooms is None or not rooms.is_given or usable is None or parts is None:
        return None
    return min(
        usable - parts.used(stage, upper=upper) - rooms.least[stage] for stage in range(len(parts.stages))
    )
