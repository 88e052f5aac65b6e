"""What one replica costs per hour and per million output tokens, in exact decimal dollars. Pure.

The price is the operator's or the catalogue's; how many tokens an hour yields is `latency`'s estimate. What
idle or starting replicas cost is the capacity policy's, not known here.
"""

from __future__ import annotations

from dataclasses import replace
from decimal import Context, Decimal

from serving.planner.architecture import Architecture
from serving.planner.corrections import Correction, corrected
from serving.planner.latency import load_of, predict
from serving.planner.latency_work import requests_in_room
from serving.planner.request import PlanRequest
from serving.planner.result import Latency, Memory, Money

SHOWN = Context(prec=6)
"""Dollars per million tokens rest on an estimate: six significant digits are more than it deserves."""
SECONDS_PER_HOUR = 3600
TOKENS_PRICED = 1_000_000


def price(
    request: PlanRequest,
    architecture: Architecture,
    memory: Memory,
    latency: Latency | None,
    correction: Correction | None = None,
) -> Money | None:
    """Prices of one replica; None when no price per accelerator hour is known.

    Per million output tokens: None where the latency is unknown. `latency` must belong to `request`, and be
    corrected already where a `correction` is given, which is then used for full load too. Full load is as
    many requests of prompt + output tokens as KV cache and max_num_seqs hold at once.
    """
    hourly = replica_usd_per_hour(request)
    if hourly is None:
        return None
    if latency is None:
        return Money(hourly, None, None)
    full = full_load_concurrency(request, memory)
    at_full = None
    if full:
        busy = replace(request, concurrency=full)
        predicted = predict(busy, architecture, memory)
        at_full = _usd_per_million(hourly, busy, memory, predicted and corrected(predicted, correction))
    return Money(hourly, _usd_per_million(hourly, request, memory, latency), at_full, full or None)


def replica_usd_per_hour(request: PlanRequest) -> Decimal | None:
    """Dollars per hour of all accelerators of one replica, exact; None when no price is known."""
    each = request.usd_per_accelerator_hour
    if each is None and request.accelerator is not None:
        each = request.accelerator.usd_per_hour
    if each is None:
        return None
    return each * request.tensor_parallel_size * request.pipeline_parallel_size


def full_load_concurrency(request: PlanRequest, memory: Memory) -> int:
    """Requests of prompt + output tokens that run at once without preemption; 0 when none or not known."""
    room = requests_in_room(memory, request.prompt_tokens + request.output_tokens) or 0
    return min(room, request.max_num_seqs) if request.max_num_seqs else room


def output_tokens_per_s(request: PlanRequest, memory: Memory, latency: Latency) -> float:
    """Output tokens per second of a replica with `request.concurrency` requests always in flight.

    One request takes its prefill and then a step per further token; requests beyond what runs at once wait
    and add nothing.
    """
    load = load_of(request, memory)
    request_s = latency.ttft_unloaded_s.expected + (load.output_tokens - 1) * latency.tpot_s.expected
    return load.running * load.output_tokens / request_s


def _usd_per_million(
    hourly: Decimal, request: PlanRequest, memory: Memory, latency: Latency | None
) -> Decimal | None:
    if latency is None:
        return None
    per_hour = Decimal(output_tokens_per_s(request, memory, latency)) * SECONDS_PER_HOUR
    return SHOWN.divide(hourly * TOKENS_PRICED, per_hour)
