"""What the exact builder is asked, read from strangers' files with bounds. Pure: imports no vllm."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from serving.bounded_json import Unreadable, parse_object, read_object

CONFIG_LIMIT_BYTES = 4_000_000
INDEX_LIMIT_BYTES = 50_000_000
REQUEST_LIMIT_BYTES = 60_000_000
MOST_RANKS = 4096
MOST_LAYERS = 1000
MOST_EXPERTS = 4096
MOST_NAMES = 1_000_000
LAYER_FIELDS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers", "depth")
EXPERT_FIELDS = ("num_local_experts", "num_experts", "n_routed_experts")
PACKED_SUFFIXES = (".qweight", ".qzeros", ".weight_packed")


class BadExactRequest(ValueError):
    """The request cannot be built; `field` names what, the message says why."""

    def __init__(self, message: str, *, field: str) -> None:
        super().__init__(message)
        self.message = message
        self.field = field


@dataclass(frozen=True)
class ExactRequest:
    """The names are those of serving.planner.request.PlanRequest; None means "as vLLM would choose".

    `tensor_groups`: objects with `pattern`, `dtype`, `count`, `indices` (planner.request.TensorGroup).
    `device` "cpu" builds for vLLM's CPU engine, "cuda" for an accelerator of the given capability.
    """

    config: dict[str, Any]
    tensor_dtypes: dict[str, str] = field(default_factory=dict)
    tensor_parallel_size: int = 1
    pipeline_parallel_size: int = 1
    dtype: str = "auto"
    quantization: str | None = None
    kv_cache_dtype: str = "auto"
    max_model_len: int | None = None
    max_num_seqs: int | None = None
    max_num_batched_tokens: int | None = None
    kv_cache_memory_bytes: int | None = None
    block_size: int | None = None
    enable_prefix_caching: bool | None = None
    enable_expert_parallel: bool = False
    async_scheduling: bool | None = None
    mamba_ssm_cache_dtype: str | None = None
    device: str = "cuda"
    accelerator_name: str = "NVIDIA H100 80GB HBM3"
    accelerator_memory_bytes: int = 85_017_493_504
    compute_capability: tuple[int, int] = (9, 0)


WHOLE_NUMBERS = {
    "tensor_parallel_size": MOST_RANKS,
    "pipeline_parallel_size": MOST_RANKS,
    "max_model_len": 1 << 40,
    "max_num_seqs": 1 << 31,
    "max_num_batched_tokens": 1 << 40,
    "kv_cache_memory_bytes": 1 << 50,
    "block_size": 1 << 20,
    "accelerator_memory_bytes": 1 << 50,
}
TEXTS = ("dtype", "quantization", "kv_cache_dtype", "mamba_ssm_cache_dtype", "device", "accelerator_name")
FLAGS = ("enable_prefix_caching", "enable_expert_parallel", "async_scheduling")


def request_from_json(raw: bytes) -> ExactRequest:
    """A request from one JSON object. Raises BadExactRequest."""
    try:
        given = parse_object(raw[: REQUEST_LIMIT_BYTES + 1])
    except Unreadable as error:
        raise BadExactRequest(f"the request {error}", field="request") from None
    return request_from_object(given)


def request_from_object(given: dict[str, Any]) -> ExactRequest:
    """A checked request. Unknown names are refused, absent ones get defaults. Raises BadExactRequest."""
    known = {item.name for item in fields(ExactRequest)} | {"tensor_groups"}
    unknown = sorted(set(given) - known)
    if unknown:
        raise BadExactRequest(f"{unknown[0][:60]} is not a field of the request", field=unknown[0][:60])
    values = {name: value for name, value in given.items() if value is not None}
    groups = values.pop("tensor_groups", None)
    config = values.get("config")
    if not isinstance(config, dict):
        raise BadExactRequest("config must be a JSON object", field="config")
    for name, highest in WHOLE_NUMBERS.items():
        if name in values:
            _check_whole_number(values[name], name=name, highest=highest)
    for name in TEXTS:
        if name in values and not (isinstance(values[name], str) and 0 < len(values[name]) <= 100):
            raise BadExactRequest(f"{name} must be text of at most 100 characters", field=name)
    for name in FLAGS:
        if name in values and not isinstance(values[name], bool):
            raise BadExactRequest(f"{name} must be true or false", field=name)
    if values.get("device", "cuda") not in ("cuda", "cpu"):
        raise BadExactRequest("device must be cuda or cpu", field="device")
    if "compute_capability" in values:
        values["compute_capability"] = _capability(values["compute_capability"])
    values["tensor_dtypes"] = _dtypes(values.get("tensor_dtypes"), groups, layers=_layers_of(config))
    request = ExactRequest(**values)
    if request.tensor_parallel_size * request.pipeline_parallel_size > MOST_RANKS:
        raise BadExactRequest(f"more than {MOST_RANKS} ranks", field="tensor_parallel_size")
    _check_extent(config)
    return request


def config_from_file(path: Path) -> dict[str, Any]:
    """The config.json at `path`. Raises BadExactRequest."""
    try:
        return read_object(path, limit_bytes=CONFIG_LIMIT_BYTES)
    except Unreadable as error:
        raise BadExactRequest(f"config.json {error}", field="config") from None


def dtypes_from_index(path: Path) -> dict[str, str]:
    """Tensor names of a safetensors index with the only thing quantisation asks: packed integers or not."""
    try:
        index = read_object(path, limit_bytes=INDEX_LIMIT_BYTES)
    except Unreadable as error:
        raise BadExactRequest(f"the index {error}", field="safetensors_index") from None
    names = index.get("weight_map")
    if not isinstance(names, dict):
        raise BadExactRequest("the index has no weight_map", field="safetensors_index")
    return {name: _guessed_dtype(name) for name in names}


def _guessed_dtype(name: str) -> str:
    return "I32" if name.endswith(PACKED_SUFFIXES) else "F16"


def _check_whole_number(value: Any, *, name: str, highest: int) -> None:
    lowest = -1 if name == "max_model_len" else 1
    if not isinstance(value, int) or isinstance(value, bool) or not lowest <= value <= highest or value == 0:
        raise BadExactRequest(f"{name} must be a whole number from 1 to {highest}", field=name)


def _capability(value: Any) -> tuple[int, int]:
    parts = value if isinstance(value, (list, tuple)) else ()
    if len(parts) != 2 or not all(isinstance(part, int) and 0 <= part < 100 for part in parts):
        raise BadExactRequest(
            "compute_capability must be two whole numbers like [9, 0]", field="compute_capability"
        )
    return parts[0], parts[1]


def _dtypes(given: Any, groups: Any, *, layers: int) -> dict[str, str]:
    if given is not None:
        if not isinstance(given, dict) or not all(isinstance(dtype, str) for dtype in given.values()):
            raise BadExactRequest("tensor_dtypes must map names to types", field="tensor_dtypes")
        return given
    found: dict[str, str] = {}
    for group in groups or ():
        for name, dtype in _names_of_group(group, layers=layers):
            if len(found) >= MOST_NAMES:
                raise BadExactRequest(f"more than {MOST_NAMES:,} tensors", field="tensor_groups")
            found[name] = dtype
    return found


def _names_of_group(group: Any, *, layers: int) -> Iterator[tuple[str, str]]:
    """Names as far as they tell layers apart: further numbers (experts) count up to the group's size."""
    try:
        pattern, count = str(group["pattern"]), int(group["count"])
        # Groups that come from an index know no types.
        dtype = str(group["dtype"]) or _guessed_dtype(pattern)
        indices = [int(index) for index in group.get("indices") or range(layers)]
    except (KeyError, TypeError, ValueError, AttributeError):
        raise BadExactRequest("a tensor group lacks pattern, dtype or count", field="tensor_groups") from None
    if "*" not in pattern:
        yield pattern, dtype
        return
    inner = max(1, min(MOST_EXPERTS, count // max(1, len(indices)))) if pattern.count("*") > 1 else 1
    for index in indices[:MOST_LAYERS]:
        for number in range(inner):
            yield pattern.replace("*", str(index), 1).replace("*", str(number)), dtype


def _layers_of(config: dict[str, Any]) -> int:
    for name in LAYER_FIELDS:
        value = config.get(name)
        if isinstance(value, int) and not isinstance(value, bool) and value > 0:
            return min(value, MOST_LAYERS)
    return 0


def _check_extent(config: dict[str, Any]) -> None:
    """Bound what is built object by object; sizes of tensors cost nothing on the meta device."""
    parts = [config] + [value for value in config.values() if isinstance(value, dict)]
    for part in parts:
        for names, most in ((LAYER_FIELDS, MOST_LAYERS), (EXPERT_FIELDS, MOST_EXPERTS)):
            for name in names:
                value = part.get(name)
                if isinstance(value, (int, float)) and value > most:
                    raise BadExactRequest(
                        f"{name} is {value}, more than the {most} that are built", field=name
                    )
