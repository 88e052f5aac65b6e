"""Reads a Hugging Face config.json: the few facts a person and a memory estimate need, each checked.

Pure: takes the parsed object, gives typed facts and problems. It must not guess: a field that is missing or
senseless is None and named in a problem. Field names and precedence follow vLLM 0.29
(`vllm/transformers_utils/model_arch_config_convertor.py`, `vllm/config/model.py`).
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any, Literal, TypedDict

from serving.engine_support import engine_support, generating_architectures, support_of

CONFIG = "config.json"
NESTED = ("text_config", "language_config", "llm_config")

LAYERS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")
HIDDEN = ("hidden_size", "n_embd", "d_model")
HEADS = ("num_attention_heads", "n_head", "n_heads")
KV_HEADS = ("num_key_value_heads", "num_kv_heads", "n_head_kv", "multi_query_group_num")
CONTEXT = (
    "max_position_embeddings",
    "n_positions",
    "max_seq_len",
    "seq_length",
    "model_max_length",
    "max_sequence_length",
    "max_seq_length",
    "seq_len",
)
UNSCALED_ROPE = ("su", "longrope", "llama3", "default")
KV_ELEMENT_BYTES = 2
"""The KV cache follows the engine's dtype; `auto` makes that a 16-bit type, for float32 checkpoints too."""

NOT_PLAIN_ATTENTION = (
    "kv_lora_rank", "sliding_window", "attention_chunk_size", "mamba_d_state", "ssm_state_size", "state_size",
    "hybrid_override_pattern", "layers_block_type", "linear_num_key_heads", "attn_layer_period",
    "is_encoder_decoder", "compress_ratios", "num_kv_shared_layers", "block_configs",
)  # fmt: skip
"""Fields whose presence means that not every layer keeps keys and values for every token."""


class Problem(TypedDict):
    """One thing wrong with a checkpoint. An error keeps the engine from starting; a warning does not."""

    level: Literal["error", "warn"]
    field: str
    message: str


@dataclass
class ConfigFacts:
    """What config.json says. None is "not said"; numbers are checked to be sensible whole numbers."""

    architecture: str | None = None
    model_type: str | None = None
    layers: int | None = None
    hidden_size: int | None = None
    attention_heads: int | None = None
    kv_heads: int | None = None
    head_dim: int | None = None
    vocab_size: int | None = None
    max_context_tokens: int | None = None
    dtype: str | None = None
    quantization: str | None = None
    quantization_bits: int | None = None
    tie_word_embeddings: bool | None = None
    kv_bytes_per_token: int | None = None
    problems: list[Problem] = field(default_factory=list)


def read_config(config: dict[str, Any]) -> ConfigFacts:
    """The facts of one parsed config.json and what is wrong with it. Never raises."""
    reader = _Reader(config)
    facts = ConfigFacts(problems=reader.problems)
    facts.model_type = _short_text(config.get("model_type"))
    facts.architecture = _architecture(config, reader)
    facts.layers = reader.number(LAYERS, at_most=10_000)
    facts.hidden_size = reader.number(HIDDEN, at_most=1 << 20)
    facts.attention_heads = reader.number(HEADS, at_most=1 << 16)
    facts.kv_heads = _kv_heads(facts, reader)
    facts.head_dim = _head_dim(facts, reader)
    facts.vocab_size = reader.number(("vocab_size",), at_most=1 << 28)
    facts.max_context_tokens = _max_context_tokens(facts, reader)
    facts.dtype = _dtype(reader)
    facts.quantization, facts.quantization_bits = _quantization(config, reader)
    # Transformers ties by default; multimodal configs say it on either level.
    facts.tie_word_embeddings = reader.flag("tie_word_embeddings")
    facts.kv_bytes_per_token = _kv_bytes_per_token(facts, reader)
    return facts


