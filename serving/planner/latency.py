"""Time to the first token without a queue, and time per output token under a given load. Pure.

A roofline per engine step with terms per layer, per all-reduce and per layer of experts; the coefficients
and the bands come from serving/data/latency_fit.json, which `make bench-planner` refits and scores on models
and accelerators left out. Queueing is not predicted here: time to the first token under load needs a
simulation of arrivals.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from serving.planner.architecture import Architecture
from serving.planner.latency_work import (
    StageWork,
    UnknownSpeed,
    Work,
    decode_terms,
    prefill_terms,
    requests_in_room,
    work_of,
)
from serving.planner.request import PlanRequest
from serving.planner.result import Latency, Memory, Range

FIT_FILE = Path(__file__).parent.parent / "data" / "latency_fit.json"

PER_PROMPT_TERMS = ("compute", "activations", "all_reduce_bytes")
"""What a prefill adds to a step that decodes others anyway: the rest of its terms that step pays already."""
BUSY_SHARE = 0.15
"""Above this share of other requests' prefills in the time per token, the error is another."""
FAST_LINK_BYTES_PER_S = 200e9
"""Links of the measured machines are NVLink of 450 GB/s and more; PCIe is far below this."""
STAGES = "pipeline stages"
MEASURED_CAPABILITIES = (9, 10)
"""Major compute capabilities of the measured accelerators: Hopper and Blackwell."""

PARTS = {
    "weights": "weights",
    "dequantisation": "weights",
    "kv_cache": "kv_cache",
    "compute": "compute",
    "layers": "layers",
    "all_reduces": "all_reduce",
    "all_reduce_bytes": "all_reduce",
    "moe_layers": "moe",
    "other_prefills": "other_prefills",
}
"""Fitted term -> the part of `Latency.parts_s` it is shown in."""

Bounds = tuple[float, float]


@dataclass(frozen=True)
class Coefficients:
    """What each term of `latency_work` costs, and how far measured times lay from the prediction.

    `bands`: measured over predicted, low and high, by `tpot_quiet`, `tpot_busy`, `tpot_beyond`,
    `ttft_inside`, `ttft_beyond`. `rows`: measured runs they were fitted to.
    """

    decode: Mapping[str, float]
    prefill: Mapping[str, float]
    bands: Mapping[str, Bounds]
    rows: int = 0


@dataclass(frozen=True)
class Load:
    """Requests decoded at once and their lengths, tokens."""

    running: float
    prompt_tokens: int
    output_tokens: int

    @property
    def context_tokens(self) -> float:
        """Mean context of a request over its life: the prompt and half of the answer."""
        return self.prompt_tokens + self.output_tokens / 2


@cache
def shipped_fit() -> dict[str, Any]:
    """The fit file: coefficients, bands, the data's digest, the date and the scores."""
    return json.loads(FIT_FILE.read_text())


@cache
def shipped_coefficients() -> Coefficients:
    """The coefficients every plan uses."""
    fit = shipped_fit()
    bands = {name: (low, high) for name, (low, high) in fit["bands"].items()}
    return Coefficients(decode=fit["decode"], prefill=fit["prefill"], bands=bands, rows=fit["rows"])


def predict(
    request: PlanRequest,
    architecture: Architecture,
    memory: Memory,
    coefficients: Coefficients | None = None,
) -> Latency | None:
    """Times at `request.concurrency`; None where `unknown_because` says why nothing can be said."""
    try:
        work = work_of(request, architecture, memory)
    except UnknownSpeed:
        return None
    fitted = coefficients or shipped_coefficients()
    load = load_of(request, memory)
    parts = tpot_parts(work, load, fitted)
    tpot_s, ttft_s = sum(parts.values()), prefill_s(work, load.prompt_tokens, fitted)
    beyond = _beyond_measured(request, architecture, work)
    # Stages alone never speed up a single request, so they do not lower its lower bound either.
    single = load.running <= 1
    lower = [why for why in beyond if why != STAGES] if single else beyond
    tpot, ttft = f"tpot_{_regime(beyond, parts)}", "ttft_beyond" if beyond else "ttft_inside"
    tpot_low, ttft_low = f"tpot_{_regime(lower, parts)}", "ttft_beyond" if lower else "ttft_inside"
    return Latency(
        ttft_unloaded_s=_banded(ttft_s, (fitted.bands[ttft_low][0], fitted.bands[ttft][1])),
        tpot_s=_banded(tpot_s, (fitted.bands[tpot_low][0], fitted.bands[tpot][1])),
        parts_s=parts,
        band_note=_note(request, load, beyond, rows=fitted.rows),
    )


def unknown_because(request: PlanRequest, architecture: Architecture, memory: Memory) -> str:
    """The sentence that says why `predict` gives None; empty where it does not."""
    try:
        work_of(request, architecture, memory)
    except UnknownSpeed as unknown:
        return str(unknown)
    return ""


