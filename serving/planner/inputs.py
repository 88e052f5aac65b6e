"""Reads what a plan is made from - a config.json, an index - and checks the numbers that are asked for.

Files of strangers are read with bounds (serving/bounded_json.py); everything wrong is a BadPlanInput with
the field's name. Pure apart from reading the named files.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from serving.bounded_json import Unreadable, read_object
from serving.checkpoint import CONFIG_LIMIT_BYTES, INDEX_LIMIT_BYTES
from serving.model_config import read_config
from serving.planner.architecture_fields import shown
from serving.planner.request import BadPlanInput, PlanRequest, TensorGroup
from serving.planner.shards import Shards, read_shards
from serving.planner.tensors import group_index, group_tensors, total_size, weight_map
from serving.render import FALLBACK_CONTEXT_TOKENS, cpu_kv_cache_bytes
from serving.spec import DTYPES

KV_CACHE_DTYPES = ("auto", "bfloat16", "float16", "fp8", "fp8_e4m3", "fp8_e5m2", "fp8_inc", "fp8_ds_mla")

LIMITS: dict[str, tuple[int, int]] = {
    "tensor_parallel_size": (1, 1024),
    "pipeline_parallel_size": (1, 1024),
    "max_model_len": (1, 1 << 31),
    "max_num_seqs": (1, 1 << 20),
    "max_num_batched_tokens": (1, 1 << 26),
    "kv_cache_memory_bytes": (1, 1 << 50),
    "block_size": (1, 4096),
    "num_gpu_blocks_override": (1, 1 << 31),
    "concurrency": (1, 1 << 20),
    "prompt_tokens": (1, 1 << 31),
    "output_tokens": (1, 1 << 31),
}
"""Smallest and largest value of each whole number of a request; beyond them nothing is meant."""


@dataclass(frozen=True)
class Checkpoint:
    """A model's files as far as they were given."""

    config: dict[str, Any]
    tensors: tuple[TensorGroup, ...] | None = None
    checkpoint_bytes: int | None = None
    doubt: str = ""
    """What the files say against each other, whatever the config says."""


def read_checkpoint(config: Path, index: Path | None = None) -> Checkpoint:
    """The config.json and, where given, the safetensors index with the headers of the files beside it.

    Raises BadPlanInput naming the file.
    """
    parsed = _read(config, field="config", limit_bytes=CONFIG_LIMIT_BYTES)
    if index is None:
        return Checkpoint(parsed)
    listed = _read(index, field="safetensors_index", limit_bytes=INDEX_LIMIT_BYTES)
    stated, named, places = total_size(listed), group_index(listed), weight_map(listed)
    shards = read_shards(index.parent, places.values())
    if shards is None:
        return Checkpoint(parsed, named, stated)
    groups = group_tensors((t.name, t.dtype, t.shape, t.size_bytes) for t in shards.tensors)
    return Checkpoint(parsed, groups or named, shards.total_bytes, _against(shards, set(places), stated))


def _against(shards: Shards, named: set[str], stated: int | None) -> str:
    """What the index says that its files do not hold."""
    lost = sorted(named - {tensor.name for tensor in shards.tensors})
    if lost:
        return (
            f"The index names {len(lost):,} tensors that no file beside it holds, such as {shown(lost[0])}."
        )
    if stated is not None and not shards.total_bytes * 0.7 <= stated <= shards.total_bytes * 1.35:
        return f"The index states {stated:,} bytes of weights, its files hold {shards.total_bytes:,}."
    return ""


def as_deployed(request: PlanRequest) -> PlanRequest:
    """A question about the CPU engine with the cache that a deployment would give it where none is named.

    vLLM itself would take most of the machine. Must be used wherever a plan stands for a deployment.
    """
    if request.accelerator is not None or request.kv_cache_memory_bytes is not None:
        return request
    facts = read_config(request.config)
    length = request.max_model_len or facts.max_context_tokens or FALLBACK_CONTEXT_TOKENS
    kv = cpu_kv_cache_bytes(kv_bytes_per_token=facts.kv_bytes_per_token, max_model_len=length)
    return replace(request, max_model_len=length, kv_cache_memory_bytes=kv)


def check_request(request: PlanRequest) -> None:
    """Raise BadPlanInput for the first number or word of the request that can never be right."""
    for name, (least, most) in LIMITS.items():
        value = getattr(request, name)
        if value is not None and not (type(value) is int and least <= value <= most):
            raise BadPlanInput(f"{name} must be a whole number from {least:,} to {most:,}.", field=name)
    share = request.gpu_memory_utilization
    if not (isinstance(share, (int, float)) and math.isfinite(share) and 0 < share <= 1):
        raise BadPlanInput(
            "gpu_memory_utilization must be above 0 and at most 1.", field="gpu_memory_utilization"
        )
    offload = request.cpu_offload_gib
    if not (isinstance(offload, (int, float)) and math.isfinite(offload) and 0 <= offload <= 1 << 20):
        raise BadPlanInput("cpu_offload_gb must be a number of GiB, 0 or more.", field="cpu_offload_gb")
    _check_word("dtype", request.dtype, (*DTYPES, "half", "float"))
    _check_word("kv_cache_dtype", request.kv_cache_dtype, KV_CACHE_DTYPES)
    _check_word("regime", request.regime, ("v1", "v2"))
    price = request.usd_per_accelerator_hour
    if price is not None and not (price.is_finite() and 0 <= price <= 100_000):
        raise BadPlanInput(
            "The price must be from 0 to 100,000 dollars per hour.", field="usd_per_accelerator_hour"
        )


def _check_word(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise BadPlanInput(f"{name} must be one of {', '.join(known)}.", field=name)


def _read(path: Path, *, field: str, limit_bytes: int) -> dict[str, Any]:
    try:
        return read_object(path, limit_bytes=limit_bytes)
    except Unreadable as error:
        raise BadPlanInput(f"{path.name[:100]} {error}.", field=field) from None