class _Reader:
    """Looks fields up in the nested text part first, then at the top, and notes what is senseless."""

    def __init__(self, config: dict[str, Any]) -> None:
        self.problems: list[Problem] = []
        nested = next((config[name] for name in NESTED if isinstance(config.get(name), dict)), None)
        self.levels: list[dict[str, Any]] = [config] if nested is None else [nested, config]

    def value(self, name: str) -> Any:
        return next((level[name] for level in self.levels if level.get(name) is not None), None)

    def number(self, names: tuple[str, ...], *, at_most: int, required: bool = True) -> int | None:
        given = next((name for name in names if self.value(name) is not None), None)
        if given is None:
            if required:
                self.warn(names[0], f"{names[0]} is not given, so this part cannot be planned.")
            return None
        value = self.value(given)
        if type(value) is not int:
            self.error(given, f"{given} must be a whole number, not {_shown(value)}.")
            return None
        if not 1 <= value <= at_most:
            self.error(given, f"{given} is {_shown(value)}; it must be between 1 and {at_most:,}.")
            return None
        return value

    def flag(self, name: str) -> bool | None:
        value = self.value(name)
        if value is None or isinstance(value, bool):
            return value
        self.error(name, f"{name} must be true or false, not {_shown(value)}.")
        return None

    def error(self, name: str, message: str) -> None:
        self.problems.append({"level": "error", "field": f"{CONFIG}:{name}", "message": message})

    def warn(self, name: str, message: str) -> None:
        self.problems.append({"level": "warn", "field": f"{CONFIG}:{name}", "message": message})


def _architecture(config: dict[str, Any], reader: _Reader) -> str | None:
    value = config.get("architectures")
    names = value if isinstance(value, list) else []
    texts = [name for name in (_short_text(item) for item in names[:8]) if name]
    if not texts:
        reader.error(
            "architectures", "architectures is missing or no list of names, so vLLM cannot pick a class."
        )
        return None
    known = next((name for name in texts if name in generating_architectures()), None)
    name = known or texts[0]
    level, message = support_of(name, has_own_code=isinstance(config.get("auto_map"), dict))
    if message:
        (reader.error if level == "error" else reader.warn)("architectures", message)
    return name


def _kv_heads(facts: ConfigFacts, reader: _Reader) -> int | None:
    heads = facts.attention_heads
    kv_heads = reader.number(KV_HEADS, at_most=1 << 16, required=False)
    if kv_heads is None:
        multi_query = (
            reader.value("multi_query") is True and reader.value("new_decoder_architecture") is not True
        )
        return 1 if multi_query else heads
    if heads is not None and (kv_heads > heads or heads % kv_heads):
        reader.error(
            "num_key_value_heads",
            f"{heads} attention heads cannot be shared evenly among {kv_heads} key/value heads.",
        )
        return None
    return kv_heads


def _head_dim(facts: ConfigFacts, reader: _Reader) -> int | None:
    given = reader.number(("head_dim",), at_most=1 << 16, required=False)
    if given is not None or facts.hidden_size is None or facts.attention_heads is None:
        return given
    if facts.hidden_size % facts.attention_heads:
        reader.warn(
            "num_attention_heads",
            f"hidden_size {facts.hidden_size} is no multiple of {facts.attention_heads} attention heads, "
            "and head_dim is not given.",
        )
        return None
    return facts.hidden_size // facts.attention_heads


def _max_context_tokens(facts: ConfigFacts, reader: _Reader) -> int | None:
    """vLLM's rule: the smallest of the known fields, stretched by the RoPE scaling where that applies."""
    found = [reader.number((name,), at_most=1 << 32) for name in CONTEXT if reader.value(name) is not None]
    sizes = [size for size in found if size is not None]
    if not found:
        reader.warn(CONTEXT[0], "no context length is given; vLLM assumes 2,048 tokens.")
    if not sizes:
        return None
    return _stretched(min(sizes), facts, reader)


