"""What a deployment is made of: the engine (a revision) and its capacity, validated.

Pydantic models shared by the form, the REST API, the database's JSON and the renderer, so that one set of
rules and messages holds everywhere. Pure: knows no Django and no Ray.
"""

from __future__ import annotations

import math
import re
from decimal import Decimal
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

NAME_PATTERN = r"^[a-z0-9]([a-z0-9.-]{0,38}[a-z0-9])?$"
NAME_HELP = (
    "1 to 40 lower-case letters, digits, dots and hyphens, beginning and ending with a letter or digit"
)
DTYPES = ("auto", "bfloat16", "float16", "float32")

FORBIDDEN_ENGINE_KWARGS = {
    "model": "the model comes from the registry",
    "served_model_name": "the name is the deployment's name",
    "tensor_parallel_size": "set it under topology",
    "pipeline_parallel_size": "set it under topology",
    "dtype": "it has a field of its own",
    "max_model_len": "set the context length",
    "max_num_seqs": "set the concurrent sequences",
    "kv_cache_memory_bytes": "set the KV cache per rank",
    "distributed_executor_backend": "it follows from the topology",
    "enable_per_request_metrics": "the gateway needs it switched on",
    "disable_log_stats": "the charts need the engine's statistics",
    "enable_lora": "choose to load the model's adapters",
    "lora_modules": "adapters come from the registry",
    "trust_remote_code": "it would run code from the model's repository on the cluster",
    "allowed_local_media_path": "callers could read files of the cluster's nodes with it",
    "hf_token": "give the token with the model, where it is stored encrypted",
    "api_key": "callers' keys are the gateway's",
    **dict.fromkeys(
        (
            "worker_cls",
            "worker_extension_cls",
            "scheduler_cls",
            "logits_processors",
            "middleware",
            "tool_parser_plugin",
            "reasoning_parser_plugin",
            "io_processor_plugin",
        ),
        "it names code to import on the cluster",
    ),
}
"""Engine arguments an operator may not give, with the reason."""

FORBIDDEN_PREFIXES = {
    "data_parallel_": "more copies of the model are replicas; set their number under capacity",
    "ssl_": "the engine has no address of its own",
}
IMPORTED_PATH = "_module_path"
"""Keys that end so name code to import, also inside a map such as kv_transfer_config."""

SCALAR = (str, int, float, bool, type(None))

API_PRICE = "of an API to compare costs with, US dollars per 1M tokens; null: no comparison"

DeploymentName = Annotated[str, Field(max_length=40, pattern=NAME_PATTERN)]


class AdapterSource(BaseModel):
    """One LoRA adapter as a revision keeps it, copied from the registry."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    source: str = Field(description="folder with adapter_config.json")
    rank: int = Field(ge=1, le=512)


class EngineSpec(BaseModel):
    """One engine definition, the content of a revision. Any change of it makes new replicas."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str = Field(description="name of the registered model")
    model_source: str = Field(description="folder, hub id or object-store address, copied from the registry")
    hub_revision: str | None = None
    accelerator_type: str | None = Field(None, description="Ray's name (H100, L4 …); null serves on CPU")
    tensor_parallel_size: int = Field(1, ge=1, le=64)
    pipeline_parallel_size: int = Field(1, ge=1, le=64)
    tp_may_span_nodes: bool = Field(
        False, description="let a tensor-parallel group lie on several nodes; slow, and only on accelerators"
    )
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = "auto"
    max_model_len: int = Field(ge=16, le=16_777_216, description="context length in tokens")
    max_num_seqs: int = Field(32, ge=1, le=4096, description="requests the engine works on at once")
    kv_cache_memory_bytes: int | None = Field(
        None, ge=1 << 20, description="KV cache per rank in bytes; null lets the engine measure (GPU only)"
    )
    kv_cache_is_automatic: bool = Field(
        False, description="the KV cache was sized by the console: it follows the context and the hardware"
    )
    engine_kwargs: dict[str, Any] = Field(default_factory=dict, description="further vLLM engine arguments")
    adapters: dict[str, AdapterSource] = Field(
        default_factory=dict, max_length=256, description="LoRA adapters loaded at start, by name"
    )

    @property
    def accelerators_per_replica(self) -> int:
        """Accelerators (or CPU cores) that one replica claims."""
        return self.tensor_parallel_size * self.pipeline_parallel_size

    @model_validator(mode="after")
    def _spans_only_with_accelerators(self) -> EngineSpec:
        if self.tp_may_span_nodes and self.accelerator_type is None:
            raise ValueError("tp_may_span_nodes needs accelerators: on CPU all ranks share one node")
        return self

    @field_validator("engine_kwargs")
    @classmethod
    def _plain_and_allowed(cls, value: dict[str, Any]) -> dict[str, Any]:
        for name, given in value.items():
            if not re.fullmatch(r"[a-z][a-z0-9_]{0,79}", name):
                raise ValueError(f"“{name[:80]}” is not the name of an engine argument")
            if reason := why_forbidden(name, given):
                raise ValueError(f"“{name}” cannot be set here: {reason}")
            if not _is_plain(given):
                raise ValueError(
                    f"“{name}” must be text, a number, true, false, null, or a list or map of these"
                )
        return value


