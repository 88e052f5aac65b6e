"""Plan against actual, to be shown: a revision's parts side by side, and the errors over all revisions.

Reads only. What was not planned or not measured stays null and is said in words; workers/plan_checks.py
writes what stands here. Bytes are those of one rank.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from console import formats
from console.models import Deployment, PlanCheck, Revision
from serving.planner.compare import PARTS, compare, read_plan, to_json
from serving.planner.measured import Measured, from_json

WORDS = {
    "weights": "Weights",
    "kv_cache": "KV cache",
    "kv_blocks": "KV blocks",
    "kv_tokens": "KV tokens",
    "max_concurrency": "Full requests",
    "activation": "Activation",
    "cuda_graphs": "CUDA graphs",
    "runtime": "Runtime",
    "device": "Device",
}
NO_PLAN = "No plan is stored for this revision: it was made before planning existed."
NO_MEMORY = "The plan of this revision gives no memory figures"
NOT_MEASURED = "Not measured yet: the figures come when a replica of this revision runs."
BAR_PARTS = (("w", "weights"), ("k", "kv_cache"), ("a", "activation"), ("o", "cuda_graphs"), ("o", "runtime"))
"""Colour class of the memory bar -> part; what one rank's memory consists of."""

ESTIMATES = frozenset({"activation", "cuda_graphs", "runtime"})
"""Parts that are planned as bounds alone."""

TREND_PARTS = ("weights", "kv_cache", "kv_blocks", "max_concurrency", "activation", "cuda_graphs", "runtime")
TREND_LENGTH = 50


@dataclass(frozen=True)
class Row:
    """One part as text. `note` stands instead of the error where the two cannot be compared."""

    part: str
    word: str
    planned: str
    measured: str
    error: str
    note: str
    is_off: bool
    title: str


@dataclass(frozen=True)
class Segment:
    """A piece of a memory bar in percent of its width."""

    colour: str
    x: str
    width: str


@dataclass(frozen=True)
class Shown:
    """A revision's plan beside its measurement. `notes` says what is missing and why."""

    revision: int
    rows: list[Row] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    cause: str = ""
    measured_at: float | None = None
    replica_id: str = ""
    process_bytes: int | None = None
    weight_load_seconds: float | None = None
    planned_bar: list[Segment] = field(default_factory=list)
    measured_bar: list[Segment] = field(default_factory=list)
    planned_sum: str = ""
    measured_sum: str = ""

    @property
    def is_off(self) -> bool:
        """Whether a part was off, or the plan's verdict."""
        return bool(self.cause)


def check_of(revision: Revision) -> PlanCheck | None:
    """The revision's comparison; None while there is none."""
    found: PlanCheck | None = getattr(revision, "plan_check", None)
    return found


def differences_of(revision: Revision) -> dict[str, dict[str, Any]]:
    """Part -> {planned, measured, error, …} in the order of PARTS: as stored, or what is planned alone."""
    check = check_of(revision)
    stored = check.differences if check else {}
    if not stored:
        # No comparison was possible: what is known of either side, with why there is no other.
        seen = from_json(check.measured) if check else Measured()
        stored = to_json(
            compare(
                read_plan(revision.plan or {}),
                seen,
                on_cpu=revision.engine.get("accelerator_type") is None,
                max_model_len=int(revision.engine.get("max_model_len") or 0),
            )
        )
    return {part: stored[part] for part, _ in PARTS if part in stored}


def notes_of(revision: Revision) -> list[str]:
    """What is missing of the comparison and why; empty when both sides are there."""
    notes = []
    if revision.plan is None:
        notes.append(NO_PLAN)
    elif not revision.plan.get("memory"):
        reasons = revision.plan.get("reasons") or []
        notes.append(f"{NO_MEMORY}: {reasons[0]}" if reasons else f"{NO_MEMORY}.")
    if check_of(revision) is None:
        notes.append(NOT_MEASURED)
    return notes


def shown(revision: Revision) -> Shown:
    """What the page shows of one revision; select `plan_check` with it."""
    check, differences = check_of(revision), differences_of(revision)
    seen = from_json(check.measured) if check else Measured()
    planned = {part: one["planned"] for part, one in differences.items() if one["planned"] is not None}
    measured = {part: one["measured"] for part, one in differences.items() if one["measured"] is not None}
    whole = max(_bar_bytes(planned), _bar_bytes(measured))
    return Shown(
        revision=revision.number,
        rows=[
            _row(part, one)
            for part, one in differences.items()
            # A plan of nothing, and the sum over the device, are worth a line only beside a measurement.
            if part in measured or (planned.get(part) and part != "device")
        ],
        notes=notes_of(revision),
        cause=check.cause if check else "",
        measured_at=check.measured_at if check else None,
        replica_id=check.replica_id if check else "",
        process_bytes=seen.process_bytes,
        weight_load_seconds=seen.weight_load_seconds,
        planned_bar=_bar(planned, whole),
        measured_bar=_bar(measured, whole),
        planned_sum=size(_bar_bytes(planned)),
        measured_sum=size(_bar_bytes(measured)),
    )


def trend(deployment: Deployment) -> list[dict[str, Any]]:
    """Errors per part of the newest revisions, oldest first, so that one reads from left to right.

    Per revision: `revision`, `measured_at`, `cause`, `notes` and `errors`: part -> {error, is_off,
    is_within_band}, of the parts that could be compared.
    """
    rows = deployment.revisions.select_related("plan_check").order_by("-number")[:TREND_LENGTH]
    return [_trend_point(row) for row in reversed(rows)]


