"""What a model was really measured at on the same topology, to correct its predicted times. Read only.

Windows of finished requests come from the usage records; serving/planner/corrections.py does the sums. Where
nothing can be predicted (on CPU there is no roofline), the measurements stand in its place and say so.
"""

from __future__ import annotations

import json
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from django.db.models import Q

from console.models import RequestRecord, Revision
from serving.planner.corrections import Observation
from serving.planner.corrections_plan import corrected_plan
from serving.planner.request import PlanRequest
from serving.planner.result import Latency, Plan, Range

SINCE_S = 7 * 86_400
WINDOW_S = 300
RECORDS_AT_MOST = 4_000
WINDOWS_AT_MOST = 20
CACHED_SHARE = 0.5
"""A window whose prompts came mostly from the prefix cache says nothing of prefill."""
KEPT_S = 60.0
SAME = ("model_source", "hub_revision", "accelerator_type", "dtype")
SIZES = ("tensor_parallel_size", "pipeline_parallel_size")
UNSAID: dict[str, Any] = {
    "async_scheduling": True,
    "block_size": None,
    "enable_expert_parallel": False,
    "enable_prefix_caching": True,
    "enforce_eager": False,
    "gpu_memory_utilization": 0.92,
    "kv_cache_dtype": "auto",
    "max_num_batched_tokens": None,
    "quantization": None,
}
"""Engine arguments that say what holds anyway."""

_kept: dict[Setup, tuple[float, list[Observation]]] = {}


@dataclass(frozen=True)
class Setup:
    """What makes two engine definitions equally fast at the same load: files, hardware, formats, arguments,
    and the sizes of the topology. How much they hold (context, sequences, KV cache) is not part of it."""

    model: str
    same: tuple[Any, ...]
    sizes: tuple[int, int]
    arguments: str


def setup_of(engine: Mapping[str, Any]) -> Setup:
    """The setup of an engine definition as it is stored (serving.spec.EngineSpec)."""
    arguments = engine.get("engine_kwargs") or {}
    said = {name: value for name, value in arguments.items() if value != UNSAID.get(name)}
    sizes = tuple(int(engine.get(name) or 1) for name in SIZES)
    return Setup(
        model=str(engine.get("model") or ""),
        same=(*(engine.get(name) or None for name in SAME), bool(engine.get("tp_may_span_nodes"))),
        sizes=(sizes[0], sizes[1]),
        arguments=json.dumps(said, sort_keys=True, default=str),
    )


def with_measurements(plan: Plan, request: PlanRequest, setup: Setup) -> Plan:
    """The plan with its times corrected by, or where there are none taken from, this topology's traffic."""
    return _corrected(plan, request, observations_of(setup, now=time.time()))


def corrections_for(setup: Setup) -> Callable[[Plan, PlanRequest], Plan]:
    """The same for any topology of a setup; the revisions are looked through once for all of them."""
    there = {other.sizes for other, _, _ in _revisions(setup) if replace(other, sizes=setup.sizes) == setup}

    def correct(plan: Plan, request: PlanRequest) -> Plan:
        sizes = (request.tensor_parallel_size, request.pipeline_parallel_size)
        return with_measurements(plan, request, replace(setup, sizes=sizes)) if sizes in there else plan

    return correct


def _corrected(plan: Plan, request: PlanRequest, observations: Sequence[Observation]) -> Plan:
    if not observations:
        return plan
    if plan.latency is None:
        return replace(plan, latency=measured(observations, request.concurrency))
    return corrected_plan(plan, request, observations)[0]


def observations_of(setup: Setup, *, now: float) -> list[Observation]:
    """Windows of the last seven days, the newest first; kept for a minute, since every keystroke asks."""
    kept = _kept.get(setup)
    if kept is None or not 0 <= now - kept[0] < KEPT_S:
        if len(_kept) > 500:
            _kept.clear()
        kept = _kept[setup] = (now, windows(_records(setup, now)))
    return kept[1]


