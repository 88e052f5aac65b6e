"""Bodies that the API takes. Types and descriptions for the OpenAPI document; serving/spec.py has the rules.

Every body refuses unknown fields. Bounds repeat those of serving/spec.py; a test keeps the two equal.
"""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from typing import Annotated, Any, Literal

from ninja import Schema
from pydantic import ConfigDict, Field, JsonValue

from serving.limits import (
    BUDGET_USD_MAX,
    DEPLOYMENTS_MAX,
    REQUESTS_IN_FLIGHT_MAX,
    REQUESTS_PER_MINUTE_MAX,
    TOKENS_PER_MINUTE_MAX,
)
from serving.spec import API_PRICE, NAME_HELP

LARGEST_VERSION = 2**31 - 1
EXPECTED_VERSION = "the version you have read; the header If-Match says the same"


class Input(Schema):
    """A body; unknown fields are an error."""

    model_config = ConfigDict(extra="forbid")


class ModelInput(Input):
    """A model to register."""

    name: str = Field(max_length=63, description="lower-case letters, digits, dots, hyphens, underscores")
    source_kind: Literal["folder", "hub", "object_store"]
    source: str = Field(max_length=1000, description="absolute folder, organisation/model, or s3:// or gs://")
    hub_revision: str = Field("", max_length=200, description="branch, tag or commit")
    hub_token: str | None = Field(None, max_length=500, description="kept encrypted, never given back")
    note: str = Field("", max_length=500)
    config: dict[str, JsonValue] | None = Field(
        None, description="config.json of a hub or object-store model, so that it can be planned"
    )


class ModelChange(Input):
    """What to change of a model; what is left out stays."""

    expected_version: int | None = Field(None, ge=1, le=LARGEST_VERSION, description=EXPECTED_VERSION)
    source_kind: Literal["folder", "hub", "object_store"] | None = None
    source: str | None = Field(None, max_length=1000)
    hub_revision: str | None = Field(None, max_length=200)
    hub_token: str | None = Field(None, max_length=500, description="a new token; empty text forgets it")
    note: str | None = Field(None, max_length=500)
    config: dict[str, JsonValue] | None = Field(
        None, description="config.json of a hub or object-store model; an empty one forgets it"
    )


class AdapterInput(Input):
    """A LoRA adapter of a registered model."""

    name: str = Field(max_length=40, description=f"callers name deployment:name; {NAME_HELP}")
    source: str = Field(max_length=1000, description="absolute folder with adapter_config.json")


class EngineInput(Input):
    """The engine: a change of it is a new revision and starts new replicas."""

    accelerator_type: str | None = Field(None, description="Ray's name (H100, L4 …); null serves on CPU")
    tensor_parallel_size: int | None = Field(None, ge=1, le=64)
    pipeline_parallel_size: int | None = Field(None, ge=1, le=64)
    tp_may_span_nodes: bool | None = Field(
        None, description="let a tensor-parallel group lie on several nodes; slow, only on accelerators"
    )
    dtype: Literal["auto", "bfloat16", "float16", "float32"] | None = None
    max_model_len: int | None = Field(
        None, ge=16, le=16_777_216, description="context length in tokens; null is the model's maximum"
    )
    max_num_seqs: int | None = Field(None, ge=1, le=4096, description="requests worked on at once")
    kv_cache_memory_bytes: int | None = Field(
        None, ge=1 << 20, description="KV cache per rank; null lets it be computed or measured"
    )
    engine_kwargs: dict[str, JsonValue] | None = Field(None, description="further vLLM engine arguments")
    load_adapters: bool | None = Field(
        None, description="true: all LoRA adapters the model has now; false: none; null: as it was"
    )

    def given(self) -> dict[str, Any]:
        """The fields the caller gave. Null means "by default" where null is no value of its own."""
        nullable = ("accelerator_type", "max_model_len", "kv_cache_memory_bytes")
        values = self.model_dump(exclude_unset=True)
        return {name: value for name, value in values.items() if value is not None or name in nullable}


class CapacityInput(Input):
    """How many replicas and their price: changes apply in place, no replica restarts."""

    min_replicas: int | None = Field(None, ge=0, le=1000)
    max_replicas: int | None = Field(None, ge=1, le=1000)
    target_ongoing_requests: float | None = Field(None, gt=0, le=100_000, description="per replica")
    idle_before_zero_s: int | None = Field(
        None, ge=10, le=604_800, description="idle seconds before scaling to zero; null is never"
    )
    price_per_accelerator_hour_usd: Decimal | None = Field(
        None, ge=0, le=Decimal(100_000), max_digits=12, decimal_places=6
    )
    api_input_usd_per_million_tokens: Decimal | None = Field(
        None, ge=0, le=Decimal(100_000), max_digits=12, decimal_places=6, description=API_PRICE
    )
    api_output_usd_per_million_tokens: Decimal | None = Field(
        None, ge=0, le=Decimal(100_000), max_digits=12, decimal_places=6, description=API_PRICE
    )

    def given(self) -> dict[str, Any]:
        """The fields the caller gave. Null means "by default" where null is no value of its own."""
        nullable = (
            "idle_before_zero_s",
            "api_input_usd_per_million_tokens",
            "api_output_usd_per_million_tokens",
        )
        values = self.model_dump(exclude_unset=True)
        return {name: value for name, value in values.items() if value is not None or name in nullable}


