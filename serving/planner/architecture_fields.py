"""Reads a config's fields with checks: a wrong type or an absurd size is named, never a traceback. Pure.

It knows no model; `architecture_reading` asks it for what a family needs. The nested text part of a
multimodal config comes before the top level, as in vLLM.
"""

from __future__ import annotations

import json
import math
from typing import Any

from serving.planner.request import BadPlanInput

NESTED = ("text_config", "language_config", "llm_config", "thinker_config")
LEFT_OUT: dict[str, dict[str, Any]] = {
    "gemma3_text": {
        "vocab_size": 262_208, "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256,
        "max_position_embeddings": 131_072, "sliding_window": 4096,
    },
}  # fmt: skip
"""What released multimodal configs leave to the defaults of transformers' class of their text part, by its
model_type. Others give these sizes; a config that should and does not is a broken one."""
LAYER_KINDS = frozenset({
    "full_attention", "sliding_attention", "chunked_attention", "window_attention", "indexed_attention",
    "compressed_sparse_attention", "heavily_compressed_attention", "minimax_m3_sparse", "linear_attention",
    "deepseek_sparse_attention", "qwen_sparse_attention", "reference_sliding_attention", "conv", "moe",
    "hybrid", "hybrid_sliding", "mamba", "attention", "sparse", "dense",
})  # fmt: skip
"""What `layer_types` may hold: transformers' ALLOWED_LAYER_TYPES and the older names that it still maps."""
NUMBERS = ("rope_theta", "rms_norm_eps", "layer_norm_eps", "layer_norm_epsilon", "norm_eps")
TEXTS = ("hidden_act", "hidden_activation")
FLAGS = ("use_sliding_window", "use_cache")
LARGEST_SIZE = 1 << 24
LARGEST_LIST = 20_000


def shown(value: Any) -> str:
    """A value of a stranger's file in a message: one short line, whatever it is."""
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, (list, tuple)):
        return "a list"
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    if isinstance(value, int) and abs(value) > 10**15:
        return "a number with more than 15 digits"
    if isinstance(value, (int, float)):
        return str(value)
    return json.dumps(str(value)[:60], ensure_ascii=False)


class Fields:
    """Typed look-ups in one parsed config.json. Every method raises BadPlanInput that names the field."""

    def __init__(self, config: dict[str, Any]) -> None:
        if not isinstance(config, dict):
            raise BadPlanInput("The config must be a JSON object.", field="config.json")
        self.config = config
        self.levels = _levels(config)
        for level in self.levels:
            _check_parts(level)
        self.text = self.levels[0]
        self.is_nested = len(self.levels) > 1
        """Whether the text model's fields lie in a part of their own (a multimodal model)."""
        kind = self.text.get("model_type")
        if self.is_nested and isinstance(kind, str) and kind in LEFT_OUT:
            self.levels.append(LEFT_OUT[kind])

    def raw(self, *names: str) -> Any:
        """The first value that is given under one of the names, or None."""
        for level in self.levels:
            for name in names:
                value = level.get(name)
                if value is not None:
                    return value
        return None

    def given(self, *names: str) -> str:
        """The name under which a value is given; the first name where none is."""
        return next(
            (name for level in self.levels for name in names if level.get(name) is not None), names[0]
        )

    def whole(
        self, *names: str, default: int | None = None, at_least: int = 1, at_most: int = LARGEST_SIZE
    ) -> int:
        """A whole number within bounds. Missing: the default, or refused where there is none."""
        value = self.raw(*names)
        if value is None:
            if default is None:
                raise BadPlanInput(f"{names[0]} is missing from the config.", field=names[0])
            return default
        return whole_number(value, name=self.given(*names), at_least=at_least, at_most=at_most)

    def optional(self, *names: str, at_least: int = 1, at_most: int = LARGEST_SIZE) -> int | None:
        """A whole number within bounds, or None where it is not given."""
        if self.raw(*names) is None:
            return None
        return self.whole(*names, at_least=at_least, at_most=at_most)

    def fraction(self, *names: str, default: float, above: float = 0.0, at_most: float = 1e6) -> float:
        """A finite number above `above`."""
        value = self.raw(*names)
        return (
            default if value is None else number(value, name=self.given(*names), above=above, at_most=at_most)
        )

    def flag(self, *names: str, default: bool = False) -> bool:
        """true or false."""
        value = self.raw(*names)
        if value is None:
            return default
        if not isinstance(value, bool):
            name = self.given(*names)
            raise BadPlanInput(f"{name} must be true or false, not {shown(value)}.", field=name)
        return value

    def words(self, *names: str, default: str = "") -> str:
        """A short text."""
        value = self.raw(*names)
        if value is None:
            return default
        if not isinstance(value, str) or len(value) > 200:
            name = self.given(*names)
            raise BadPlanInput(f"{name} must be a short text, not {shown(value)}.", field=name)
        return value

    def items(self, *names: str, at_most: int = LARGEST_LIST) -> list[Any] | None:
        """A list of bounded length, or None where it is not given."""
        value = self.raw(*names)
        if value is None:
            return None
        name = self.given(*names)
        if not isinstance(value, (list, tuple)):
            raise BadPlanInput(f"{name} must be a list, not {shown(value)}.", field=name)
        if len(value) > at_most:
            raise BadPlanInput(
                f"{name} has {len(value):,} entries; at most {at_most:,} make sense.", field=name
            )
        return list(value)

    def part(self, *names: str) -> dict[str, Any] | None:
        """A nested object, or None where it is not given."""
        value = self.raw(*names)
        if value is None:
            return None
        if not isinstance(value, dict):
            name = self.given(*names)
            raise BadPlanInput(f"{name} must be an object, not {shown(value)}.", field=name)
        return value

    def kinds(self, name: str, *, layers: int) -> list[str] | None:
        """A kind per layer; also the summary {"counts": …, "first_8": […]} that fact collections use."""
        value = self.raw(name)
        if isinstance(value, dict) and "first_8" in value:
            value = _expanded(value, name=name, layers=layers)
        if value is None:
            return None
        if not isinstance(value, (list, tuple)):
            raise BadPlanInput(f"{name} must be a list, not {shown(value)}.", field=name)
        if len(value) != layers:
            raise BadPlanInput(f"{name} has {len(value):,} entries for {layers} layers.", field=name)
        if not all(isinstance(kind, str) and len(kind) <= 60 for kind in value):
            raise BadPlanInput(f"{name} must name the kind of every layer.", field=name)
        return list(value)

    def check_common(self) -> None:
        """Refuse wrong types of fields that no sum needs but that every config class reads."""
        for name in NUMBERS:
            self.fraction(name, default=1.0, at_most=1e15)
        for name in TEXTS:
            self.words(name)
        for name in FLAGS:
            self.flag(name)
        kinds = self.raw("layer_types")
        if kinds is None or isinstance(kinds, dict):
            return
        for kind in self.items("layer_types") or ():
            if not isinstance(kind, str) or kind not in LAYER_KINDS:
                raise BadPlanInput(
                    f"layer_types names {shown(kind)}, which is no kind of layer.", field="layer_types"
                )


