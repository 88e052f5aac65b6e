"""A stored plan beside what an engine was measured to hold: per part planned, measured, signed error. Pure.

The plan is the JSON that a revision keeps (serving.planner.result.Plan as a mapping); plans of older releases
may lack parts, which are then not compared. A part with one planned figure is off when it is more than
`TOLERANCE` beside it; a part that is planned as a band is off when it is more than that outside the band.
Rounding of the engine's log is never an error. Must not decide what to do about it, and must not explain:
causes.py does.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from serving.planner.measured import Measured

TOLERANCE = 0.05
"""The share of the planned figure from which on a part counts as off."""

Unit = Literal["bytes", "tokens", "blocks", "requests"]


@dataclass(frozen=True)
class PlannedPart:
    """What was planned of a part: one figure, and its bounds where the plan gave a band."""

    expected: float
    low: float
    high: float

    @property
    def is_band(self) -> bool:
        """Whether the plan gave bounds instead of one figure."""
        return self.low != self.high


@dataclass(frozen=True)
class Difference:
    """One part. `error` = (measured - planned) / planned, None where planned is 0 or a side is missing.

    `planned` is the expected figure, `low` and `high` its bounds (all three the same without a band). `note`
    says why the two cannot be compared. Bytes are those of one rank.
    """

    part: str
    unit: Unit
    planned: float | None = None
    low: float | None = None
    high: float | None = None
    measured: float | None = None
    error: float | None = None
    is_off: bool = False
    is_within_band: bool | None = None
    note: str = ""


@dataclass(frozen=True)
class PlannedMemory:
    """The figures of a stored plan that can be compared, each None where the plan does not give it."""

    verdict: str
    architecture: str
    architecture_is_known: bool
    weights_are_exact: bool
    settings: Mapping[str, Any]
    reasons: tuple[str, ...]
    stage_weight_bytes: tuple[int, ...]
    usable_bytes: float | None
    kv_bytes_per_token: float | None
    block_tokens: float | None
    kv_cache_bytes: float | None
    parts: Mapping[str, PlannedPart]


PARTS: tuple[tuple[str, Unit], ...] = (
    ("weights", "bytes"),
    ("kv_cache", "bytes"),
    ("kv_blocks", "blocks"),
    ("kv_tokens", "tokens"),
    ("max_concurrency", "requests"),
    ("activation", "bytes"),
    ("cuda_graphs", "bytes"),
    ("runtime", "bytes"),
    ("device", "bytes"),
)
"""Every part, in the order in which it is shown."""


def read_plan(stored: Mapping[str, Any]) -> PlannedMemory:
    """The comparable figures of a stored plan; what is missing or of another type is None."""
    memory = _mapping(stored.get("memory"))
    stages = tuple(_number(_mapping(stage).get("weight_bytes")) for stage in _list(memory.get("stages")))
    weights = tuple(int(bytes_) for bytes_ in stages if bytes_ is not None)
    groups = [_mapping(group) for group in _list(memory.get("groups"))]
    kv_cache = _with_range(memory, "kv_cache_bytes", "kv_cache_range")
    parts = {
        "weights": _point(max(weights)) if weights else None,
        "kv_cache": kv_cache,
        "kv_blocks": _scaled(_number(memory.get("num_blocks")), kv_cache),
        "kv_tokens": _scaled(_number(memory.get("kv_cache_tokens")), kv_cache),
        "max_concurrency": _scaled(_number(memory.get("max_concurrency")), kv_cache),
        "activation": _band(memory.get("activation")),
        "cuda_graphs": _band(memory.get("cuda_graphs")),
        "runtime": _band(memory.get("runtime")),
    }
    known = {name: part for name, part in parts.items() if part is not None}
    if all(name in known for name in ("weights", "kv_cache", "activation", "cuda_graphs", "runtime")):
        known["device"] = _whole_device(known)
    return PlannedMemory(
        verdict=str(stored.get("verdict") or ""),
        architecture=str(stored.get("architecture") or ""),
        architecture_is_known=stored.get("architecture_is_known") is not False,
        weights_are_exact=memory.get("weights_are_exact") is not False,
        settings=_mapping(stored.get("settings")),
        reasons=tuple(str(reason) for reason in _list(stored.get("reasons"))),
        stage_weight_bytes=weights if len(weights) == len(stages) else (),
        usable_bytes=_number(memory.get("usable_bytes")),
        kv_bytes_per_token=_number(memory.get("kv_bytes_per_token")),
        block_tokens=_number(groups[0].get("block_tokens")) if groups else None,
        kv_cache_bytes=kv_cache.expected if kv_cache else None,
        parts=known,
    )


def compare(plan: PlannedMemory, measured: Measured, *, on_cpu: bool, max_model_len: int) -> list[Difference]:
    """Every part in the order of PARTS; of those that cannot be compared, why.

    `max_model_len`: the longest request of the revision in tokens, which planned concurrency refers to.
    """
    found, planned_parts = _figures(measured), dict(plan.parts)
    stage = _stage_of_weights(plan, measured)
    if stage is not None:
        planned_parts["weights"] = _point(stage[0])
        found["weights"] = (stage[1], found["weights"][1])
    differences = []
    for part, unit in PARTS:
        planned, (value, coarse) = planned_parts.get(part), found[part]
        note = _why_not(part, planned, value, measured=measured, on_cpu=on_cpu, max_model_len=max_model_len)
        differences.append(_difference(part, unit, planned, value, coarse, note))
    return differences


def verdict_was_wrong(plan: PlannedMemory) -> bool:
    """Whether the plan said that this engine, which runs, would not."""
    return plan.verdict in ("does_not_fit", "refused")


def to_json(differences: Iterable[Difference]) -> dict[str, dict[str, Any]]:
    """Part -> its figures, as the database keeps them."""
    return {one.part: {k: v for k, v in asdict(one).items() if k != "part"} for one in differences}


def _figures(measured: Measured) -> dict[str, tuple[float | None, float]]:
    """Part -> (measured, how coarse that is)."""
    coarse = measured.resolution
    kv_name = _finest(measured, ("kv_room_bytes", "kv_cache_bytes"))
    return {
        "weights": (measured.weight_bytes, coarse.get("weight_bytes", 0.0)),
        "kv_cache": (getattr(measured, kv_name), coarse.get(kv_name, 0.0)),
        "kv_blocks": (measured.num_blocks, 0.0),
        "kv_tokens": (measured.kv_cache_tokens, 0.0),
        "max_concurrency": (measured.max_concurrency, coarse.get("max_concurrency", 0.0)),
        "activation": (measured.activation_bytes, coarse.get("activation_bytes", 0.0)),
        "cuda_graphs": (measured.cuda_graph_bytes, coarse.get("cuda_graph_bytes", 0.0)),
        "runtime": (measured.non_torch_bytes, coarse.get("non_torch_bytes", 0.0)),
        "device": (measured.device_bytes, coarse.get("device_bytes", 0.0)),
    }


def _stage_of_weights(plan: PlannedMemory, measured: Measured) -> tuple[float, float] | None:
    """(planned, measured) bytes of one pipeline stage: the one planned largest, or the one that is furthest
    beside its plan where one is off. None where the stages were not all seen."""
    pairs = list(zip(plan.stage_weight_bytes, measured.weight_bytes_per_stage or (), strict=False))
    if not pairs or len(pairs) != len(measured.weight_bytes_per_stage or ()):
        return None
    worst = max(pairs, key=lambda pair: abs(pair[1] - pair[0]) / max(pair[0], 1))
    is_off = abs(worst[1] - worst[0]) > TOLERANCE * worst[0]
    return worst if is_off else max(pairs)


def _finest(measured: Measured, names: tuple[str, ...]) -> str:
    """The name among these that was measured with the least rounding."""
    seen = [name for name in names if getattr(measured, name) is not None]
    return min(seen, key=lambda name: measured.resolution.get(name, 0.0)) if seen else names[0]


def _why_not(
    part: str,
    planned: PlannedPart | None,
    value: float | None,
    *,
    measured: Measured,
    on_cpu: bool,
    max_model_len: int,
) -> str:
    """Why the part cannot be compared; nothing where it can."""
    if on_cpu and part in ("activation", "cuda_graphs", "device"):
        return "the CPU engine does not tell it apart from the rest of its process"
    if value is None:
        return "not measured"
    if planned is None:
        return "the plan does not say"
    if part == "cuda_graphs" and value < 0:
        return "other memory became free while the graphs were captured"
    at_tokens = measured.max_concurrency_at_tokens
    if part in ("max_concurrency", "kv_tokens") and at_tokens not in (None, max_model_len):
        return f"measured for requests of {at_tokens:,} tokens, planned for {max_model_len:,}"
    return ""


def _difference(
    part: str, unit: Unit, planned: PlannedPart | None, value: float | None, coarse: float, note: str
) -> Difference:
    known = Difference(part, unit, measured=value, note=note)
    if planned is not None:
        known = replace(known, planned=planned.expected, low=planned.low, high=planned.high)
    if note or planned is None or value is None:
        return known
    beside = max(planned.low - value, value - planned.high, 0.0)
    # An estimate is off outside its band; what the operator plans with is off beside its expected figure.
    nearest = planned.low if value < planned.low else planned.high
    if part in ("kv_cache", "kv_blocks", "kv_tokens", "max_concurrency"):
        beside, nearest = abs(value - planned.expected), planned.expected
    return replace(
        known,
        error=(value - planned.expected) / planned.expected if planned.expected else None,
        is_off=beside > TOLERANCE * abs(nearest) + coarse,
        is_within_band=planned.low - coarse <= value <= planned.high + coarse if planned.is_band else None,
    )


# --- reading stored JSON -------------------------------------------------------------------------------


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _list(value: Any) -> list[Any]:
    return list(value) if isinstance(value, (list, tuple)) else []


def _number(value: Any) -> float | None:
    return value if isinstance(value, (int, float)) and not isinstance(value, bool) else None


def _point(value: float) -> PlannedPart:
    return PlannedPart(value, value, value)


def _band(value: Any) -> PlannedPart | None:
    low, high = _number(_mapping(value).get("low")), _number(_mapping(value).get("high"))
    return None if low is None or high is None else PlannedPart((low + high) / 2, low, high)


def _with_range(memory: Mapping[str, Any], name: str, range_name: str) -> PlannedPart | None:
    expected, band = _number(memory.get(name)), _band(memory.get(range_name))
    if expected is None:
        return None
    return PlannedPart(expected, band.low, band.high) if band else _point(expected)


def _scaled(value: float | None, kv_cache: PlannedPart | None) -> PlannedPart | None:
    """What follows from the KV cache has its band in the same shares."""
    if value is None:
        return None
    if kv_cache is None or not kv_cache.expected:
        return _point(value)
    factor = value / kv_cache.expected
    if not kv_cache.is_band:
        return _point(value)
    return PlannedPart(value, kv_cache.low * factor, kv_cache.high * factor)


def _whole_device(parts: Mapping[str, PlannedPart]) -> PlannedPart:
    """All parts together; the memory of the activation peak may have been handed back when nothing runs."""
    stays = [parts[name] for name in ("weights", "kv_cache", "cuda_graphs", "runtime")]
    activation = parts["activation"]
    return PlannedPart(
        sum(part.expected for part in stays) + activation.expected,
        sum(part.low for part in stays),
        sum(part.high for part in stays) + activation.high,
    )
