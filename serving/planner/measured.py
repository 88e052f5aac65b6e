"""What an engine is seen to hold, and how a replica's own series say it. Pure.

Two sources, the exact one first. A replica publishes bytes as vLLM's own objects know them (series
`ray_raydeck_*`, serving/cluster/phases.py); what those do not say, such as the memory of captured CUDA
graphs, stands in log lines (measured_log.py), rounded to two decimals of a GiB. `resolution` keeps how coarse
a figure is, so that a comparison never takes rounding for an error. Must not guess: a figure nobody gave is
None.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

SERIES = "ray_raydeck_"
STAGE_SERIES = SERIES + "stage_bytes"
CACHE_INFO_SERIES = "ray_vllm_cache_config_info"

Facts = dict[str, Any]
"""What one replica says: figure -> number, and `stages`: part -> {pipeline stage: bytes of a rank}."""


@dataclass(frozen=True)
class Measured:
    """One replica as it was seen. Bytes are those of one rank, times in seconds; None: not seen.

    `weight_bytes` of the rank that holds most; `kv_cache_bytes` what is allocated and `kv_room_bytes` what
    the engine found free for it, both of the rank that decides how many blocks there are; tokens, blocks and
    concurrency are the replica's. `activation_bytes`: the peak above what stays, graphs not counted.
    `non_torch_bytes`: what stays beside weights and cache (CUDA context, NCCL, kernels' own buffers; on CPU
    the rest of the rank's process).
    `process_bytes`: host memory of all processes of the replica. `device_bytes`: what this engine took of one
    device, `device_total_bytes` what the device has, `free_at_start_bytes` what was free before it.
    `resolution`: figure -> how far rounding may have moved it.
    """

    weight_bytes: int | None = None
    weight_bytes_per_stage: tuple[int, ...] | None = None
    weight_load_seconds: float | None = None
    kv_cache_bytes: int | None = None
    kv_room_bytes: int | None = None
    kv_cache_tokens: int | None = None
    num_blocks: int | None = None
    block_tokens: int | None = None
    max_concurrency: float | None = None
    max_concurrency_at_tokens: int | None = None
    cuda_graph_bytes: int | None = None
    activation_bytes: int | None = None
    non_torch_bytes: int | None = None
    process_bytes: int | None = None
    device_bytes: int | None = None
    device_total_bytes: int | None = None
    free_at_start_bytes: int | None = None
    engine_version: str | None = None
    resolution: dict[str, float] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """The figures as the database keeps them."""
        values = asdict(self)
        stages = self.weight_bytes_per_stage
        return {**values, "weight_bytes_per_stage": None if stages is None else list(stages)}

    def is_known(self) -> bool:
        """Whether the two figures are there without which a comparison says nothing."""
        return self.weight_bytes is not None and self.num_blocks is not None


def from_json(stored: Mapping[str, Any]) -> Measured:
    """What `to_json` made; names it does not know are left out, missing ones are None."""
    known = {one.name: stored[one.name] for one in fields(Measured) if one.name in stored}
    stages = known.get("weight_bytes_per_stage")
    known["weight_bytes_per_stage"] = None if stages is None else tuple(stages)
    known["resolution"] = dict(known.get("resolution") or {})
    return Measured(**known)


def merged(first: Measured, second: Measured) -> Measured:
    """`first`, with what it does not know taken from `second`, each figure with its resolution."""
    taken = {
        one.name: getattr(second, one.name)
        for one in fields(Measured)
        if one.name != "resolution" and getattr(first, one.name) is None
    }
    coarse = {name: second.resolution[name] for name in taken if name in second.resolution}
    return replace(first, **taken, resolution={**first.resolution, **coarse})


_LABELS = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')


def facts_of_pages(pages: Iterable[str]) -> dict[str, Facts]:
    """Replica id -> what it publishes, from the text of metrics pages. Lines of others are skipped."""
    found: dict[str, Facts] = {}
    for page in pages:
        for line in page.split("\n"):
            if line.startswith((SERIES, CACHE_INFO_SERIES)):
                _read_series(line, found)
    return found


def _read_series(line: str, found: dict[str, Facts]) -> None:
    name, _, rest = line.partition("{")
    labels_text, _, value_text = rest.rpartition("}")
    labels = dict(_LABELS.findall(labels_text))
    replica_id, value = labels.get("ReplicaId", ""), _number(value_text.strip().partition(" ")[0])
    if not replica_id or value is None:
        return
    facts = found.setdefault(replica_id, {})
    if name == STAGE_SERIES:
        parts = facts.setdefault("stages", {}).setdefault(labels.get("part", ""), {})
        parts[int(_number(labels.get("stage", "")) or 0)] = int(value)
    elif name == CACHE_INFO_SERIES:
        blocks, size = _number(labels.get("num_gpu_blocks", "")), _number(labels.get("block_size", ""))
        facts.update({"num_gpu_blocks": blocks, "block_size": size})
    elif "phase" not in labels:
        facts[name.removeprefix(SERIES)] = value


def from_facts(facts: Mapping[str, Any], *, ranks: int) -> Measured:
    """What a replica of `ranks` ranks published, as figures of one rank.

    A sum over several ranks says nothing of one of them: it counts only where there is a single rank.
    """
    stages: Mapping[str, Mapping[int, int]] = facts.get("stages") or {}
    weights = _by_stage(stages.get("weights"))
    alone = facts if ranks == 1 else {}
    kv_cache = _most(stages.get("kv_cache")) or _whole(alone.get("kv_cache_bytes"))
    consumed, loaded = stages.get("consumed") or {}, stages.get("loaded") or {}
    outside = {stage: bytes_ - loaded[stage] for stage, bytes_ in consumed.items() if stage in loaded}
    blocks = _whole(facts.get("kv_cache_blocks") or facts.get("num_gpu_blocks"))
    return Measured(
        weight_bytes=max(weights) if weights else _whole(alone.get("weights_bytes")),
        weight_bytes_per_stage=weights,
        kv_cache_bytes=kv_cache,
        kv_room_bytes=_least(stages.get("kv_room")),
        kv_cache_tokens=_whole(facts.get("kv_capacity_tokens") or facts.get("kv_cache_tokens")),
        num_blocks=blocks,
        block_tokens=_whole(facts.get("block_size_tokens") or facts.get("block_size")),
        max_concurrency=facts.get("kv_max_concurrency") or None,
        max_concurrency_at_tokens=_whole(facts.get("context_tokens")),
        activation_bytes=_most(stages.get("activation")),
        non_torch_bytes=_most(outside) or _most(stages.get("process_rest")),
        process_bytes=_whole(facts.get("process_memory_bytes")),
        device_bytes=_most(stages.get("device_used")),
        device_total_bytes=_least(stages.get("device_total")),
        free_at_start_bytes=_least(stages.get("device_free_at_start")),
        # Allocated is the room rounded down to whole blocks.
        resolution={"kv_cache_bytes": kv_cache / blocks} if kv_cache and blocks else {},
    )


def _by_stage(values: Mapping[int, int] | None) -> tuple[int, ...] | None:
    return tuple(values[stage] for stage in sorted(values)) if values else None


def _most(values: Mapping[int, int] | None) -> int | None:
    return max(values.values()) if values else None


def _least(values: Mapping[int, int] | None) -> int | None:
    return min(values.values()) if values else None


def _whole(value: Any) -> int | None:
    return int(value) if value else None


def _number(text: str) -> float | None:
    """None for what is no number, `None` in a label, NaN and infinities."""
    cleaned = text.replace(",", "")
    return float(cleaned) if re.fullmatch(r"-?\d+(\.\d+)?([eE][+-]?\d+)?", cleaned) else None
