"""What differs between two definitions, in the words of the form. Pure: takes and gives plain values."""

from __future__ import annotations

import json
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Any

from console import formats

LABELS = {
    "model": "Model",
    "model_source": "Model source",
    "hub_revision": "Hub revision",
    "accelerator_type": "Runs on",
    "tensor_parallel_size": "Tensor parallel",
    "pipeline_parallel_size": "Pipeline parallel",
    "tp_may_span_nodes": "Tensor-parallel group may span nodes",
    "dtype": "Number format",
    "max_model_len": "Context length",
    "max_num_seqs": "Concurrent sequences",
    "kv_cache_memory_bytes": "KV cache per rank",
    "engine_kwargs": "Further engine arguments",
    "adapters": "LoRA adapters",
    "load_adapters": "LoRA adapters",
    "min_replicas": "Fewest replicas",
    "max_replicas": "Most replicas",
    "target_ongoing_requests": "Add a replica above",
    "idle_before_zero_s": "Asleep after",
    "price_per_accelerator_hour_usd": "Price per accelerator-hour",
    "ttft_s": "TTFT at most, seconds",
    "tpot_s": "TPOT at most, seconds",
    "latency_target": "Share within the thresholds",
    "success_target": "Share answered",
    "window_days": "Days of the error budget",
    "url": "Address",
    "enabled": "Sends alerts",
    "sends_fast": "Fast burn",
    "sends_slow": "Slow burn",
    "sends_resolved": "When resolved",
    "api_input_usd_per_million_tokens": "API price, input",
    "api_output_usd_per_million_tokens": "API price, output",
    "requests_per_minute": "Requests per minute",
    "tokens_per_minute": "Tokens per minute",
    "requests_in_flight": "Requests in flight",
    "budget_usd_per_day": "Budget per day",
    "budget_usd_per_month": "Budget per month",
    "deployments": "Allowed deployments",
    "expires_at": "Expires",
}

NOT_SHOWN = frozenset({"kv_cache_is_automatic"})
"""What no replica knows and nobody types."""
UNSAID = {"tp_may_span_nodes": False}
"""What a definition means that an older version stored without the field."""


NOTHING: tuple[Any, ...] = (None, {})
"""An older definition does not have what is empty in a newer one."""


@dataclass(frozen=True)
class Difference:
    """One field that differs, with both values as people read them."""

    field: str
    label: str
    before: str
    after: str


def differences(before: dict[str, Any], after: dict[str, Any]) -> list[Difference]:
    """The fields of either map whose values differ, in the form's order."""
    named = before.keys() | after.keys()
    unsaid = {name: value for name, value in UNSAID.items() if name in named}
    before, after = {**unsaid, **before} if before else before, {**unsaid, **after} if after else after
    fields = [*LABELS, *sorted((before.keys() | after.keys()) - LABELS.keys() - NOT_SHOWN)]
    return [
        Difference(
            field, LABELS.get(field, field), shown(field, before.get(field)), shown(field, after.get(field))
        )
        for field in fields
        if not is_same(before.get(field), after.get(field))
    ]


def shown(field: str, value: Any) -> str:
    """One field's value as people read it."""
    if field == "adapters":
        return ", ".join(sorted(value)) if value else "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if field == "accelerator_type":
        return str(value) if value else "CPU"
    if value is None or value == "":
        return formats.MISSING
    if field == "kv_cache_memory_bytes":
        return formats.gib(value)
    if field == "max_model_len":
        return f"{value:,} tokens"
    if field == "idle_before_zero_s":
        return formats.duration(value)
    if field == "price_per_accelerator_hour_usd":
        return formats.rate(value)
    if field.startswith("api_"):
        return f"{formats.usd(value)} per 1M tokens"
    if field in ("requests_per_minute", "tokens_per_minute", "requests_in_flight"):
        return f"{value:,}"
    if field in ("budget_usd_per_day", "budget_usd_per_month"):
        return formats.usd(value)
    if isinstance(value, list):
        return ", ".join(map(str, value))
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, dict):
        return json.dumps(value, ensure_ascii=False) if value else "none"
    return str(value)


def words(before: dict[str, Any], after: dict[str, Any]) -> str:
    """All differences in one line: "Context length 8,192 tokens → 16,384 tokens"."""
    return ", ".join(f"{d.label} {d.before} → {d.after}" for d in differences(before, after))


def is_same(one: Any, other: Any) -> bool:
    """Whether two values say the same; a number and its text do."""
    if one == other or (one in NOTHING and other in NOTHING):
        return True
    if isinstance(one, (int, float, Decimal, str)) and isinstance(other, (int, float, Decimal, str)):
        try:
            return Decimal(str(one)) == Decimal(str(other))
        except InvalidOperation:
            return False
    return False