class CapacitySpec(BaseModel):
    """How many replicas, when more, and what they cost. Changes apply in place, no replica restarts."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    min_replicas: int = Field(1, ge=0, le=1000)
    max_replicas: int = Field(1, ge=1, le=1000)
    target_ongoing_requests: float = Field(8.0, gt=0, le=100_000, description="per replica")
    idle_before_zero_s: int | None = Field(
        None, ge=10, le=604_800, description="seconds without a request before scaling to zero; null is never"
    )
    price_per_accelerator_hour_usd: Decimal = Field(
        Decimal(0), ge=0, le=Decimal(100_000), max_digits=12, decimal_places=6
    )
    api_input_usd_per_million_tokens: Decimal | None = Field(
        None, ge=0, le=Decimal(100_000), max_digits=12, decimal_places=6, description=API_PRICE
    )
    api_output_usd_per_million_tokens: Decimal | None = Field(
        None, ge=0, le=Decimal(100_000), max_digits=12, decimal_places=6, description=API_PRICE
    )

    @model_validator(mode="after")
    def _consistent(self) -> CapacitySpec:
        if self.min_replicas > self.max_replicas:
            raise ValueError(
                f"min_replicas ({self.min_replicas}) must not exceed max_replicas ({self.max_replicas})"
            )
        if self.min_replicas == 0 and self.idle_before_zero_s is None:
            raise ValueError("min_replicas is 0, so idle_before_zero_s must say after how many idle seconds")
        given = [self.api_input_usd_per_million_tokens, self.api_output_usd_per_million_tokens]
        if given.count(None) == 1:
            missing = "input" if given[0] is None else "output"
            raise ValueError(
                f"api_{missing}_usd_per_million_tokens is missing: an API's price is one for input and one"
                " for output; give both or neither"
            )
        if self.min_replicas > 0 and self.idle_before_zero_s is not None:
            raise ValueError("idle_before_zero_s only acts with min_replicas 0; set one or clear the other")
        return self


class DeploymentSpec(BaseModel):
    """One deployment as the renderer needs it. `state` is what the gateway says of it."""

    model_config = ConfigDict(frozen=True)

    name: str
    deployment_id: int = Field(description="tells two deployments apart that had the same name")
    revision: int
    generation: int
    state: Literal["serve", "stopped", "failed"]
    reason: str = ""
    created_at: int = 0
    engine: EngineSpec
    capacity: CapacitySpec
    limits: dict[str, Any] = Field(default_factory=dict, description="as the gateway reads them")
    secret_env: dict[str, str] = Field(default_factory=dict, repr=False)


def why_forbidden(name: str, given: Any) -> str:
    """Why an engine argument may not be given, or nothing."""
    if name in FORBIDDEN_ENGINE_KWARGS:
        return FORBIDDEN_ENGINE_KWARGS[name]
    for prefix, reason in FORBIDDEN_PREFIXES.items():
        if name.startswith(prefix):
            return reason
    if _imports_code(given):
        return "it names code to import on the cluster"
    return ""


def _imports_code(given: Any) -> bool:
    if isinstance(given, dict):
        return any(str(key).endswith(IMPORTED_PATH) or _imports_code(value) for key, value in given.items())
    return isinstance(given, list) and any(_imports_code(value) for value in given)


def _is_plain(value: Any, depth: int = 0) -> bool:
    if isinstance(value, str):
        # NUL and half of a surrogate pair are valid JSON, but no database or HTTP body can hold them.
        return "\x00" not in value and not any("\ud800" <= letter <= "\udfff" for letter in value)
    if isinstance(value, float):
        return math.isfinite(value)
    if isinstance(value, SCALAR):
        return True
    if depth >= 4:
        return False
    if isinstance(value, list):
        return all(_is_plain(item, depth + 1) for item in value)
    if isinstance(value, dict):
        return all(
            isinstance(key, str) and _is_plain(key) and _is_plain(item, depth + 1)
            for key, item in value.items()
        )
    return False
