"""The table of `make bench-gateway` and the goals, all ratios of one run. Pure."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from statistics import median

from tests.bench.gateway.load import Outcome, quantile
from tests.bench.gateway.load import median as median_of


@dataclass
class Cell:
    """All rounds of one system at one load."""

    rounds: list[Outcome] = field(default_factory=list)
    cpu_s: list[float] = field(default_factory=list)

    @property
    def per_s(self) -> float:
        """Requests per second, median of the rounds."""
        return median(one.per_s for one in self.rounds)

    @property
    def cpu_ms_per_request(self) -> float:
        """Processor milliseconds per request between caller and engine, median of the rounds."""
        return median(
            1000 * cpu_s / max(1, one.requests) for one, cpu_s in zip(self.rounds, self.cpu_s, strict=True)
        )

    def all(self, name: str) -> list[float]:
        """All times of one kind, of all rounds."""
        return [value for one in self.rounds for value in getattr(one, name)]

    @property
    def first_s(self) -> list[float]:
        """Times to the whole answer (unary) or to its first piece (stream)."""
        return self.all("unary_s") or self.all("ttft_s")

    @property
    def merged(self) -> float:
        """Share of pieces that came together with an earlier one."""
        pieces = sum(one.pieces for one in self.rounds)
        return sum(one.merged for one in self.rounds) / pieces if pieces else 0.0

    @property
    def failed(self) -> int:
        """Requests without a good answer."""
        return sum(one.failed for one in self.rounds)


Results = dict[tuple[str, str, int], Cell]
"""System, kind (unary, stream), in flight -> cell."""


def table(results: Results, systems: Iterable[str]) -> list[str]:
    """One line per system and load. Added: over `direct` at the same load."""
    lines = [
        f"{'system':<12}{'kind':<8}{'in flight':>9}{'req/s':>9}{'added p50':>11}{'added p99':>11}"
        f"{'chunk p50':>11}{'chunk p99':>11}{'merged':>8}{'CPU/req':>10}{'failed':>8}"
    ]
    for kind in ("unary", "stream"):
        for in_flight in sorted({key[2] for key in results if key[1] == kind}):
            direct = results["direct", kind, in_flight]
            for name in systems:
                lines.append(_line(name, kind, in_flight, results[name, kind, in_flight], direct))
    return lines


def _line(name: str, kind: str, in_flight: int, cell: Cell, direct: Cell) -> str:
    base_first = median_of(direct.first_s)
    base_delay = median_of(direct.all("delays_s")) if kind == "stream" else 0.0
    delays = cell.all("delays_s")
    added = [f"{1000 * (quantile(cell.first_s, q) - base_first):>8.1f} ms" for q in (0.5, 0.99)]
    chunk = (
        [f"{1000 * (quantile(delays, q) - base_delay):>8.2f} ms" for q in (0.5, 0.99)]
        if kind == "stream"
        else [f"{'–':>11}"] * 2
    )
    merged = f"{cell.merged:>7.1%} " if kind == "stream" else f"{'–':>8}"
    return (
        f"{name:<12}{kind:<8}{in_flight:>9}{cell.per_s:>9.0f}{added[0]}{added[1]}{chunk[0]}{chunk[1]}"
        f"{merged}{cell.cpu_ms_per_request:>7.2f} ms{cell.failed:>8}"
    )


@dataclass
class Goal:
    """One number that was asked for."""

    words: str
    value: float
    bound: float
    at_least: bool = False
    unit: str = "×"

    @property
    def is_met(self) -> bool:
        """Whether the measured value keeps the bound."""
        if math.isnan(self.value):
            return False
        return self.value >= self.bound if self.at_least else self.value <= self.bound


def ratio_goals(results: Results) -> list[Goal]:
    """The goals that compare systems of this run."""
    goals = []
    for in_flight in (16, 64):
        ours = results["raydeck", "unary", in_flight].per_s
        for other, factor in (("litellm", 7.0), ("ray best", 2.0)):
            value = _ratio(ours, results[other, "unary", in_flight].per_s)
            goals.append(Goal(f"unary req/s at {in_flight}, over {other}", value, factor, at_least=True))
    for kind, other, bound in (
        ("unary", "litellm", 0.25),
        ("stream", "litellm", 0.25),
        ("stream", "ray default", 0.08),
    ):
        ours_s, theirs_s = (median_of(results[name, kind, 1].first_s) for name in ("raydeck", other))
        what = "p50" if kind == "unary" else "TTFT p50"
        goals.append(Goal(f"{kind} {what} at 1, over {other}", _ratio(ours_s, theirs_s), bound))
    for kind, bound in (("unary", 0.15), ("stream", 0.35)):
        ours, theirs = (results[name, kind, 16].cpu_ms_per_request for name in ("raydeck", "litellm"))
        goals.append(Goal(f"CPU per {kind} request at 16, over litellm", _ratio(ours, theirs), bound))
    return goals


def _ratio(ours: float, theirs: float) -> float:
    """Not a number where the other answered nothing in time, as in a short run."""
    return ours / theirs if theirs else math.nan


def chunk_goals(results: Results) -> list[Goal]:
    """Pieces of streams at 16 in flight: what the gateway adds to the way from engine to caller."""
    cell, direct = results["raydeck", "stream", 16], results["direct", "stream", 16]
    base = median_of(direct.all("delays_s"))
    delays = cell.all("delays_s")
    return [
        Goal("added time per chunk at 16, p50", 1000 * (quantile(delays, 0.5) - base), 0.5, unit="ms"),
        Goal("added time per chunk at 16, p99", 1000 * (quantile(delays, 0.99) - base), 6.0, unit="ms"),
        Goal("merged chunks at 16", 100 * cell.merged, 0.5, unit="%"),
    ]


def goal_lines(goals: Iterable[Goal]) -> list[str]:
    """One line per goal, met or not."""
    return [
        f"{'met   ' if goal.is_met else 'MISSED'} {goal.words:<46}{goal.value:>9.3f} {goal.unit:<3}"
        f"{'at least' if goal.at_least else 'at most'} {goal.bound:g} {goal.unit}"
        for goal in goals
    ]
