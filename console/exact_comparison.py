"""What vLLM's own classes said of a plan, beside the closed form, as words and rows for pages. Read only."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from console.exact_plans import capacity_for, exact_plan_for, why_not_exact
from console.models import ExactPlan
from serving.planner.request import PlanRequest
from serving.planner.result import Memory, Plan

SAME_WITHIN = 0.001


@dataclass(frozen=True)
class Row:
    """One figure of both modes."""

    label: str
    planned: int
    exact: int

    @property
    def difference(self) -> float:
        """(exact - planned) / planned."""
        return (self.exact - self.planned) / self.planned if self.planned else 0.0


@dataclass
class Comparison:
    """`state`: none (not asked yet), not_covered, queued, running, done, refused or failed."""

    state: str
    reason: str = ""
    rows: list[Row] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    key: str = ""
    engine_version: str = ""

    @property
    def agrees(self) -> bool:
        """Whether every figure is the same within a thousandth."""
        return all(abs(row.difference) <= SAME_WITHIN for row in self.rows)

    @property
    def is_under_way(self) -> bool:
        """Whether an answer will come."""
        return self.state in ("queued", "running")


def compare(request: PlanRequest, plan: Plan, row: ExactPlan | None = None) -> Comparison:
    """The state of a request's exact plan; `row` when the caller has it already."""
    if reason := why_not_exact(request):
        return Comparison("not_covered", reason)
    row = exact_plan_for(request) if row is None else row
    if row is None:
        return Comparison("none")
    made = Comparison(row.status, row.error, key=row.digest[:16], engine_version=row.engine_version)
    if row.status != ExactPlan.Status.DONE or row.result is None:
        return made
    made.notes = [str(note) for note in row.result.get("notes", [])]
    if refusal := row.result.get("refusal"):
        made.state, made.reason = "refused", str(refusal.get("message", ""))
        return made
    if plan.memory is not None:
        made.rows = _rows(row.result, plan.memory)
    return made


def _rows(result: dict[str, Any], memory: Memory) -> list[Row]:
    stages = result.get("stages") or []
    several = len(stages) > 1
    rows = [
        Row(
            f"Weights, stage {index}" if several else "Weights",
            planned.weight_bytes,
            int(exact["weight_bytes"]),
        )
        for index, (planned, exact) in enumerate(zip(memory.stages, stages, strict=False))
    ]
    capacity = capacity_for(result, kv_cache_bytes=memory.kv_cache_bytes)
    if capacity is not None:
        rows.append(Row("KV tokens", memory.kv_cache_tokens, capacity.kv_cache_tokens))
    return rows