def windows(records: Iterable[RequestRecord]) -> list[Observation]:
    """One observation per replica and five minutes in which requests finished, the newest first."""
    groups: dict[tuple[str, int], list[RequestRecord]] = defaultdict(list)
    for record in records:
        groups[(record.replica, int(record.started_at // WINDOW_S))].append(record)
    newest = sorted(groups.items(), key=lambda item: -item[0][1])[:WINDOWS_AT_MOST]
    return [_observation(rows, at * WINDOW_S) for (_, at), rows in newest]


def measured(observations: Sequence[Observation], concurrency: int) -> Latency | None:
    """Times as measured, of the windows nearest in concurrency: their mean with the smallest and largest."""
    usable = [one for one in observations if one.tpot_s]
    if not usable:
        return None
    nearest = sorted(usable, key=lambda one: abs(one.concurrency - concurrency))[:5]
    requests = sum(one.requests for one in nearest)
    tpot = _spread([(one.tpot_s or 0.0, one.requests) for one in nearest])
    quiet = [(one.ttft_s, one.requests) for one in usable if one.ttft_s and one.concurrency <= 1.5]
    ttft = _spread(quiet or [(one.ttft_s, one.requests) for one in usable if one.ttft_s])
    mean = sum(one.concurrency * one.requests for one in nearest) / requests
    note = (
        f"measured on {requests:,} requests of this model and topology, {mean:.1f} in flight on average; "
        "nothing can be predicted for this kind of machine"
    )
    return None if ttft is None or tpot is None else Latency(ttft, tpot, {}, "measured", note)


def _revisions(setup: Setup) -> list[tuple[Setup, int, int]]:
    """(setup, deployment, number) of every revision with this model."""
    rows = Revision.objects.filter(engine__model=setup.model).order_by("pk")
    return [
        (setup_of(stored), deployment, number)
        for deployment, number, stored in rows.values_list("deployment_id", "number", "engine")
    ]


def _records(setup: Setup, now: float) -> list[RequestRecord]:
    alike = [(deployment, number) for other, deployment, number in _revisions(setup) if other == setup]
    if not alike:
        return []
    numbers: dict[int, list[int]] = defaultdict(list)
    for deployment, number in alike:
        numbers[deployment].append(number)
    same = Q()
    for deployment, found in numbers.items():
        same |= Q(deployment_id=deployment, revision__in=found)
    rows = RequestRecord.objects.of_callers().filter(
        same, started_at__gte=now - SINCE_S, outcome="ok", woke=False, tpot_s__gt=0, decode_s__gt=0
    )
    return list(rows.order_by("-started_at")[:RECORDS_AT_MOST])


def _observation(rows: list[RequestRecord], started_at: float) -> Observation:
    prompt = sum(row.prompt_tokens or 0 for row in rows)
    cached = sum(row.cached_tokens or 0 for row in rows)
    first_tokens = [row.ttft_s for row in rows if row.ttft_s]
    from_cache = prompt > 0 and cached / prompt > CACHED_SHARE
    return Observation(
        concurrency=_busy_concurrency(rows),
        prompt_tokens=max(1, round(prompt / len(rows))),
        output_tokens=max(1, round(sum(row.completion_tokens or 0 for row in rows) / len(rows))),
        requests=len(rows),
        started_at=datetime.fromtimestamp(started_at, UTC),
        ended_at=datetime.fromtimestamp(started_at + WINDOW_S, UTC),
        tpot_s=sum(row.tpot_s or 0.0 for row in rows) / len(rows),
        ttft_s=None if from_cache or not first_tokens else sum(first_tokens) / len(first_tokens),
    )


def _busy_concurrency(rows: list[RequestRecord]) -> float:
    """Requests decoding at once, on average over the time in which any did."""
    spans = sorted(
        (row.started_at + (row.ttft_s or 0.0), row.started_at + (row.ttft_s or 0.0) + (row.decode_s or 0.0))
        for row in rows
    )
    busy, until = 0.0, 0.0
    for begin, end in spans:
        busy += max(0.0, end - max(begin, until))
        until = max(until, end)
    return sum(end - begin for begin, end in spans) / busy if busy else 1.0


def _spread(values: Sequence[tuple[float | None, int]]) -> Range | None:
    known = [(value, weight) for value, weight in values if value]
    if not known:
        return None
    mean = sum(value * weight for value, weight in known) / sum(weight for _, weight in known)
    seconds = [value for value, _ in known]
    return Range(min(seconds), mean, max(seconds))