def _stretched(tokens: int, facts: ConfigFacts, reader: _Reader) -> int | None:
    rope = reader.value("rope_parameters") or reader.value("rope_scaling")
    if rope is None or (facts.model_type or "").startswith("gemma3"):
        return tokens
    if not isinstance(rope, dict):
        reader.error("rope_scaling", f"rope_scaling must be an object, not {_shown(rope)}.")
        return tokens
    kind = rope.get("rope_type") or rope.get("type")
    if not isinstance(kind, str) or kind in UNSCALED_ROPE:
        return tokens
    factor = rope.get("factor")
    factor = 1 if factor is None else factor
    if type(factor) not in (int, float) or not 0 < factor <= 10_000:
        reader.error(
            "rope_scaling", f"the factor of rope_scaling must be a positive number, not {_shown(factor)}."
        )
        return tokens
    original = rope.get("original_max_position_embeddings")
    if kind == "yarn" and type(original) is int and 0 < original < 1 << 32:
        tokens = original
    return int(tokens * factor)


def _dtype(reader: _Reader) -> str | None:
    value = _short_text(reader.value("dtype")) or _short_text(reader.value("torch_dtype"))
    return value.removeprefix("torch.") if value else None


def _quantization(config: dict[str, Any], reader: _Reader) -> tuple[str | None, int | None]:
    section = reader.value("quantization_config")
    section = config.get("compression_config") if section is None else section
    if section is None:
        return None, None
    method = section.get("quant_method") if isinstance(section, dict) else None
    name = _short_text(method)
    if name is None:
        reader.error("quantization_config", "quantization_config does not name its method (quant_method).")
        return None, None
    name = name.lower()
    support = engine_support()
    if name not in support["quantization_methods"]:
        reader.error(
            "quantization_config",
            f"vLLM {support['vllm_version']} does not support the quantization method “{name}”.",
        )
    bits = section.get("bits", section.get("w_bit"))
    return name, bits if type(bits) is int and 1 <= bits <= 8 else _compressed_bits(section)


def _compressed_bits(section: dict[str, Any]) -> int | None:
    """num_bits of compressed-tensors, when every group agrees on it."""
    groups = section.get("config_groups")
    if not isinstance(groups, dict):
        return None
    found = set()
    for group in list(groups.values())[:64]:
        weights = group.get("weights") if isinstance(group, dict) else None
        bits = weights.get("num_bits") if isinstance(weights, dict) else None
        found.add(bits if type(bits) is int and 1 <= bits <= 8 else None)
    return found.pop() if len(found) == 1 else None


def _kv_bytes_per_token(facts: ConfigFacts, reader: _Reader) -> int | None:
    """2 (key and value) x layers x key/value heads x head_dim x bytes, for full attention in every layer.

    None where that formula does not hold or the architecture is unknown.
    """
    if facts.architecture not in engine_support()["text_generation"]:
        return None
    sizes = (facts.layers, facts.kv_heads, facts.head_dim)
    if any(size is None for size in sizes) or _mixes_attention(reader):
        return None
    return 2 * KV_ELEMENT_BYTES * facts.layers * facts.kv_heads * facts.head_dim  # type: ignore[operator]


def _mixes_attention(reader: _Reader) -> bool:
    for name in NOT_PLAIN_ATTENTION:
        if name == "sliding_window" and reader.value("use_sliding_window") is False:
            continue
        if reader.value(name) not in (None, False, 0):
            return True
    kinds = reader.value("layer_types")
    if kinds is None:
        return False
    return not isinstance(kinds, list) or any(kind != "full_attention" for kind in kinds)


def _short_text(value: Any) -> str | None:
    return value.strip()[:120] if isinstance(value, str) and value.strip() else None


def _shown(value: Any) -> str:
    """A value of a stranger's file in a message: one short line."""
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) > 10**15:
        return "a number with more than 15 digits"
    text = (
        json.dumps(value, ensure_ascii=False) if not isinstance(value, (dict, list)) else type(value).__name__
    )
    return {"dict": "an object", "list": "a list"}.get(text, text[:60])
