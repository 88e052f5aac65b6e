"""Bodies and answers of /accelerators. Types and descriptions for the OpenAPI document; the rules are in
console/actions/accelerator_values.py."""

from __future__ import annotations

import re
from datetime import date, datetime
from decimal import Decimal
from typing import Annotated, Any, Literal

from ninja import Schema
from pydantic import BeforeValidator, Field

from console.api.inputs import EXPECTED_VERSION, LARGEST_VERSION, Input
from console.api.outputs import Money

ORIGIN = "yours, cluster (seen there), shipped, assumed, or empty when it is not known"


def _as_day(value: Any) -> Any:
    # A bare number would be taken for a time since 1970.
    if not isinstance(value, str) or not re.fullmatch(r"\d{4}-\d{2}-\d{2}", value):
        raise ValueError("Give a day such as 2026-12-01")
    return value


Day = Annotated[date, BeforeValidator(_as_day), Field(description="a day, UTC, such as 2026-12-01")]
Gigabytes = Annotated[float | None, Field(description="GB/s (1e9 bytes) of one accelerator, one way")]
Teraflops = Annotated[float | None, Field(description="dense peak, TFLOP/s")]


class SpecificationInput(Input):
    """What operators say of a type; null or empty text leaves what is shipped."""

    vendor: str | None = Field(None, max_length=40)
    variant: str | None = Field(None, max_length=60, description="one of `variants` for a shipped type")
    usable_bytes: int | None = Field(None, description="memory that the driver reports for one accelerator")
    memory_bandwidth_gb_per_s: float | None = Field(None, description="GB/s (1e9 bytes)")
    tflops_16bit: Teraflops = None
    tflops_fp8: Teraflops = None
    tflops_fp4: Teraflops = None
    intra_node_gb_per_s: Gigabytes = None
    inter_node_gb_per_s: Gigabytes = None
    compute_capability: str | None = Field(None, max_length=8, description="NVIDIA's, such as 9.0")
    accelerators_per_node: int | None = None
    source: str | None = Field(None, max_length=300, description="where these figures are from")
    supply: Literal["owned", "rented", ""] | None = Field(None, description="empty: not said")
    note: str | None = Field(None, max_length=500)


class AcceleratorInput(SpecificationInput):
    """A type to add; `usable_bytes` is needed to plan with it."""

    name: str = Field(max_length=60, description="as Ray reports it: deployments ask for it by this name")


class AcceleratorChange(SpecificationInput):
    """What to change of a type; what is left out stays, null returns to what is shipped."""

    expected_version: int | None = Field(None, ge=1, le=LARGEST_VERSION, description=EXPECTED_VERSION)


class VersionInput(Input):
    """Which version was read."""

    expected_version: int | None = Field(None, ge=1, le=LARGEST_VERSION, description=EXPECTED_VERSION)


class PriceInput(Input):
    """A price from a day on. Earlier days keep theirs; a wrong entry is corrected by one for the same day."""

    usd_per_hour: Decimal = Field(
        ge=0, le=Decimal(100_000), max_digits=12, decimal_places=6, description="of one accelerator"
    )
    from_date: Day
    source: str = Field(min_length=1, max_length=300, description="contract, invoice or price page")


class FigureOut(Schema):
    """One number and where it is from."""

    value: int | float | None
    origin: str = Field(description=ORIGIN)
    shipped: int | float | None


class SpecificationOut(Schema):
    """Figures of one accelerator, in the units of their names; GB/s are 1e9 bytes, peaks are dense."""

    usable_bytes: FigureOut
    memory_bandwidth_gb_per_s: FigureOut
    tflops_16bit: FigureOut
    tflops_fp8: FigureOut
    tflops_fp4: FigureOut
    intra_node_gb_per_s: FigureOut
    inter_node_gb_per_s: FigureOut
    accelerators_per_node: FigureOut


class HeldPriceOut(Schema):
    """The price that holds today: entered here, or a shipped list price that stands in."""

    usd_per_hour: Money
    from_date: date | None = Field(description="null for a list price")
    dated: str = Field(description="what the shipped file says of a list price's age")
    source: str
    is_list_price: bool


class PriceOut(Schema):
    """A price that was entered here."""

    id: int
    usd_per_hour: Money
    from_date: date
    source: str
    author: str
    created_at: datetime
    state: str = Field(description="now (it holds), coming, past, or corrected by a later entry of its day")


class NodeOut(Schema):
    """A node that has the type, as last seen."""

    name: str
    count: int
    claimed: int
    alive: bool
    memory_bytes: int | None


class AcceleratorOut(Schema):
    """A type: what the cluster has of it, what it can do, what it costs today."""

    name: str
    vendor: str
    variant: str
    variants: list[str]
    compute_capability: str
    specification: SpecificationOut
    supply: str
    note: str
    source: str
    is_shipped: bool
    is_changed: bool
    can_be_planned_with: bool = Field(description="false while its memory is not known")
    detected: int = Field(description="on the cluster's live nodes")
    nodes: list[NodeOut]
    used_by: list[str]
    price: HeldPriceOut | None
    coming_prices: list[PriceOut]
    version: int
