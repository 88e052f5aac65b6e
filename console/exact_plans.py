"""Exact plans by digest: asks for them once, finds them, and keeps the table small.

How a page or the API uses it (`request` is the serving.planner.request.PlanRequest of the closed form):

    reason = why_not_exact(request)            # "" or a sentence: exact mode does not cover this
    row = request_exact_plan(request, now=time.time())   # None when not covered; enqueues at most once
    row = exact_plan_for(request)              # looks only; None when nobody asked yet
    row.status                                 # queued | running | done | failed (row.error says why)
    if row.status == "done":
        row.result["refusal"]                  # None, or {stage: config|build|cache, message, field}
        row.result["stages"]                   # per pipeline stage: weight_bytes, weight_parts,
                                               # parameter_elements, kv_bytes_per_token, cache [...]
        row.result["settings"]                 # what vLLM chose: block_size, max_num_seqs, max_model_len …
        row.result["notes"]                    # sentences to show beside the numbers
        capacity_for(row.result, kv_cache_bytes=…)   # blocks, tokens, concurrency for any cache size

A row belongs to the model, the topology and the options that decide what vLLM builds, not to the memory that
is left for the cache: `capacity_for` does vLLM's division for any number of bytes, so moving the utilisation
slider needs no new build. A failed row can be asked again with `again=True`, and is by itself after a while;
one whose worker was lost goes stale and is asked again by the next request. Must never import vllm.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any

from django.db import transaction

from console.models import ExactPlan
from console.wakeup import send_task
from serving.engine_support import engine_support
from serving.planner.request import PlanRequest

TASK = "workers.exact_plans"
KEPT_ROWS = 2_000
MOST_QUEUED = 20
"""A form that plans at every keystroke must not keep the worker busy for hours: older questions give way."""
STALE_QUEUED_S = 60.0
STALE_RUNNING_S = 240.0
RETRY_FAILED_AFTER_S = 600.0
LARGEST_REQUEST_BYTES = 2_000_000
COVERED_VENDORS = ("", "NVIDIA")
METHODS_THAT_READ_HEADERS = ("awq", "gptq")
OPTIONS = (
    "tensor_parallel_size",
    "pipeline_parallel_size",
    "dtype",
    "quantization",
    "kv_cache_dtype",
    "max_model_len",
    "max_num_seqs",
    "max_num_batched_tokens",
    "block_size",
    "enable_expert_parallel",
)


@dataclass(frozen=True)
class ExactCapacity:
    """What a cache holds. `fits_one_request`: whether vLLM would accept it for max_model_len tokens."""

    num_blocks: int
    kv_cache_tokens: int
    max_concurrency: float
    fits_one_request: bool


def why_not_exact(request: PlanRequest) -> str:
    """Why exact mode cannot answer this request, or nothing."""
    vendor = request.accelerator.vendor if request.accelerator is not None else ""
    if vendor not in COVERED_VENDORS:
        return f"Exact mode knows NVIDIA's accelerators and the CPU engine, not {vendor}'s."
    if len(_canonical(exact_request_of(request))) > LARGEST_REQUEST_BYTES:
        return "The model's configuration is too large for exact mode."
    return ""


def exact_request_of(request: PlanRequest) -> dict[str, Any]:
    """The question in the builder's words (serving/cluster/exact_request.py), no more than it depends on."""
    asked: dict[str, Any] = {"config": request.config}
    asked |= {name: getattr(request, name) for name in OPTIONS if getattr(request, name) is not None}
    # True is vLLM's default, which it drops by itself where a model cannot; saying it would be a demand.
    asked |= {
        name: False
        for name in ("enable_prefix_caching", "async_scheduling")
        if getattr(request, name) is False
    }
    accelerator = request.accelerator
    asked["device"] = "cpu" if accelerator is None else "cuda"
    if accelerator is not None and accelerator.compute_capability is not None:
        asked["compute_capability"] = list(accelerator.compute_capability)
    if accelerator is not None and None in (request.max_num_seqs, request.max_num_batched_tokens):
        # Their defaults depend on the card.
        asked |= {
            "accelerator_name": accelerator.name[:100],
            "accelerator_memory_bytes": accelerator.usable_bytes,
        }
    if request.tensors and _quantization_method(request.config) in METHODS_THAT_READ_HEADERS:
        asked["tensor_groups"] = [
            {"pattern": g.pattern, "dtype": g.dtype, "count": g.count, "indices": list(g.indices)}
            for g in request.tensors
        ]
    return asked


