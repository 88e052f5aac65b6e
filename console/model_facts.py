"""A registered model's facts as rows of words for the registry's pages. Pure: takes the stored JSON."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from console import formats

PER_THOUSAND_TOKENS = 1024

Row = tuple[str, str, str]
"""Label, value, and the exact value for the tooltip (may be empty)."""


def fact_rows(facts: Mapping[str, Any]) -> list[Row]:
    """The facts in reading order; what the files do not say is left out, never guessed."""
    rows = [
        ("Architecture", _text(facts.get("architecture")), _text(facts.get("model_type"))),
        ("Parameters", formats.count(facts.get("parameters")), _exact(facts.get("parameters"), "parameters")),
        ("Weights", formats.gib(facts.get("weight_bytes")), _exact(facts.get("weight_bytes"), "bytes")),
        ("Weight files", formats.number(facts.get("file_count")), ""),
        ("Precision", _text(facts.get("dtype")), ""),
        ("Quantization", _text(facts.get("quantization")) if facts.get("quantization") else "none", ""),
        ("Layers", formats.number(facts.get("layers")), ""),
        ("Attention heads", heads(facts), "query heads / key-value heads"),
        ("Head size", formats.number(facts.get("head_dim")), ""),
        ("Hidden size", formats.number(facts.get("hidden_size")), ""),
        ("Vocabulary", formats.number(facts.get("vocab_size")), _exact(facts.get("vocab_size"), "tokens")),
        ("Max context", _context(facts), _exact(facts.get("max_context_tokens"), "tokens")),
        (
            "KV cache per 1k tokens",
            kv_per_thousand(facts),
            _exact(facts.get("kv_bytes_per_token"), "bytes a token"),
        ),
        ("Embeddings", _tied(facts.get("tie_word_embeddings")), ""),
        ("Chat template", "included" if facts.get("chat_template") else "missing", ""),
    ]
    return [row for row in rows if row[1] != formats.MISSING] if facts else []


def heads(facts: Mapping[str, Any]) -> str:
    """Query and key-value heads: 64 / 8."""
    if facts.get("attention_heads") is None:
        return formats.MISSING
    return f"{formats.number(facts['attention_heads'])} / {formats.number(facts.get('kv_heads'))}"


def kv_per_thousand(facts: Mapping[str, Any]) -> str:
    """KV cache for 1,024 tokens, all layers, one copy."""
    per_token = facts.get("kv_bytes_per_token")
    if per_token is None:
        return formats.MISSING
    size_mib = per_token * PER_THOUSAND_TOKENS / (1 << 20)
    if size_mib >= 1024:
        return formats.gib(per_token * PER_THOUSAND_TOKENS)
    return (
        f"{size_mib:,.0f}{formats.NO_BREAK}MiB" if size_mib >= 10 else f"{size_mib:.2f}{formats.NO_BREAK}MiB"
    )


def worst_level(problems: list[dict[str, Any]]) -> str:
    """error, warn or an empty string."""
    levels = {problem.get("level") for problem in problems}
    return next((level for level in ("error", "warn") if level in levels), "")


def worst_problem(problems: list[dict[str, Any]]) -> str:
    """The words of the first of the most serious problems, or an empty string."""
    level = worst_level(problems)
    return next((str(one.get("message", "")) for one in problems if one.get("level") == level), "")


def _context(facts: Mapping[str, Any]) -> str:
    tokens = facts.get("max_context_tokens")
    return formats.MISSING if tokens is None else f"{formats.context_tokens(tokens)}{formats.NO_BREAK}tokens"


def _tied(tied: bool | None) -> str:
    if tied is None:
        return formats.MISSING
    return "shared with the output layer" if tied else "separate from the output layer"


def _text(value: Any) -> str:
    return str(value) if value else formats.MISSING


def _exact(value: int | None, unit: str) -> str:
    return "" if value is None else f"{value:,} {unit}"
