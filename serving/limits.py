"""What a key or a deployment may use, validated: the rules shared by page, API, database and renderer. Pure.

The gateway enforces them (serving/cluster/limits.py). Every limit is optional; null is "no limit". Days and
months are those of UTC.
"""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, field_validator, model_validator

from serving.spec import DeploymentName

REQUESTS_PER_MINUTE_MAX = 1_000_000
TOKENS_PER_MINUTE_MAX = 1_000_000_000
REQUESTS_IN_FLIGHT_MAX = 100_000
BUDGET_USD_MAX = Decimal(100_000_000)
DEPLOYMENTS_MAX = 200


class DeploymentLimits(BaseModel):
    """Limits of all callers of a deployment together."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    requests_per_minute: int | None = Field(
        None, ge=1, le=REQUESTS_PER_MINUTE_MAX, description="requests admitted in any 60 s"
    )
    tokens_per_minute: int | None = Field(
        None,
        ge=1,
        le=TOKENS_PER_MINUTE_MAX,
        description="tokens of prompts and answers that ended in the last 60 s",
    )
    requests_in_flight: int | None = Field(
        None, ge=1, le=REQUESTS_IN_FLIGHT_MAX, description="requests taken and not ended"
    )
    budget_usd_per_day: Decimal | None = Field(
        None, ge=0, le=BUDGET_USD_MAX, max_digits=15, decimal_places=6, description="US dollars per day, UTC"
    )
    budget_usd_per_month: Decimal | None = Field(
        None,
        ge=0,
        le=BUDGET_USD_MAX,
        max_digits=15,
        decimal_places=6,
        description="US dollars per calendar month, UTC",
    )

    @model_validator(mode="after")
    def _consistent(self) -> DeploymentLimits:
        day, month = self.budget_usd_per_day, self.budget_usd_per_month
        if day is not None and month is not None and day > month:
            raise ValueError(
                f"budget_usd_per_day ({day}) is more than budget_usd_per_month ({month}): it would never act"
            )
        return self

    def stored(self) -> dict[str, Any]:
        """As JSON without what is not limited; equal limits, equal JSON."""
        return self.model_dump(mode="json", exclude_none=True)

    def for_gateway(self) -> dict[str, Any]:
        """As the gateway reads them (serving/cluster/limit_values.py)."""
        return self.stored()


class KeyLimits(DeploymentLimits):
    """Limits of one key, with what it may ask and until when."""

    deployments: list[DeploymentName] | None = Field(
        None, min_length=1, max_length=DEPLOYMENTS_MAX, description="the only ones it may ask; null is all"
    )
    expires_at: AwareDatetime | None = Field(None, description="from then on it is refused")

    @field_validator("deployments")
    @classmethod
    def _each_once(cls, value: list[str] | None) -> list[str] | None:
        return None if value is None else sorted(set(value))

    @field_validator("expires_at")
    @classmethod
    def _in_utc(cls, value: datetime | None) -> datetime | None:
        return None if value is None else value.astimezone(UTC)

    def for_gateway(self) -> dict[str, Any]:
        """The same with the end as epoch seconds."""
        found = self.stored()
        if self.expires_at is not None:
            found["expires_at"] = self.expires_at.timestamp()
        return found
