"""Turns what vLLM raises while it configures and builds a model into one sentence and the field to blame.

It tells refusals (vLLM would stop on real accelerators in the same way) from failures of the faked
surroundings, which say nothing about the model. Pure: imports no vllm.
"""

from __future__ import annotations

import ast
import re
import traceback
from dataclasses import dataclass

LONGEST_MESSAGE = 600
REFUSING = (ValueError, AssertionError, NotImplementedError)
"""What vLLM and Transformers raise on purpose. A TypeError or KeyError may come from what is faked."""
SURROUNDINGS = re.compile(
    r"cuda|nvml|backend|failed to be inspected|no kernel"
    r"|not compiled|driver|meta tensor|meta device|register_meta|torchvision|torchaudio"
    r"|flashinfer|libcuda|process group|No module named|offline|couldn't connect|LocalEntryNotFound"
    r"|Can't load",
    re.IGNORECASE,
)
OPENING_CHARACTERS = 160
"""Longer messages end with advice that may name anything."""
IMPOSSIBLE_SIZES = re.compile(r"negative dimension|size calculation overflowed", re.IGNORECASE)
FIELDS = (
    (r"bytes_per_block", "pipeline_parallel_size"),
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
    message, named = _first_cause(error)
    if not _is_on_purpose(error, message, step=step):
        return f"exact mode cannot build this model here: {type(error).__name__}: {message}"[:LONGEST_MESSAGE]
    place = _place_of(error)
    if isinstance(error, ZeroDivisionError) or (isinstance(error, AssertionError) and not str(error).strip()):
        message = f"vLLM stops at {place.owner or 'the configuration'}: {place.line or 'an assertion fails'}"
    return Refusal(step=step, message=message[:LONGEST_MESSAGE], field=named or _field_of(message, place))


def _is_on_purpose(error: Exception, message: str, *, step: str) -> bool:
    """Whether the same would be said on real accelerators: vLLM's checks, and sums that cannot work out."""
    if IMPOSSIBLE_SIZES.search(message):
        return True
    if isinstance(error, ZeroDivisionError):
        # While the configuration is read, nothing but the platform's answers is faked.
        return step == "config"
    if not isinstance(error, REFUSING) and "Validation" not in type(error).__name__:
        return False
    return step == "cache" or not SURROUNDINGS.search(message[:OPENING_CHARACTERS])


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


def _first_cause(error: Exception) -> tuple[str, str | None]:
    """One line, and the field where the error names it; pydantic and Transformers wrap others' words."""
    text = str(error).strip()
    lines = [line.strip() for line in text.splitlines() if line.strip()] or [type(error).__name__]
    strict = re.match(r"[Vv]alidation error for field '(\w+)'", lines[0])
    several = re.match(r"\d+ validation errors? for ", lines[0])
    wrapped = re.search(r"(?:Value error|Assertion failed), (.*?)(?: \[type=|\n|$)", text)
    if wrapped:
        found, named = wrapped.group(1), None
    elif several and len(lines) > 2:
        named = lines[1].split(".")[0]
        found = f"{named}: {lines[2].split(' [type=')[0]}"
    else:
        found = " ".join(lines[:2]) if lines[0].endswith(":") else lines[0]
        named = strict.group(1) if strict else None
    return _without_our_folder(_filled_in(found)), named


def _filled_in(message: str) -> str:
    """Some of vLLM's errors carry a text with %s and its values, unjoined."""
    if not message.startswith(("('", '("')):
        return message
    try:
        template, *values = ast.literal_eval(message)
        return str(template) % tuple(values)
    except (ValueError, SyntaxError, TypeError):
        return message


def _without_our_folder(message: str) -> str:
    """The folder that stands in for the model's own is nobody's business."""
    text = re.sub(r"(?: (?:in|at|from))? ['\"]?/\S*exact-plan-\w+['\"]?", "", message).strip()
    return text[1:-1] if len(text) > 2 and text[0] == text[-1] and text[0] in "'\"" else text


def _field_of(message: str, place: _Place) -> str | None:
    for pattern, name in FIELDS:
        if re.search(pattern, message, re.IGNORECASE):
            return name
    if place.owner in CLASS_FIELDS:
        return CLASS_FIELDS[place.owner]
    return next((name for mark, name in PATH_FIELDS if mark in place.prefix), None)
