"""KV cache capacity as vLLM 0.29 computes it: groups, blocks, tokens, full-length requests in flight. Pure.

Source: vllm/v1/core/kv_cache_utils.py (get_kv_cache_groups, get_kv_cache_configs, get_kv_cache_capacity,
_check_enough_kv_cache_memory). Only numbers; why a plan does not fit is said elsewhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from serving.planner.kv_cache_specs import CacheSpec

UNEVEN_GROUPS = 1.5
"""Where the largest type has less than this times the layers of the smallest, groups take its size."""


@dataclass(frozen=True)
class Group:
    """Layers that share block tables. `stages[i]`: page bytes of its layers on pipeline stage i, together."""

    spec: CacheSpec
    layers: int
    stages: tuple[int, ...]


@dataclass(frozen=True)
class RequestShape:
    """What decides how many blocks a request holds."""

    max_model_len: int
    tokens_in_flight: int
    state_blocks: int = 2


@dataclass(frozen=True)
class Geometry:
    """The cache's division into groups. Without groups (no layer keeps anything) there is no limit."""

    groups: tuple[Group, ...]
    shape: RequestShape

    @cached_property
    def bytes_per_block(self) -> tuple[int, ...]:
        """Bytes of one block on every stage that holds layers of the cache: the widest group's."""
        stages = len(self.groups[0].stages) if self.groups else 0
        return tuple(max(group.stages[stage] for group in self.groups) for stage in range(stages))

    def blocks_per_request(self, tokens: int | None = None) -> int:
        """Blocks one request of `tokens` (default: full length) holds over all groups."""
        tokens = self.shape.max_model_len if tokens is None else tokens
        return sum(self.group_blocks(group, tokens) for group in self.groups)

    def group_blocks(self, group: Group, tokens: int | None = None) -> int:
        """Blocks one request holds in one group."""
        return group.spec.blocks_per_request(
            tokens=self.shape.max_model_len if tokens is None else tokens,
            tokens_in_flight=self.shape.tokens_in_flight,
            state_blocks=self.shape.state_blocks,
        )

    def num_blocks(self, available_bytes: Sequence[int]) -> int:
        """Blocks of the smallest stage; `available_bytes` per stage."""
        sizes = [
            available // each
            for available, each in zip(available_bytes, self.bytes_per_block, strict=True)
            if each
        ]
        return max(0, min(sizes, default=1))

    def concurrency(self, num_blocks: int) -> float:
        """Full-length requests that `num_blocks` hold at once."""
        needed = self.blocks_per_request()
        return num_blocks / needed if needed else 0.0

    def tokens(self, num_blocks: int) -> int:
        """The engine's "GPU KV cache size" in tokens."""
        return int(self.concurrency(num_blocks) * self.shape.max_model_len)

    def needed_bytes(self, tokens: int | None = None) -> tuple[int, ...]:
        """Bytes per stage that the engine asks for before it starts: one request and the null block."""
        return tuple((self.blocks_per_request(tokens) + 1) * each for each in self.bytes_per_block)

    def fits_one_request(self, available_bytes: Sequence[int], tokens: int | None = None) -> bool:
        """Whether every stage holds one request of full length beside the null block."""
        return all(
            needed <= available
            for needed, available in zip(self.needed_bytes(tokens), available_bytes, strict=True)
        )

    def longest_request(self, available_bytes: Sequence[int]) -> int:
        """The longest request that fits (tokens), 0 where not even one token does."""
        low, high = 0, self.shape.max_model_len
        while low < high:
            middle = (low + high + 1) // 2
            if self.fits_one_request(available_bytes, middle):
                low = middle
            else:
                high = middle - 1
        return low


def cache_geometry(
    specs: Sequence[Sequence[CacheSpec]], stages: Sequence[tuple[int, int]], shape: RequestShape
) -> Geometry | None:
    """Groups over the whole model; None where vLLM would refuse to unify the pages.

    `specs` per layer, `stages` as (first layer, layers).
    """
    flat = [
        (spec, stage)
        for stage, (first, count) in enumerate(stages)
        for layer in specs[first : first + count]
        for spec in layer
    ]
    if not flat:
        return Geometry((), shape)
    kinds = {spec for spec, _ in flat}
    if len(kinds) == 1 or _is_one_type(kinds):
        return Geometry((_group(flat, len(stages)),), shape)
    page = max(spec.page_bytes for spec in kinds)
    resized = {spec: spec.resized(page) for spec in kinds}
    if any(spec is None for spec in resized.values()):
        return None
    buckets: dict[CacheSpec, list[int]] = {}
    for spec, stage in flat:
        buckets.setdefault(resized[spec], []).append(stage)  # type: ignore[arg-type]
    return Geometry(tuple(_split(buckets, len(stages))), shape)


def _is_one_type(kinds: set[CacheSpec]) -> bool:
    """All keep every token, or the same window, in blocks of one size: one group whatever the page sizes."""
    if len({spec.block_tokens for spec in kinds}) > 1:
        return False
    if all(spec.needs_every_token for spec in kinds):
        return True
    windows = {(spec.kind, spec.window_tokens) for spec in kinds}
    if len(windows) > 1:
        return False
    return next(iter(kinds)).kind != "state" or len({spec.page_bytes for spec in kinds}) == 1


def _group(flat: list[tuple[CacheSpec, int]], stages: int) -> Group:
    sums = [0] * stages
    for spec, stage in flat:
        sums[stage] += spec.page_bytes
    return Group(flat[0][0], len(flat), tuple(sums))


def _split(buckets: dict[CacheSpec, list[int]], stages: int) -> list[Group]:
    """Groups of equal size: as many layers as the rarest kind, or the commonest where they are close."""
    counts = [len(members) for members in buckets.values()]
    size = max(counts) if max(counts) < min(counts) * UNEVEN_GROUPS else min(counts)
    groups = []
    for spec, members in buckets.items():
        number = -(-len(members) // size)
        groups += [
            _group([(spec, stage) for stage in members[index::number]], stages) for index in range(number)
        ]
    return groups
