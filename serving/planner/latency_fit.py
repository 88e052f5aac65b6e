"""Fits the coefficients of `latency` to measured runs, and scores them on models and accelerators left out.

Run by `make bench-planner` and by whoever makes a new serving/data/latency_fit.json; no plan needs it. It
must predict with `latency`'s own functions only, or the scores would speak of other code.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from serving.planner.latency import (
    Bounds,
    Coefficients,
    Load,
    prefill_s,
    regime_of,
    tpot_parts,
    tpot_terms,
)
from serving.planner.latency_work import Work, prefill_terms

BEFORE_MEASURING_DECODE = {
    "weights": 1.25,
    "dequantisation": 0.25,
    "kv_cache": 1.25,
    "compute": 2.0,
    "layers": 20e-6,
    "all_reduces": 10e-6,
    "moe_layers": 20e-6,
    "all_reduce_bytes": 1.25,
    "other_prefills": 1.0,
}
BEFORE_MEASURING_PREFILL = {
    "request": 10e-3,
    "weights": 1.25,
    "compute": 2.0,
    "activations": 30.0,
    "layers": 20e-6,
    "all_reduces": 10e-6,
    "moe_layers": 20e-6,
    "all_reduce_bytes": 1.25,
}
"""Where the fit starts and is weakly held: 80 % of the bandwidth, half of the peak, some kernels of a few
microseconds per layer. With all rows they matter little; they keep a term finite that no row shows."""
PULL = 1.0
"""How strongly: as one row would whose prediction is off by 100 % when the term is off by 100 %."""
TOLERATED = 0.25
"""Relative error beyond which a row counts linearly (Huber): runs limited by their client are in the data."""
ROUNDS = 12
SWEEPS = 200
TTFT_CONCURRENCY = 4
"""Runs with at most so many requests in flight show the prefill almost without a queue; none had fewer."""
INSIDE = (0.03, 0.97)
BEYOND = (0.01, 0.99)
"""Quantiles of measured over predicted that become the band, and the one for plans unlike any measured."""


@dataclass(frozen=True)
class Sample:
    """One measured run: what it had to do, and how long it took."""

    model: str
    accelerator: str
    work: Work
    load: Load
    ttft_s: float
    tpot_s: float

    @property
    def shows_prefill(self) -> bool:
        """Whether its time to first token is prefill rather than queue."""
        return self.load.running <= TTFT_CONCURRENCY


@dataclass(frozen=True)
class HeldOut:
    """One run predicted by coefficients and bands that never saw its group."""

    sample: Sample
    predicted_s: float
    measured_s: float
    low_s: float
    high_s: float

    @property
    def error(self) -> float:
        """Signed relative error of the prediction."""
        return self.predicted_s / self.measured_s - 1

    @property
    def is_covered(self) -> bool:
        """Whether the measurement lies in the stated band."""
        return self.low_s <= self.measured_s <= self.high_s


GroupOf = Callable[[Sample], str]


def by_model(sample: Sample) -> str:
    """The group of leave-one-model-out."""
    return sample.model


def by_accelerator(sample: Sample) -> str:
    """The group of leave-one-accelerator-out."""
    return sample.accelerator


def fit(samples: Sequence[Sample]) -> Coefficients:
    """Coefficients from all samples, prefill first since decoding is disturbed by it. Bands are empty.

    Every sample must have one pipeline stage: then a prediction is the plain sum of its terms.
    """
    quiet = [sample for sample in samples if sample.shows_prefill]
    prefill = non_negative_fit(
        [(_prefill_row(sample), sample.ttft_s) for sample in quiet], before=BEFORE_MEASURING_PREFILL
    )
    rows = [(tpot_terms(s.work, s.work.stages[0], s.load, prefill), s.tpot_s) for s in samples]
    return Coefficients(
        decode=non_negative_fit(rows, before=BEFORE_MEASURING_DECODE), prefill=prefill, bands={}
    )


def fit_with_bands(samples: Sequence[Sample]) -> Coefficients:
    """Coefficients from all samples, bands from predicting each model without it."""
    fitted = fit(samples)
    ratios: dict[str, list[float]] = {"tpot_quiet": [], "tpot_busy": [], "ttft": []}
    for model in sorted({sample.model for sample in samples}):
        without = fit([sample for sample in samples if sample.model != model])
        for sample in samples:
            if sample.model != model:
                continue
            parts = tpot_parts(sample.work, sample.load, without)
            ratios[f"tpot_{regime_of(parts)}"].append(sample.tpot_s / sum(parts.values()))
            if sample.shows_prefill:
                predicted_s = prefill_s(sample.work, sample.load.prompt_tokens, without)
                ratios["ttft"].append(sample.ttft_s / predicted_s)
    every = ratios["tpot_quiet"] + ratios["tpot_busy"]
    bands = {
        "tpot_quiet": quantiles(ratios["tpot_quiet"] or every, INSIDE),
        "tpot_busy": quantiles(ratios["tpot_busy"] or every, INSIDE),
        "tpot_beyond": quantiles(every, BEYOND),
        "ttft_inside": quantiles(ratios["ttft"], INSIDE),
        "ttft_beyond": quantiles(ratios["ttft"], BEYOND),
    }
    return Coefficients(decode=fitted.decode, prefill=fitted.prefill, bands=bands, rows=len(samples))


def leave_out(samples: Sequence[Sample], group_of: GroupOf) -> tuple[list[HeldOut], list[HeldOut]]:
    """(times per output token, times to first token) of every sample, predicted without its group.

    Coefficients and bands are made again from the other groups alone. Needs two models in each remainder.
    """
    tpot, ttft = [], []
    for group in sorted({group_of(sample) for sample in samples}):
        fitted = fit_with_bands([sample for sample in samples if group_of(sample) != group])
        for sample in samples:
            if group_of(sample) != group:
                continue
            parts = tpot_parts(sample.work, sample.load, fitted)
            bounds = fitted.bands[f"tpot_{regime_of(parts)}"]
            tpot.append(_held_out(sample, sum(parts.values()), sample.tpot_s, bounds))
            if sample.shows_prefill:
                seconds = prefill_s(sample.work, sample.load.prompt_tokens, fitted)
                ttft.append(_held_out(sample, seconds, sample.ttft_s, fitted.bands["ttft_inside"]))
    return tpot, ttft


def score(held_out: Iterable[HeldOut]) -> dict[str, float]:
    """Rows, median and mean absolute relative error, its 90th percentile, median signed error, coverage."""
    rows = list(held_out)
    errors = [abs(row.error) for row in rows]
    return {
        "rows": len(rows),
        "median": median(errors),
        "mean": sum(errors) / len(rows),
        "p90": quantiles(errors, (0.9, 0.9))[0],
        "bias": median(row.error for row in rows),
        "covered": sum(row.is_covered for row in rows) / len(rows),
    }


def naive_tpot_s(sample: Sample) -> float:
    """The roofline of bytes alone, for comparison: 80 % of the bandwidth or half the peak, the slower."""
    terms = tpot_terms(sample.work, sample.work.stages[0], sample.load, BEFORE_MEASURING_PREFILL)
    return max((terms["weights"] + terms["kv_cache"]) / 0.8, terms["compute"] / 0.5)


def non_negative_fit(
    rows: Sequence[tuple[Mapping[str, float], float]], *, before: Mapping[str, float]
) -> dict[str, float]:
    """Coefficients >= 0 whose weighted sum of terms is near the measured seconds, in relative error.

    Iteratively reweighted least squares: errors are relative to the larger of measured and predicted, so
    that twice and half weigh the same and no row can weigh without bound; rows far off count linearly.
    """
    names = list(before)
    scaled = [([terms[name] * before[name] for name in names], measured) for terms, measured in rows]
    values = [1.0] * len(names)
    for _ in range(ROUNDS):
        gram = [[PULL if i == j else 0.0 for j in range(len(names))] for i in range(len(names))]
        right = [PULL] * len(names)
        for terms, measured in scaled:
            _add_row(gram, right, terms, measured, values)
        values = _descend(gram, right, values)
    return {name: value * before[name] for name, value in zip(names, values, strict=True)}


def quantiles(values: Sequence[float], shares: tuple[float, float]) -> Bounds:
    """Two quantiles, by linear interpolation between the sorted values."""
    ordered = sorted(values)
    low, high = (_quantile(ordered, share) for share in shares)
    return low, high


def _quantile(ordered: Sequence[float], share: float) -> float:
    place = share * (len(ordered) - 1)
    index = min(int(place), len(ordered) - 1)
    after = min(index + 1, len(ordered) - 1)
    return ordered[index] + (place - index) * (ordered[after] - ordered[index])


def _prefill_row(sample: Sample) -> dict[str, float]:
    return prefill_terms(sample.work, sample.work.stages[0], prompt_tokens=sample.load.prompt_tokens)


def _held_out(sample: Sample, predicted_s: float, measured_s: float, bounds: Bounds) -> HeldOut:
    low, high = bounds
    return HeldOut(sample, predicted_s, measured_s, predicted_s * min(1.0, low), predicted_s * max(1.0, high))


def _add_row(
    gram: list[list[float]], right: list[float], terms: list[float], measured: float, values: list[float]
) -> None:
    predicted = sum(term * value for term, value in zip(terms, values, strict=True))
    unit_s = max(measured, predicted)
    error = abs(predicted - measured) / unit_s
    weight = min(1.0, TOLERATED / error) if error else 1.0
    weight /= unit_s * unit_s
    for i, term in enumerate(terms):
        if not term:
            continue
        right[i] += weight * term * measured
        row = gram[i]
        for j, other in enumerate(terms):
            row[j] += weight * term * other


def _descend(gram: list[list[float]], right: list[float], start: list[float]) -> list[float]:
    """Minimum of the quadratic over values >= 0, by coordinate descent."""
    values = list(start)
    for _ in range(SWEEPS):
        moved = 0.0
        for i, row in enumerate(gram):
            others = sum(a * b for a, b in zip(row, values, strict=True)) - row[i] * values[i]
            new = max(0.0, (right[i] - others) / row[i])
            moved = max(moved, abs(new - values[i]))
            values[i] = new
        if moved < 1e-7:
            break
    return values