def whole_number(value: Any, *, name: str, at_least: int = 1, at_most: int = LARGEST_SIZE) -> int:
    """`value` as a whole number between the bounds (true, NaN and 3.5 are none)."""
    if type(value) is float and value.is_integer() and abs(value) <= at_most:
        value = int(value)
    if type(value) is not int:
        raise BadPlanInput(f"{name} must be a whole number, not {shown(value)}.", field=name)
    if not at_least <= value <= at_most:
        raise BadPlanInput(
            f"{name} is {shown(value)}; it must be between {at_least:,} and {at_most:,}.", field=name
        )
    return value


def number(value: Any, *, name: str, above: float, at_most: float) -> float:
    """`value` as a finite number within (above, at_most]."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise BadPlanInput(f"{name} must be a number, not {shown(value)}.", field=name)
    if isinstance(value, int) and abs(value) > 10**15 or not math.isfinite(value):
        raise BadPlanInput(f"{name} is {shown(value)}, which is no sensible number.", field=name)
    if not above < value <= at_most:
        raise BadPlanInput(
            f"{name} is {shown(value)}; it must be above {above:g} and at most {at_most:g}.", field=name
        )
    return float(value)


def _levels(config: dict[str, Any]) -> list[dict[str, Any]]:
    """The nested text part first, then what is around it; at most two levels of nesting are real."""
    levels = [config]
    for _ in range(3):
        nested = next((levels[0][name] for name in NESTED if isinstance(levels[0].get(name), dict)), None)
        if nested is None:
            break
        levels.insert(0, nested)
    return levels


def _check_parts(level: dict[str, Any]) -> None:
    """The names that decide where everything else is looked up."""
    for name in NESTED:
        part = level.get(name)
        if part is not None and not isinstance(part, dict):
            raise BadPlanInput(f"{name} must be an object, not {shown(part)}.", field=name)
    kind = level.get("model_type")
    if kind is not None and not isinstance(kind, str):
        raise BadPlanInput(f"model_type must be a text, not {shown(kind)}.", field="model_type")


def _expanded(summary: dict[str, Any], *, name: str, layers: int) -> list[str]:
    """Every layer's kind from the counts and the first eight, where a period explains both."""
    first, counts = summary.get("first_8"), summary.get("counts")
    if isinstance(first, list) and isinstance(counts, dict) and all(isinstance(kind, str) for kind in first):
        for period in range(1, len(first) + 1):
            whole = [first[index % period] for index in range(layers)]
            if whole[: len(first)] == first[:layers] and {k: whole.count(k) for k in set(whole)} == counts:
                return whole
    raise BadPlanInput(f"{name} is a summary that no repeating pattern explains.", field=name)
