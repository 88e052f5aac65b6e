"""Decides which modules a quantised checkpoint keeps in 16 bit. Pure.

Exclusion lists name modules exactly, by part of the name, by wildcard or by regular expression, each method
in its own way (vLLM 0.29: is_layer_skipped, should_ignore_layer, ModelOpt's is_layer_excluded). Lists come
from strangers: patterns that could make matching slow are refused.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fnmatch import translate
from functools import cached_property
from typing import Any, Literal

from serving.planner.architecture_fields import shown
from serving.planner.request import BadPlanInput

MatchMode = Literal["exact", "substring", "regex", "wildcard"]

LONGEST_LIST = 20_000
LONGEST_PATTERN = 400
MOST_REPEATS = 8
LAYER_NUMBER = re.compile(r"(?:^|\.)(?:layers|h|blocks)\.(\d{1,6})(?:\.|$)")
ROOTS = ("model.", "language_model.model.", "model.language_model.", "language_model.", "backbone.", "")
"""Where the decoder sits in checkpoints and in vLLM's classes; an exclusion may use any of them."""


@dataclass(frozen=True)
class Exclusions:
    """A checked exclusion list. `is_excluded` answers for one module of one layer."""

    patterns: tuple[str, ...] = ()
    mode: MatchMode = "exact"

    @cached_property
    def numbered_layers(self) -> frozenset[int]:
        """Layers that some pattern names by their number; all others answer alike."""
        return frozenset(
            int(found[1]) for pattern in self.patterns for found in [LAYER_NUMBER.search(pattern)] if found
        )

    @cached_property
    def depends_on_layer(self) -> bool:
        """Whether an expression may tell layers apart in a way that `numbered_layers` does not show."""
        return any(re.search(r"\d", source) for source in self._sources)

    @cached_property
    def _sources(self) -> tuple[str, ...]:
        if self.mode == "regex":
            return tuple(pattern[3:] for pattern in self.patterns if pattern.startswith("re:"))
        return tuple(p for p in self.patterns if "*" in p or "?" in p or "[" in p)

    @cached_property
    def _expressions(self) -> tuple[re.Pattern[str], ...]:
        if self.mode == "regex":
            return tuple(_compiled(source) for source in self._sources)
        if self.mode == "wildcard":
            return tuple(_compiled(translate(source)) for source in self._sources)
        return ()

    @cached_property
    def _literals(self) -> frozenset[str]:
        return frozenset(self.patterns)

    def is_excluded(self, path: str, shards: tuple[str, ...] = ()) -> bool:
        """Whether the module (`layers.3.self_attn.qkv_proj`, without root) stays in 16 bit.

        A fused module is excluded by its own name or when its checkpoint parts are.
        """
        if not self.patterns:
            return False
        if self._matches(path):
            return True
        parent = path.rpartition(".")[0]
        parts = [f"{parent}.{shard}" if parent else shard for shard in shards]
        return bool(parts) and all(self._matches(part) for part in parts)

    def _matches(self, path: str) -> bool:
        names = [root + path for root in ROOTS]
        if any(name in self._literals for name in names):
            return True
        if self.mode in ("substring", "wildcard") and any(
            pattern in names[0] or pattern in names[1] for pattern in self.patterns
        ):
            return True
        if self.mode == "exact" and ".experts" in path:
            # vLLM compares the experts' module with any entry that names one of its parts.
            return any("experts" in pattern and path in pattern for pattern in self.patterns)
        return any(expression.match(name) for expression in self._expressions for name in names)


def read_exclusions(value: Any, *, mode: MatchMode, name: str) -> Exclusions:
    """A checked list; None is the empty list. Raises BadPlanInput naming the field."""
    if value is None or value == [] or value == {}:
        return Exclusions(mode=mode)
    if isinstance(value, dict):
        value = list(value)
    if not isinstance(value, (list, tuple)) or not all(
        isinstance(item, str) for item in value[:LONGEST_LIST]
    ):
        raise BadPlanInput(f"{name} must be a list of module names, not {shown(value)}.", field=name)
    if len(value) > LONGEST_LIST:
        raise BadPlanInput(
            f"{name} has {len(value):,} entries; at most {LONGEST_LIST:,} make sense.", field=name
        )
    if any(len(item) > LONGEST_PATTERN for item in value):
        raise BadPlanInput(f"{name} has an entry of more than {LONGEST_PATTERN} characters.", field=name)
    exclusions = Exclusions(tuple(dict.fromkeys(value)), mode)
    _check_expressions(exclusions, name)
    return exclusions


def _check_expressions(exclusions: Exclusions, name: str) -> None:
    sources = exclusions._sources
    if len(sources) > 200:
        raise BadPlanInput(f"{name} has {len(sources)} expressions; at most 200 make sense.", field=name)
    if any(_may_be_slow(source) for source in sources):
        raise BadPlanInput(f"{name} has an expression that would take too long to match.", field=name)
    try:
        _ = exclusions._expressions
    except (re.error, RecursionError, OverflowError):
        raise BadPlanInput(f"{name} has an expression that cannot be read.", field=name) from None


def _may_be_slow(source: str) -> bool:
    """Repeated groups, back references and many open repeats can take exponential time; refuse them."""
    open_repeats = source.count("*") + source.count("+") + source.count("{")
    repeated_group = re.search(r"\)[*+{]", source) is not None
    return repeated_group or open_repeats > MOST_REPEATS or re.search(r"\\[1-9]|\(\?P=", source) is not None


def _compiled(source: str) -> re.Pattern[str]:
    return re.compile(source)