def load_of(request: PlanRequest, memory: Memory) -> Load:
    """What runs at once: the asked concurrency, less what max_num_seqs or the KV cache make wait."""
    tokens = request.prompt_tokens + -(-request.output_tokens // 2)
    room = requests_in_room(memory, tokens)
    running = request.concurrency if room is None else min(request.concurrency, max(1, room))
    if request.max_num_seqs:
        running = min(running, request.max_num_seqs)
    return Load(running, request.prompt_tokens, request.output_tokens)


def tpot_terms(work: Work, stage: StageWork, load: Load, prefill: Mapping[str, float]) -> dict[str, float]:
    """The terms of one token's time on one stage: its decode step and its share of others' prefills.

    While one request makes `output_tokens` tokens, each of the others that run finishes once and is
    followed by one that must be prefilled: (running - 1) / output_tokens prefills per token.
    """
    terms = decode_terms(work, stage, sequences=load.running, context_tokens=load.context_tokens)
    one = prefill_terms(work, stage, prompt_tokens=load.prompt_tokens)
    added_s = sum(prefill[name] * one[name] for name in PER_PROMPT_TERMS)
    return terms | {"other_prefills": max(0.0, load.running - 1) / load.output_tokens * added_s}


def tpot_parts(work: Work, load: Load, fitted: Coefficients) -> dict[str, float]:
    """Seconds per output token by cause; their sum is the prediction.

    With pipeline stages the running requests are split into as many batches as there are stages. A batch
    passes all stages once per token, and no faster than the slowest stage serves all batches.
    """
    batches = min(float(len(work.stages)), load.running)
    each = Load(load.running / batches, load.prompt_tokens, load.output_tokens)
    parts = dict.fromkeys(PARTS.values(), 0.0)
    slowest_s = 0.0
    for stage in work.stages:
        terms = tpot_terms(work, stage, each, fitted.prefill)
        stage_s = 0.0
        for name, amount in terms.items():
            seconds = fitted.decode[name] * amount
            parts[PARTS[name]] += seconds
            stage_s += seconds
        slowest_s = max(slowest_s, stage_s)
    if len(work.stages) > 1:
        parts["pipeline"] = _hops_s(work, each.running, fitted)
        parts["pipeline"] += max(0.0, batches * slowest_s - sum(parts.values()))
    return parts


def prefill_s(work: Work, prompt_tokens: int, fitted: Coefficients) -> float:
    """Seconds from the first step of a prompt to its first token with nothing else running or cached.

    Chunks follow each other through the pipeline: all stages for the first, the slowest one for each
    further one.
    """
    chunks = max(1.0, prompt_tokens / work.batched_tokens)
    stages_s = []
    for stage in work.stages:
        terms = prefill_terms(work, stage, prompt_tokens=prompt_tokens)
        stages_s.append(sum(fitted.prefill[name] * terms[name] for name in terms if name != "request"))
    total_s = fitted.prefill["request"] + sum(stages_s) / chunks + (chunks - 1) / chunks * max(stages_s)
    return total_s + _hops_s(work, prompt_tokens / chunks, fitted)


def _hops_s(work: Work, tokens: float, fitted: Coefficients) -> float:
    """All hand-overs between stages. Starting one is taken to cost what starting an all-reduce costs."""
    one_s = fitted.decode["all_reduces"] + fitted.decode["all_reduce_bytes"] * work.hop_s(tokens)
    return (len(work.stages) - 1) * one_s


def regime_of(parts: Mapping[str, float]) -> str:
    """Which error band a prediction has: "busy" where others' prefills are a good part of the time."""
    return "busy" if parts["other_prefills"] > BUSY_SHARE * sum(parts.values()) else "quiet"


def _regime(beyond: list[str], parts: Mapping[str, float]) -> str:
    return "beyond" if beyond else regime_of(parts)


def _banded(seconds: float, bounds: Bounds) -> Range:
    low, high = bounds
    return Range(seconds * min(1.0, low), seconds, seconds * max(1.0, high))


def _beyond_measured(request: PlanRequest, architecture: Architecture, work: Work) -> list[str]:
    """What of this plan no measured run had; empty when it is the kind of plan the fit was scored on."""
    beyond = []
    capability = work.accelerator.compute_capability
    if capability is None or capability[0] not in MEASURED_CAPABILITIES:
        beyond.append("this accelerator's generation")
    if request.pipeline_parallel_size > 1:
        beyond.append(STAGES)
    if work.tensor_parallel_size > 1 and (work.link_bytes_per_s or 0) < FAST_LINK_BYTES_PER_S:
        beyond.append("all-reduces over so slow a link")
    if any(layer.recurrent for layer in architecture.layers):
        beyond.append("recurrent layers")
    if not architecture.is_known:
        beyond.append("an architecture of unknown structure")
    return beyond


def _note(request: PlanRequest, load: Load, beyond: list[str], *, rows: int) -> str:
    note = f"Range of measured over predicted on models left out of the fit ({rows} measured vLLM runs)."
    if beyond:
        note += f" None of them had {', '.join(beyond)}: the widest range seen is shown."
    if load.running < request.concurrency:
        note += f" At most {int(load.running)} of {request.concurrency} requests run at once; others wait."
    return note + " Time to first token is prefill alone, without a queue."