class DeploymentLimitsInput(Input):
    """What all callers of a deployment may use together: in force within about a second. Null is no limit."""

    requests_per_minute: int | None = Field(
        None, ge=1, le=REQUESTS_PER_MINUTE_MAX, description="requests admitted in any 60 s"
    )
    tokens_per_minute: int | None = Field(
        None,
        ge=1,
        le=TOKENS_PER_MINUTE_MAX,
        description="tokens of prompts and answers; counted when a request has ended",
    )
    requests_in_flight: int | None = Field(None, ge=1, le=REQUESTS_IN_FLIGHT_MAX)
    budget_usd_per_day: Decimal | None = Field(
        None, ge=0, le=BUDGET_USD_MAX, max_digits=15, decimal_places=6, description="days are UTC"
    )
    budget_usd_per_month: Decimal | None = Field(
        None, ge=0, le=BUDGET_USD_MAX, max_digits=15, decimal_places=6, description="calendar months, UTC"
    )

    def given(self) -> dict[str, Any]:
        """The fields the caller gave; null takes a limit away."""
        return self.model_dump(exclude_unset=True)


class KeyLimitsInput(DeploymentLimitsInput):
    """What a key may use, what it may ask and until when. Null is no limit."""

    deployments: list[str] | None = Field(
        None, min_length=1, max_length=DEPLOYMENTS_MAX, description="the only ones it may ask; null is all"
    )
    expires_at: datetime | None = Field(
        None, description="ISO 8601 with its time zone; from then on the key is refused"
    )


class DeploymentInput(Input):
    """A deployment to create."""

    name: str = Field(max_length=40, description=NAME_HELP)
    model: str = Field(max_length=63, description="name of a registered model")
    engine: EngineInput | None = None
    capacity: CapacityInput | None = None
    limits: DeploymentLimitsInput | None = None
    note: str = Field("", max_length=300)


class DeploymentChange(Input):
    """What to change of a deployment; what is left out stays."""

    expected_version: int | None = Field(None, ge=1, le=LARGEST_VERSION, description=EXPECTED_VERSION)
    model: str | None = Field(None, max_length=63, description="name of another registered model")
    engine: EngineInput | None = None
    capacity: CapacityInput | None = None
    limits: DeploymentLimitsInput | None = None
    note: str = Field("", max_length=300)


class SloInput(Input):
    """What to change of a deployment's objectives; null takes one away, what is left out stays."""

    expected_version: int | None = Field(None, ge=1, le=LARGEST_VERSION, description=EXPECTED_VERSION)
    ttft_s: float | None = Field(None, gt=0.0001, le=600, description="seconds to the first token")
    tpot_s: float | None = Field(None, gt=0.0001, le=60, description="seconds per output token")
    latency_target: float | None = Field(
        None, ge=0.5, le=0.9999, description="share of requests within the thresholds; 0.95 makes them p95"
    )
    success_target: float | None = Field(
        None, ge=0.5, le=0.9999, description="share of requests answered without an error"
    )
    window_days: Literal[7, 30] | None = Field(None, description="days over which the error budget counts")

    def given(self) -> dict[str, Any]:
        """The fields the caller gave. Null means "as it is" where null is no value of its own."""
        nullable = ("ttft_s", "tpot_s", "success_target")
        values = self.model_dump(exclude_unset=True, exclude={"expected_version"})
        return {name: value for name, value in values.items() if value is not None or name in nullable}


class WebhookInput(Input):
    """What to change of the alert webhook; what is left out stays."""

    expected_version: int | None = Field(None, ge=1, le=LARGEST_VERSION, description=EXPECTED_VERSION)
    url: str | None = Field(None, max_length=500, description="https:// or http://, without a login in it")
    secret: str | None = Field(None, max_length=200, description="a new one; kept encrypted, never shown")
    enabled: bool | None = None
    sends_fast: bool | None = None
    sends_slow: bool | None = None
    sends_resolved: bool | None = None

    def given(self) -> dict[str, Any]:
        """The fields the caller gave a value."""
        values = self.model_dump(exclude_unset=True, exclude={"expected_version"})
        return {name: value for name, value in values.items() if value is not None}


class RollbackInput(Input):
    """Which revision to return to."""

    revision: int = Field(ge=1, le=LARGEST_VERSION)
    expected_version: int | None = Field(None, ge=1, le=LARGEST_VERSION, description=EXPECTED_VERSION)


class AliasTargetInput(Input):
    """A deployment and its share of the alias's requests."""

    deployment: str = Field(max_length=40)
    weight: int = Field(1, ge=1, le=1000)


class AliasInput(Input):
    """An alias to create."""

    name: str = Field(max_length=40, description=f"what callers name as model: {NAME_HELP}")
    targets: list[AliasTargetInput] = Field(min_length=1, max_length=20)
    fallback: list[Annotated[str, Field(max_length=40)]] = Field(
        default_factory=list, max_length=20, description="deployments tried in this order when no target can"
    )


class AliasChange(Input):
    """What to change of an alias; what is left out stays."""

    expected_version: int | None = Field(None, ge=1, le=LARGEST_VERSION, description=EXPECTED_VERSION)
    targets: list[AliasTargetInput] | None = Field(None, min_length=1, max_length=20)
    fallback: list[Annotated[str, Field(max_length=40)]] | None = Field(None, max_length=20)


class KeyInput(Input):
    """A gateway key to create."""

    name: str = Field(min_length=1, max_length=80, description="who or what will use it")
    limits: KeyLimitsInput | None = None


class KeyChange(Input):
    """What to change of a gateway key; what is left out stays."""

    expected_version: int | None = Field(None, ge=1, le=LARGEST_VERSION, description=EXPECTED_VERSION)
    name: str | None = Field(None, min_length=1, max_length=80)
    limits: KeyLimitsInput | None = None


class TokenInput(Input):
    """A token for this API to create."""

    name: str = Field(min_length=1, max_length=80)
    role: Literal["viewer", "operator", "admin"] = Field("viewer", description="at most your own")
