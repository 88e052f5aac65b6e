"""Turns what vLLM raises while it configures and builds a model into one sentence and the field to blame.

It tells refusals (vLLM would stop on real accelerators in the same way) from failures of the faked
surroundings, which say nothing about the model. Pure: imports no vllm.
"""

from __future__ import annotations

import re
import traceback
from dataclasses import dataclass

LONGEST_MESSAGE = 600
REFUSING = (ValueError, AssertionError, NotImplementedError)
"""What vLLM and Transformers raise on purpose. A TypeError or KeyError may come from what is faked."""
SURROUNDINGS = re.compile(
    r"cuda|nvml|backend|no kernel|not compiled|driver|meta tensor|meta device|torchvision|torchaudio"
    r"|flashinfer|libcuda|process group|No module named|offline|couldn't connect|LocalEntryNotFound"
    r"|Can't load",
    re.IGNORECASE,
)
FIELDS = (
    (r"attention heads", "num_attention_heads"),
    (r"key.?value heads|kv heads|kv_heads", "num_key_value_heads"),
    (r"vocab", "vocab_size"),
    (r"unknown quantization|quantization method|quantization", "quantization"),
    (r"pipeline parallel|SupportsPP|pipeline", "pipeline_parallel_size"),
    (r"max_model_len|maximum model length|max seq len", "max_model_len"),
    (r"max_num_batched_tokens", "max_num_batched_tokens"),
    (r"max_num_seqs", "max_num_seqs"),
    (r"block.?size", "block_size"),
    (r"tensor parallel|tp_size|tensor_parallel", "tensor_parallel_size"),
    (r"bfloat16|float16|dtype", "dtype"),
    (r"model type|model_type", "model_type"),
    (r"architecture", "architectures"),
    (r"rope", "rope_scaling"),
    (r"cache blocks|KV cache", "kv_cache_memory_bytes"),
)
CLASS_FIELDS = {
    "QKVParallelLinear": "num_key_value_heads",
    "VocabParallelEmbedding": "vocab_size",
    "ParallelLMHead": "vocab_size",
    "FusedMoE": "moe_intermediate_size",
}
PATH_FIELDS = (
    ("attn", "num_key_value_heads"),
    ("attention", "num_key_value_heads"),
    ("mlp", "intermediate_size"),
)


@dataclass(frozen=True)
class Refusal:
    """vLLM would not start with this: at which step, in whose words, because of which field."""

    step: str
    message: str
    field: str | None


def refusal_of(error: Exception, *, step: str) -> Refusal | str:
    """The refusal, or a sentence why exact mode cannot tell (the fault lies in the surroundings)."""
    message = _first_cause(error)
    refuses = isinstance(error, REFUSING) or "Validation" in type(error).__name__
    if not refuses or SURROUNDINGS.search(message):
        return f"exact mode cannot build this model here: {type(error).__name__}: {message}"[:LONGEST_MESSAGE]
    place = _place_of(error)
    if isinstance(error, AssertionError) and not str(error).strip():
        message = (
            f"vLLM stops while it builds {place.owner or 'the model'}: {place.line or 'an assertion fails'}"
        )
    return Refusal(step=step, message=message[:LONGEST_MESSAGE], field=_field_of(message, place))


@dataclass(frozen=True)
class _Place:
    line: str
    owner: str
    prefix: str


def _place_of(error: Exception) -> _Place:
    """The failing source line, the class being built and the layer's name, from the traceback."""
    trace = error.__traceback__
    frames = list(traceback.walk_tb(trace))
    line = traceback.extract_tb(trace)[-1].line if trace is not None else ""
    owner = prefix = ""
    for frame, _ in reversed(frames):
        own = frame.f_locals.get("self")
        if not owner and own is not None and frame.f_code.co_name == "__init__":
            owner = type(own).__name__
        if not prefix and isinstance(frame.f_locals.get("prefix"), str):
            prefix = frame.f_locals["prefix"]
    return _Place(line=(line or "").strip(), owner=owner, prefix=prefix)


def _first_cause(error: Exception) -> str:
    """One line: pydantic wraps vLLM's own words between a heading and a link."""
    text = str(error).strip()
    wrapped = re.search(r"(?:Value error|Assertion failed), (.*?)(?: \[type=|\n|$)", text)
    line = wrapped.group(1) if wrapped else next((part for part in text.splitlines() if part.strip()), "")
    # The folder that stands in for the model's own is nobody's business.
    line = re.sub(r"(?: (?:in|at|from))? ['\"]?/\S*exact-plan-\w+['\"]?", "", line)
    return line.strip().strip("'\"") or type(error).__name__


def _field_of(message: str, place: _Place) -> str | None:
    named = re.search(r"[Vv]alidation error for field '(\w+)'", message)
    if named:
        return named.group(1)
    for pattern, name in FIELDS:
        if re.search(pattern, message, re.IGNORECASE):
            return name
    if place.owner in CLASS_FIELDS:
        return CLASS_FIELDS[place.owner]
    return next((name for mark, name in PATH_FIELDS if mark in place.prefix), None)
