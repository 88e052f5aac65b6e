"""A plan as JSON: the flat figures that scripts read, and the whole for pages and storage. Pure."""

from __future__ import annotations

from dataclasses import asdict
from decimal import Decimal
from typing import Any

from serving.planner.result import ByteRange, CacheGroup, Latency, Memory, Plan, Range, StageMemory

SIGNIFICANT_DIGITS = 6


def flat(plan: Plan) -> dict[str, Any]:
    """The figures of `manage.py plan --json`: bytes and tokens whole, seconds and dollars as numbers.

    What could not be planned is null. Per pipeline stage: weight_bytes_per_rank, kv_bytes_per_token_per_rank.
    """
    return {
        "verdict": plan.verdict,
        "reasons": list(plan.reasons),
        "lever": plan.lever or None,
        **_memory(plan.memory),
        **_latency(plan.latency),
        "no_times_because": plan.no_times_because or None,
        **_money(plan),
        "architecture": plan.architecture,
        "architecture_is_known": plan.architecture_is_known,
        "settings": dict(plan.settings),
        "arithmetic": list(plan.arithmetic),
        "basis": "predicted",
    }


def stored(plan: Plan) -> dict[str, Any]:
    """The whole plan in JSON types, money as text: what a revision keeps and a page shows."""
    return dict(_plain(asdict(plan)))


def read_stored(kept: dict[str, Any] | None) -> Plan | None:
    """The plan that `stored` gave, without its times and prices, which age; None where it cannot be read
    any more (an older version's)."""
    if not kept:
        return None
    try:
        memory = kept.get("memory")
        return Plan(
            verdict=kept["verdict"],
            reasons=tuple(kept["reasons"]),
            lever=kept["lever"],
            refused_field=kept["refused_field"],
            memory=None if memory is None else _read_memory(memory),
            arithmetic=tuple(kept["arithmetic"]),
            architecture=kept["architecture"],
            architecture_is_known=kept["architecture_is_known"],
            settings=dict(kept["settings"]),
        )
    except (KeyError, TypeError, AttributeError):
        return None


def _read_memory(kept: dict[str, Any]) -> Memory:
    bands = ("activation", "cuda_graphs", "runtime", "kv_cache_range")
    return Memory(
        **{
            **kept,
            **{name: ByteRange(**kept[name]) for name in bands},
            "stages": tuple(StageMemory(**stage) for stage in kept["stages"]),
            "groups": tuple(CacheGroup(**group) for group in kept["groups"]),
        }
    )


def _memory(memory: Memory | None) -> dict[str, Any]:
    if memory is None:
        return dict.fromkeys((
            "weight_bytes_per_rank", "kv_bytes_per_token_per_rank", "kv_cache_bytes_per_rank",
            "kv_cache_tokens", "kv_cache_blocks", "max_concurrency_at_max_model_len", "activation_bytes",
            "cuda_graph_bytes", "runtime_bytes", "usable_bytes", "requested_bytes", "weight_parts_per_rank",
            "weights_are_exact",
        ))  # fmt: skip
    return {
        "weight_bytes_per_rank": [stage.weight_bytes for stage in memory.stages],
        "kv_bytes_per_token_per_rank": [stage.kv_bytes_per_token for stage in memory.stages],
        "kv_cache_bytes_per_rank": memory.kv_cache_bytes,
        "kv_cache_tokens": memory.kv_cache_tokens,
        "kv_cache_blocks": memory.num_blocks,
        "max_concurrency_at_max_model_len": round(memory.max_concurrency, 4),
        "activation_bytes": asdict(memory.activation),
        "cuda_graph_bytes": asdict(memory.cuda_graphs),
        "runtime_bytes": asdict(memory.runtime),
        "usable_bytes": memory.usable_bytes,
        "requested_bytes": memory.requested_bytes,
        "weights_are_exact": memory.weights_are_exact,
        "weight_parts_per_rank": [dict(stage.weight_parts) for stage in memory.stages],
    }


def _latency(latency: Latency | None) -> dict[str, Any]:
    if latency is None:
        return {"ttft_unloaded_s": None, "ttft_unloaded_range_s": None, "tpot_s": None, "latency_basis": None}
    return {
        "ttft_unloaded_s": _rounded(latency.ttft_unloaded_s.expected),
        "ttft_unloaded_range_s": _range(latency.ttft_unloaded_s),
        "tpot_s": _range(latency.tpot_s),
        "latency_basis": latency.basis,
    }


def _money(plan: Plan) -> dict[str, Any]:
    money = plan.money
    if money is None:
        return {
            "usd_per_hour": None,
            "usd_per_million_output_tokens": None,
            "usd_per_million_output_tokens_full_load": None,
            "full_load_concurrency": None,
        }
    return {
        "usd_per_hour": _number(money.usd_per_hour),
        "usd_per_million_output_tokens": _number(money.usd_per_million_output_tokens),
        "usd_per_million_output_tokens_full_load": _number(money.usd_per_million_output_tokens_full_load),
        "full_load_concurrency": money.full_load_concurrency,
    }


def _range(value: Range) -> dict[str, float]:
    return {
        "low": _rounded(value.low),
        "expected": _rounded(value.expected),
        "high": _rounded(value.high),
    }


def _rounded(value: float) -> float:
    return float(f"{value:.{SIGNIFICANT_DIGITS}g}")


def _number(value: Decimal | None) -> float | None:
    return None if value is None else float(value)


def _plain(value: Any) -> Any:
    if isinstance(value, Decimal):
        return format(value, "f")
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value
