"""Bodies that the API takes. Types and descriptions for the OpenAPI document; serving/spec.py has the rules.

Every body refuses unknown fields. Bounds repeat those of serving/spec.py; a test keeps the two equal.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Any, Literal

from ninja import Schema
from pydantic import ConfigDict, Field, JsonValue

from serving.spec import NAME_HELP

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


class EngineInput(Input):
    """The engine: a change of it is a new revision and starts new replicas."""

    accelerator_type: str | None = Field(None, description="Ray's name (H100, L4 …); null serves on CPU")
    tensor_parallel_size: int | None = Field(None, ge=1, le=64)
    pipeline_parallel_size: int | None = Field(None, ge=1, le=64)
    dtype: Literal["auto", "bfloat16", "float16", "float32"] | None = None
    max_model_len: int | None = Field(
        None, ge=16, le=16_777_216, description="context length in tokens; null is the model's maximum"
    )
    max_num_seqs: int | None = Field(None, ge=1, le=4096, description="requests worked on at once")
    kv_cache_memory_bytes: int | None = Field(
        None, ge=1 << 20, description="KV cache per rank; null lets it be computed or measured"
    )
    engine_kwargs: dict[str, JsonValue] | None = Field(None, description="further vLLM engine arguments")

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

    def given(self) -> dict[str, Any]:
        """The fields the caller gave. Null means "by default" where null is no value of its own."""
        values = self.model_dump(exclude_unset=True)
        return {
            name: value for name, value in values.items() if value is not None or name == "idle_before_zero_s"
        }


ACCEPT_FAULTY_FILES = "deploy although the registry found a fault in the model's files"


class DeploymentInput(Input):
    """A deployment to create."""

    name: str = Field(max_length=40, description=NAME_HELP)
    model: str = Field(max_length=63, description="name of a registered model")
    engine: EngineInput | None = None
    capacity: CapacityInput | None = None
    note: str = Field("", max_length=300)
    accept_faulty_files: bool = Field(False, description=ACCEPT_FAULTY_FILES)


class DeploymentChange(Input):
    """What to change of a deployment; what is left out stays."""

    expected_version: int | None = Field(None, ge=1, le=LARGEST_VERSION, description=EXPECTED_VERSION)
    model: str | None = Field(None, max_length=63, description="name of another registered model")
    engine: EngineInput | None = None
    capacity: CapacityInput | None = None
    note: str = Field("", max_length=300)
    accept_faulty_files: bool = Field(False, description=ACCEPT_FAULTY_FILES)


class RollbackInput(Input):
    """Which revision to return to."""

    revision: int = Field(ge=1, le=LARGEST_VERSION)
    expected_version: int | None = Field(None, ge=1, le=LARGEST_VERSION, description=EXPECTED_VERSION)


class KeyInput(Input):
    """A gateway key to create."""

    name: str = Field(min_length=1, max_length=80, description="who or what will use it")


class TokenInput(Input):
    """A token for this API to create."""

    name: str = Field(min_length=1, max_length=80)
    role: Literal["viewer", "operator", "admin"] = Field("viewer", description="at most your own")
