"""Corrects a prediction by what the same model, topology and accelerator was really measured at. Pure.

It knows nothing of databases: the caller hands over windows of traffic, and gets a factor with the number of
requests and the time it rests on. Fill an `Observation` for each window of some minutes in which requests
finished, from either source:

* The engine's histograms, as differences of counters between the window's ends:
  `tpot_s` = Δsum / Δcount of `vllm:request_time_per_output_token_seconds`,
  `ttft_s` the same of `vllm:time_to_first_token_seconds`,
  `prompt_tokens` and `output_tokens` of `vllm:request_prompt_tokens` and `vllm:request_generation_tokens`,
  `concurrency` = mean of `vllm:num_requests_running` over the window's samples, `requests` = Δcount.
* Usage records: `tpot_s` = mean over finished requests of (last token - first token) / (output tokens - 1),
  skipping answers of one token; `concurrency` = sum of the requests' seconds between first and last token
  inside the window / the window's seconds; of one replica, never of the whole deployment.

Leave out windows with a cold start, with preemptions, or in which most of the prompt came from the prefix
cache (`ttft_s` None suffices for the last).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from math import exp, log, sqrt

from serving.planner.result import Latency, Range

FEWEST_REQUESTS = 5
"""A window of fewer finished requests is no measurement: one long prompt would make it."""
UNLOADED_CONCURRENCY = 1.0
"""Time to first token is compared only in windows this quiet: above, it holds queueing too."""
HALF_WIDTH = 1.881
"""Of the central 94 % of a normal distribution, in standard deviations: the share a prediction's band holds
(`latency_fit.INSIDE`)."""
BASIS = "corrected by measurements"


@dataclass(frozen=True)
class Observation:
    """One window of one replica's traffic; means over its requests. Times in seconds, None: not measured."""

    concurrency: float
    prompt_tokens: int
    output_tokens: int
    requests: int
    started_at: datetime
    ended_at: datetime
    tpot_s: float | None = None
    ttft_s: float | None = None


@dataclass(frozen=True)
class Factor:
    """Measured over predicted: the factor to multiply with, and its own bounds for a single window.

    `windows` and `requests` it rests on; without any, `value` is 1 and there are no bounds.
    """

    value: float = 1.0
    low: float = 0.0
    high: float = 0.0
    windows: int = 0
    requests: int = 0


@dataclass(frozen=True)
class Correction:
    """What is known of one model + topology + accelerator from its own traffic."""

    tpot: Factor
    ttft: Factor
    since: datetime
    until: datetime

    @property
    def basis(self) -> str:
        """In words, for the page: how many requests, from when to when, and which way it moved."""
        shift = self.tpot.value - 1
        direction = "slower" if shift > 0 else "faster"
        return (
            f"Corrected by {self.tpot.requests:,} requests in {self.tpot.windows} windows from "
            f"{self.since:%Y-%m-%d %H:%M} to {self.until:%Y-%m-%d %H:%M}: "
            f"{abs(shift):.0%} {direction} than predicted for this model, topology and accelerator."
        )


PredictAt = Callable[[Observation], Latency | None]
"""The uncorrected prediction at an observation's concurrency and lengths (`corrections_plan.predictions`)."""


def correction_of(observations: Sequence[Observation], predict_at: PredictAt) -> Correction | None:
    """The correction that the windows support; None without a usable window or prediction."""
    tpot: list[tuple[float, int, Range]] = []
    ttft: list[tuple[float, int, Range]] = []
    used: list[Observation] = []
    for observation in observations:
        predicted = predict_at(observation) if observation.requests >= FEWEST_REQUESTS else None
        if predicted is None or not observation.tpot_s or observation.tpot_s <= 0:
            continue
        used.append(observation)
        tpot.append((observation.tpot_s, observation.requests, predicted.tpot_s))
        if observation.ttft_s and observation.concurrency <= UNLOADED_CONCURRENCY:
            ttft.append((observation.ttft_s, observation.requests, predicted.ttft_unloaded_s))
    if not used:
        return None
    return Correction(
        tpot=factor_of(tpot),
        ttft=factor_of(ttft),
        since=min(one.started_at for one in used),
        until=max(one.ended_at for one in used),
    )


def corrected(latency: Latency, correction: Correction | None) -> Latency:
    """The prediction times the factor, with the narrower of both bands; unchanged without a correction."""
    if correction is None or not correction.tpot.windows:
        return latency
    shift = correction.tpot.value
    return replace(
        latency,
        tpot_s=_moved(latency.tpot_s, correction.tpot),
        ttft_unloaded_s=_moved(latency.ttft_unloaded_s, correction.ttft),
        parts_s={name: seconds * shift for name, seconds in latency.parts_s.items()},
        basis=BASIS,
        band_note=f"{correction.basis} {latency.band_note}".strip(),
    )


def factor_of(measured: Sequence[tuple[float, int, Range]]) -> Factor:
    """Shrunk ratio of (measured seconds, requests, predicted) of several windows.

    The logarithm of measured over predicted is normal before any window, centred on 0 and as wide as the
    prediction's own band. Windows scatter by a variance of which that band is the first guess; each window
    is one draw, however many requests it holds, since they share its conditions. So one window moves the
    prediction half of the way, and many agreeing ones nearly all of it.
    """
    if not measured:
        return Factor()
    logs = [log(seconds / predicted.expected) for seconds, _, predicted in measured]
    count = len(logs)
    before = max(_band_variance(predicted) for _, _, predicted in measured)
    mean = sum(logs) / count
    scatter = (before + sum((value - mean) ** 2 for value in logs)) / count
    share = before / (before + scatter / count)
    centre, spread = share * mean, sqrt(before * (1 - share) + scatter)
    return Factor(
        value=exp(centre),
        low=exp(centre - HALF_WIDTH * spread),
        high=exp(centre + HALF_WIDTH * spread),
        windows=count,
        requests=sum(requests for _, requests, _ in measured),
    )


def _band_variance(predicted: Range) -> float:
    """Variance of the logarithm that a band of the central 94 % speaks of; never quite 0."""
    low = max(predicted.low, predicted.expected * 1e-3)
    return max(1e-4, (log(predicted.high / low) / (2 * HALF_WIDTH)) ** 2)


def _moved(predicted: Range, factor: Factor) -> Range:
    if not factor.windows:
        return predicted
    expected = predicted.expected * factor.value
    low = max(predicted.expected * factor.low, predicted.low * factor.value)
    high = min(predicted.expected * factor.high, predicted.high * factor.value)
    return Range(min(low, expected), expected, max(high, expected))