def digest_of(request: PlanRequest) -> str:
    """The key of a request's row: 64 hexadecimal digits over the question and the engine's version."""
    return _digest(exact_request_of(request))


def exact_plan_for(request: PlanRequest) -> ExactPlan | None:
    """The row of this request, whatever its state; None when it was never asked or is forgotten."""
    return ExactPlan.objects.filter(digest=digest_of(request)).first()


def request_exact_plan(request: PlanRequest, *, now: float, again: bool = False) -> ExactPlan | None:
    """The row, queued if nobody has asked yet or the last try was lost; None where exact mode cannot answer.

    `again` asks a failed one again at once.
    """
    if why_not_exact(request):
        return None
    asked = exact_request_of(request)
    with transaction.atomic():
        row, is_new = ExactPlan.objects.get_or_create(
            digest=_digest(asked),
            defaults={"request": asked, "requested_at": now, "engine_version": _engine_version()},
        )
        if not is_new and not _is_due(row, now=now, again=again):
            return row
        if not is_new:
            row.status, row.error, row.result = ExactPlan.Status.QUEUED, "", None
            row.requested_at, row.started_at, row.finished_at = now, None, None
            row.save()
        _let_older_questions_go(now)
        transaction.on_commit(lambda: send_task(TASK))
    return row


def capacity_for(result: dict[str, Any], *, kv_cache_bytes: int) -> ExactCapacity | None:
    """Blocks, tokens and concurrency of a cache of `kv_cache_bytes` per rank; None where nothing is cached.

    The arithmetic of vLLM 0.29's v1/core/kv_cache_utils.py: the smallest stage's whole blocks count, one
    block is never given out.
    """
    geometry = result.get("geometry")
    block_bytes = [size for size in (geometry or {}).get("bytes_per_block_by_stage", ()) if size > 0]
    if not geometry or not block_bytes:
        return None
    per_request = int(geometry["blocks_per_request"])
    blocks = min(max(0, kv_cache_bytes) // size for size in block_bytes)
    concurrency = blocks / per_request
    return ExactCapacity(
        num_blocks=blocks,
        kv_cache_tokens=int(concurrency * int(result["settings"]["max_model_len"])),
        max_concurrency=concurrency,
        fits_one_request=blocks - 1 >= per_request,
    )


def forget_old_plans() -> int:
    """Keep the newest finished rows; how many were dropped. The worker calls it."""
    kept = ExactPlan.objects.order_by("-requested_at").values_list("requested_at", flat=True)
    oldest_kept = kept[KEPT_ROWS - 1 : KEPT_ROWS].first() if kept.count() > KEPT_ROWS else None
    if oldest_kept is None:
        return 0
    finished = (ExactPlan.Status.DONE, ExactPlan.Status.FAILED)
    dropped, _ = ExactPlan.objects.filter(requested_at__lt=oldest_kept, status__in=finished).delete()
    return dropped


def _is_due(row: ExactPlan, *, now: float, again: bool) -> bool:
    if row.status == ExactPlan.Status.FAILED:
        return again or now - (row.finished_at or 0.0) > RETRY_FAILED_AFTER_S
    if row.status == ExactPlan.Status.RUNNING:
        return now - (row.started_at or 0.0) > STALE_RUNNING_S
    return row.status == ExactPlan.Status.QUEUED and now - row.requested_at > STALE_QUEUED_S


def _let_older_questions_go(now: float) -> None:
    waiting = ExactPlan.objects.filter(status=ExactPlan.Status.QUEUED).order_by("-requested_at")
    too_old = list(waiting.values_list("digest", flat=True)[MOST_QUEUED:])
    if not too_old:
        return
    ExactPlan.objects.filter(digest__in=too_old, status=ExactPlan.Status.QUEUED).update(
        status=ExactPlan.Status.FAILED, error="Newer questions came first; ask again.", finished_at=now
    )


def _quantization_method(config: dict[str, Any]) -> str:
    method = config.get("quantization_config")
    return str(method.get("quant_method", "")).lower() if isinstance(method, dict) else ""


def _engine_version() -> str:
    return str(engine_support()["vllm_version"])


def _digest(asked: dict[str, Any]) -> str:
    return hashlib.sha256(_canonical({"engine": _engine_version(), "asked": asked})).hexdigest()


def _canonical(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()
