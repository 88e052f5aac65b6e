"""What one layer keeps per request in the KV cache of one rank: page sizes and block sizes. Pure.

Sources: vllm/v1/kv_cache_interface.py (page and request sizes of every spec), layers/mamba/mamba_utils.py
(states), platforms/interface.py (_align_hybrid_block_size). Bytes per rank, tokens per block.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from serving.planner.architecture import Architecture, Attention, Recurrent
from serving.planner.layers_recurrent import groups_with_copies

SpecKind = Literal["full_attention", "mla", "sliding_attention", "chunked_attention", "state"]

DEFAULT_BLOCK_TOKENS = 16
CPU_BLOCK_TOKENS = 128
SPARSE_BLOCK_TOKENS = 64
LATENT_HYBRID_ALIGNMENT = 128
INDEXER_SCALE_BLOCK = 128
FP8_LATENT_BYTES = 656
"""fp8_ds_mla: 512 latent bytes, scales and 64 rope elements in 16 bit, per token and layer."""


@dataclass(frozen=True)
class CacheSpec:
    """One layer's share of the cache. `bytes_per_token` is 0 for a fixed state.

    Equal specs may share a group; `heads` tells apart layers whose pages are equal by chance.
    """

    kind: SpecKind
    block_tokens: int
    page_bytes: int
    bytes_per_token: int = 0
    window_tokens: int | None = None
    shape: tuple[int, int] = (0, 0)
    state_bytes: int = 0

    @property
    def needs_every_token(self) -> bool:
        """Whether a request keeps all its tokens here (all such specs count as one type in vLLM)."""
        return self.kind in ("full_attention", "mla")

    def blocks_per_request(self, *, tokens: int, tokens_in_flight: int, state_blocks: int) -> int:
        """Blocks one request of `tokens` tokens holds at most."""
        if self.kind == "state":
            return state_blocks
        if self.kind == "sliding_attention":
            held = min((self.window_tokens or 0) - 1 + tokens_in_flight, tokens)
            return -(-held // self.block_tokens) + 1
        if self.kind == "chunked_attention":
            held = min((self.window_tokens or 0) + tokens_in_flight, tokens)
            return -(-held // self.block_tokens)
        return -(-tokens // self.block_tokens)

    def resized(self, page_bytes: int) -> CacheSpec | None:
        """This spec with a larger page, as vLLM unifies pages; None where it cannot (latent attention)."""
        if page_bytes == self.page_bytes:
            return self
        if self.kind == "state":
            return replace(self, page_bytes=page_bytes)
        if page_bytes % self.page_bytes == 0:
            ratio = page_bytes // self.page_bytes
            return replace(self, page_bytes=page_bytes, block_tokens=self.block_tokens * ratio)
        return None if self.kind == "mla" else replace(self, page_bytes=page_bytes)


@dataclass(frozen=True)
class CacheFormat:
    """How the cache is stored: bytes per element, block size before alignment, ranks."""

    element_bytes: int
    state_element_bytes: int
    block_tokens: int
    tensor_parallel: int
    is_fp8_latent: bool = False
    smallest_kernel_block: int = 16


def layer_specs(architecture: Architecture, cache: CacheFormat) -> list[list[CacheSpec]]:
    """The specs of every layer, in order (a layer has none, one, or two with attention beside a state)."""
    cache, padded = _aligned(architecture, cache)
    made: dict[int, list[CacheSpec]] = {}
    specs = []
    for layer in architecture.layers:
        if id(layer) not in made:
            own: list[CacheSpec] = []
            if layer.attention is not None and layer.attention.has_own_cache:
                own += attention_specs(layer.attention, cache)
            if layer.recurrent is not None:
                own.append(_state_spec(layer.recurrent, cache, padded))
            made[id(layer)] = own
        specs.append(made[id(layer)])
    return specs


def attention_specs(attention: Attention, cache: CacheFormat) -> list[CacheSpec]:
    """Keys and values of one attention layer; with an indexer, its keys as well."""
    block = cache.block_tokens
    if attention.latent is not None:
        width = attention.latent.key_value_rank + attention.latent.rope_head_dim
        size = FP8_LATENT_BYTES if cache.is_fp8_latent else width * cache.element_bytes
        specs = [CacheSpec("mla", block, block * size, size, shape=(1, width))]
        if attention.latent.indexer_heads:
            keys = attention.latent.indexer_head_dim
            size = keys + keys // INDEXER_SCALE_BLOCK * 4
            specs.append(CacheSpec("mla", block, block * size, size, shape=(1, size)))
        return specs
    heads = max(1, attention.kv_heads // cache.tensor_parallel)
    size = heads * (attention.head_dim + attention.value_head_dim) * cache.element_bytes
    if attention.kind != "full_attention":
        block = min(block, cache.smallest_kernel_block) if attention.kind == "sliding_attention" else block
    return [
        CacheSpec(
            attention.kind, block, block * size, size, attention.window_tokens, (heads, attention.head_dim)
        )
    ]


def state_bytes(recurrent: Recurrent, cache: CacheFormat) -> int:
    """Bytes of one layer's state of one request on one rank."""
    tp, element = cache.tensor_parallel, cache.state_element_bytes
    wide = 4 if recurrent.state_is_float32 else element
    inner, steps = recurrent.inner_width, recurrent.convolution_kernel - 1
    if recurrent.kind == "short_convolution":
        return inner // tp * steps * element
    if recurrent.kind == "mamba1":
        return inner // tp * (steps * element + recurrent.state_size * wide)
    if recurrent.kind == "mamba2":
        channels = inner + 2 * groups_with_copies(recurrent.groups, tp) * recurrent.state_size
    else:
        channels = inner + 2 * recurrent.groups * recurrent.state_size
    state = recurrent.heads // tp * recurrent.head_dim * recurrent.state_size
    return channels // tp * steps * element + state * wide


def _state_spec(recurrent: Recurrent, cache: CacheFormat, padded: int) -> CacheSpec:
    held = state_bytes(recurrent, cache)
    return CacheSpec("state", cache.block_tokens, max(held, padded), state_bytes=held, shape=(1, held))


def _aligned(architecture: Architecture, cache: CacheFormat) -> tuple[CacheFormat, int]:
    """(the cache with a block large enough for a state, the page that states are padded to)."""
    states = {layer.recurrent for layer in architecture.layers if layer.recurrent is not None}
    attention = next((layer.attention for layer in architecture.layers if layer.attention), None)
    if not states or attention is None:
        return cache, 0
    state = max(state_bytes(recurrent, cache) for recurrent in states)
    one_token = attention_specs(attention, replace(cache, block_tokens=1, smallest_kernel_block=1))[
        0
    ].page_bytes
    alignment = max(cache.smallest_kernel_block, cache.block_tokens)
    if attention.latent is not None:
        alignment = max(alignment, LATENT_HYBRID_ALIGNMENT)
    block = alignment * -(-state // (alignment * one_token)) if state else cache.block_tokens
    block = max(block, cache.block_tokens)
    return replace(cache, block_tokens=block), block * one_token