def trend_table(deployment: Deployment) -> dict[str, Any]:
    """The trend as a table: a column per part that was ever compared, a row per revision, newest first."""
    points = trend(deployment)
    parts = [part for part in TREND_PARTS if any(part in point["errors"] for point in points)]
    rows = [
        {**point, "cells": [_cell(part, point["errors"].get(part)) for part in parts]} for point in points
    ]
    return {
        "parts": [WORDS[part] for part in parts],
        "rows": list(reversed(rows)),
        "is_empty": not parts,
    }


def as_json(deployment: Deployment, revision: Revision) -> dict[str, Any]:
    """The JSON of GET /api/v1/deployments/NAME/plan-check."""
    check = check_of(revision)
    return {
        "revision": revision.number,
        "plan": revision.plan,
        "measured": check.measured if check else None,
        "differences": differences_of(revision) if check and revision.plan else {},
        "is_off": bool(check and check.cause),
        "cause": check.cause if check else "",
        "replica_id": check.replica_id if check else None,
        "measured_at": check.measured_at if check else None,
        "notes": notes_of(revision),
        "trend": trend(deployment),
    }


def signed_percent(share: float | None) -> str:
    """A signed error as text: +0.12%, −3.4%, +50%; 0% for none at all and for less than a hundredth."""
    if share is None:
        return formats.MISSING
    value = share * 100
    decimals = 2 if abs(value) < 0.995 else 1 if abs(value) < 9.95 else 0
    text = f"{abs(value):,.{decimals}f}"
    if not float(text.replace(",", "")):
        return "0%"
    return f"{'+' if value > 0 else formats.MINUS}{text}%"


def amount(value: float | None, unit: str) -> str:
    """A figure of a part in its unit; bytes finer than elsewhere, since two of them are compared."""
    if value is None:
        return formats.MISSING
    if unit == "bytes":
        return size(value)
    return f"{value:,.1f}" if unit == "requests" else f"{round(value):,}"


def size(size_bytes: float) -> str:
    """Bytes with the decimals that a comparison needs: 15.61 GiB, 10.4 MiB, 0 GiB."""
    if not size_bytes:
        return f"0{formats.NO_BREAK}GiB"
    sign = formats.MINUS if size_bytes < 0 else ""
    amount_gib = abs(size_bytes) / formats.GIB
    if amount_gib >= 0.1:
        return f"{sign}{amount_gib:,.2f}{formats.NO_BREAK}GiB"
    return f"{sign}{amount_gib * 1024:,.1f}{formats.NO_BREAK}MiB"


def _trend_point(revision: Revision) -> dict[str, Any]:
    check = check_of(revision)
    differences = check.differences if check else {}
    return {
        "revision": revision.number,
        "measured_at": check.measured_at if check else None,
        "cause": check.cause if check else "",
        "notes": notes_of(revision),
        "errors": {
            part: {name: one[name] for name in ("error", "is_off", "is_within_band")}
            for part, one in differences.items()
            if one["error"] is not None or one["is_off"]
        },
    }


def _cell(part: str, found: Mapping[str, Any] | None) -> dict[str, Any]:
    if found is None:
        return {"text": formats.MISSING, "is_off": False}
    return {"text": error_words(part, found), "is_off": found["is_off"]}


def error_words(part: str, one: Mapping[str, Any]) -> str:
    """The error of a part; an estimate that lies between its bounds is right, wherever it lies there."""
    if part in ESTIMATES and one["is_within_band"]:
        return "in band"
    if one["error"] is None and one["is_off"]:
        return "unplanned"
    return signed_percent(one["error"])


def _row(part: str, one: Mapping[str, Any]) -> Row:
    unit, planned = one["unit"], amount(one["planned"], one["unit"])
    exact = [
        f"{word} {round(one[name]):,} bytes"
        for word, name in (("planned", "planned"), ("measured", "measured"))
        if unit == "bytes" and one[name] is not None
    ]
    if one["low"] is not None and one["low"] != one["high"]:
        bounds = _bounds(amount(one["low"], unit), amount(one["high"], unit))
        exact.append(f"planned between {bounds}")
        # An estimate is its bounds; a cache size is a figure that has bounds too.
        planned = bounds if part in ESTIMATES else planned
    return Row(
        part=part,
        word=WORDS[part],
        planned=planned,
        measured=amount(one["measured"], unit),
        error=error_words(part, one),
        note=one["note"],
        is_off=one["is_off"],
        title=", ".join(exact),
    )


def _bounds(low: str, high: str) -> str:
    """Two amounts as a span; a unit that both have is said once."""
    number, _, unit = low.partition(formats.NO_BREAK)
    is_shared = bool(unit) and high.endswith(formats.NO_BREAK + unit)
    return f"{number if is_shared else low} to {high}"


def _bar_bytes(figures: Mapping[str, float]) -> float:
    return sum(max(0.0, figures.get(part, 0.0)) for _, part in BAR_PARTS)


def _bar(figures: Mapping[str, float], whole: float) -> list[Segment]:
    """The parts of one rank's memory as pieces of a bar that is `whole` bytes long."""
    if not whole or not _bar_bytes(figures):
        return []
    return list(_segments(((colour, figures.get(part, 0.0)) for colour, part in BAR_PARTS), whole))


def _segments(parts: Iterable[tuple[str, float]], whole: float) -> Iterable[Segment]:
    position = 0.0
    for colour, size_bytes in parts:
        width = 100 * max(0.0, size_bytes) / whole
        if width:
            yield Segment(colour, f"{position:.2f}", f"{max(0.1, width - 0.3):.2f}")
        position += width
