"""Service level objectives: which share of requests must be good, and how fast the error budget burns. Pure.

Three objectives, each optional: TTFT and TPOT (a share of requests within a threshold) and errors (a share of
requests answered). Counts come from the buckets of serving/histogram.py: a threshold inside a bucket is held
to the bucket's lower bound, so a request is called good only when it surely was.

    bad share = bad / all          burn rate = bad share / (1 - target)
    budget left = 1 - burn rate over the objective's window (30 or 7 days)

Alerts are those of the SRE workbook (chapter 5, "Multiwindow, Multi-Burn-Rate Alerts"): one opens when both
a long and a short window burn at the rule's factor. 14.4 over 1 h spends 2 % of a 30-day budget, 6 over 6 h
5 %. A target under 1 - 1/14.4 (93 %) can never burn so fast; there it is REACHABLE of what is possible.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from serving import histogram

DAY_S = 86_400
OBJECTIVES = ("ttft", "tpot", "errors")
WORDS = {"ttft": "time to first token", "tpot": "time per output token", "errors": "answered requests"}
REACHABLE = 0.8
RESOLVED_BELOW = 0.5
"""An alert resolves when its short window burns below this share of its factor: it must not flap."""
BAD_MIN = 5
"""An alert takes this many bad requests in its long window: one failure in a quiet night is no incident."""
OVER_REQUESTS_MIN = 10
"""Fewer requests in OVER_WINDOW_S say nothing about a percentile."""
OVER_WINDOW_S = 300


@dataclass(frozen=True)
class Rule:
    """When an alert opens: both windows (seconds) burn `factor` times as fast as the budget allows."""

    speed: str
    long_s: int
    short_s: int
    factor: float


RULES = (Rule("fast", 3600, 300, 14.4), Rule("slow", 6 * 3600, 1800, 6.0))
BURN_WINDOWS_S = tuple(sorted({window for rule in RULES for window in (rule.long_s, rule.short_s)}))


class SloSpec(BaseModel):
    """What an operator promises. No threshold and no `success_target`: no objective."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    ttft_s: float | None = Field(None, gt=0.0001, le=600, description="seconds to the first token")
    tpot_s: float | None = Field(None, gt=0.0001, le=60, description="seconds per output token")
    latency_target: float = Field(
        0.95, ge=0.5, le=0.9999, description="share of requests within the thresholds; 0.95 makes them p95"
    )
    success_target: float | None = Field(
        None, ge=0.5, le=0.9999, description="share of requests answered without an error"
    )
    window_days: Literal[7, 30] = Field(30, description="days over which the error budget counts")

    @property
    def objectives(self) -> tuple[str, ...]:
        """Which there are, in the order of OBJECTIVES."""
        given = {"ttft": self.ttft_s, "tpot": self.tpot_s, "errors": self.success_target}
        return tuple(name for name in OBJECTIVES if given[name] is not None)

    def target_of(self, objective: str) -> float:
        """The share that must be good."""
        return (self.success_target or 0.0) if objective == "errors" else self.latency_target

    def limit_of(self, objective: str) -> float | None:
        """The threshold in seconds; None for errors."""
        return {"ttft": self.ttft_s, "tpot": self.tpot_s}.get(objective)


@dataclass(frozen=True)
class Share:
    """Requests that told an objective, and how many of them were bad."""

    total: int
    bad: int

    def burn(self, target: float) -> float | None:
        """How many times as fast as allowed the budget is used; None without a request."""
        if not self.total:
            return None
        # Rounded, so that a burn of exactly a rule's factor is not missed for a binary fraction.
        return round(self.bad / self.total / (1.0 - target), 9)


def share_of(
    spec: SloSpec, objective: str, *, counts: Mapping[str, Mapping[int, int]], ok: int, failed: int
) -> Share:
    """Good and bad of one window. `counts`: latency -> buckets."""
    if objective == "errors":
        return Share(total=ok + failed, bad=failed)
    buckets = counts.get(objective, {})
    total = sum(buckets.values())
    return Share(total=total, bad=total - histogram.within(buckets, spec.limit_of(objective) or 0.0))


def factor_of(rule: Rule, target: float) -> float:
    """The rule's factor, or less where the target makes that one unreachable."""
    return min(rule.factor, REACHABLE / (1.0 - target))


def alert_opens(rule: Rule, shares: Mapping[int, Share], target: float) -> bool:
    """Whether both windows burn at the rule's factor. `shares`: window in seconds -> its share."""
    factor = factor_of(rule, target)
    long, short = shares[rule.long_s], shares[rule.short_s]
    burns = (long.burn(target), short.burn(target))
    return long.bad >= BAD_MIN and all(burn is not None and burn >= factor for burn in burns)


def alert_resolves(rule: Rule, shares: Mapping[int, Share], target: float) -> bool:
    """Whether an open alert is over: its short window burns well below the factor. While nobody asks, the
    long window decides, since silence is no proof."""
    floor = factor_of(rule, target) * RESOLVED_BELOW
    burn = shares[rule.short_s].burn(target)
    if burn is None:
        burn = shares[rule.long_s].burn(target)
    return burn is None or burn < floor


def is_over(shares: Mapping[int, Share], target: float) -> bool:
    """Whether the last five minutes missed the target: the word "Over SLO"."""
    share = shares[OVER_WINDOW_S]
    return share.total >= OVER_REQUESTS_MIN and (share.burn(target) or 0.0) > 1.0


def judged(spec: SloSpec, objective: str, *, budget: Share, shares: Mapping[int, Share]) -> dict[str, Any]:
    """One objective as pages and API show it. `budget` is the share of the objective's window."""
    target, limit_s = spec.target_of(objective), spec.limit_of(objective)
    burn = budget.burn(target)
    return {
        "objective": objective,
        "limit_s": limit_s,
        "held_limit_s": None if limit_s is None else histogram.held_limit_s(limit_s),
        "target": target,
        "window_days": spec.window_days,
        "requests": budget.total,
        "bad": budget.bad,
        "good_share": 1.0 - budget.bad / budget.total if budget.total else None,
        "budget_left": None if burn is None else 1.0 - burn,
        "burn_rates": {str(window): share.burn(target) for window, share in sorted(shares.items())},
        "is_over": is_over(shares, target),
    }
