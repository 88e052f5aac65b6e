"""A specification put together from the shipped figures and an operator's row, each with where it is from.

Pure but for reading a row's columns: no queries here. Columns have the units of data sheets (GB/s, TFLOP/s),
the planner's Accelerator has SI units.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from console.models import CatalogueAccelerator
from serving.accelerators import accelerator, capability, catalogue, find
from serving.planner.request import Accelerator

FIGURES: dict[str, tuple[str, float]] = {
    "usable_bytes": ("usable_bytes", 1),
    "memory_bandwidth_gb_per_s": ("memory_bandwidth_bytes_per_s", 1e9),
    "tflops_16bit": ("flops_16bit", 1e12),
    "tflops_fp8": ("flops_fp8", 1e12),
    "tflops_fp4": ("flops_fp4", 1e12),
    "intra_node_gb_per_s": ("intra_node_bytes_per_s", 1e9),
    "inter_node_gb_per_s": ("inter_node_bytes_per_s", 1e9),
    "accelerators_per_node": ("accelerators_per_node", 1),
}
"""Column of CatalogueAccelerator -> (field of Accelerator, the column's unit in the field's)."""

USUAL_PER_NODE = 8


@dataclass(frozen=True)
class Figure:
    """One number of a specification in its column's unit. `origin` is yours (entered here), cluster (seen
    there), shipped, assumed (nobody said) or empty; `shipped` is what comes with Raydeck."""

    value: float | None
    origin: str
    shipped: float | None = None


def shipped_accelerator(name: str, row: CatalogueAccelerator | None) -> Accelerator | None:
    """The shipped figures of the variant the operator chose, or of the default one; None for a type that is
    not shipped under this name."""
    known = find(name)
    if known is None or known.name != name:
        return None
    return (accelerator(name, row.variant) if row and row.variant else None) or accelerator(name)


def figures_of(
    row: CatalogueAccelerator | None, shipped: Accelerator | None, *, most_on_a_node: int = 0
) -> dict[str, Figure]:
    """Column -> figure. `most_on_a_node` is the largest number that one live node has, 0 for none."""
    figures = {column: _figure(column, row, shipped) for column in FIGURES}
    per_node = figures["accelerators_per_node"]
    if per_node.origin == "yours":
        return figures
    # What stands in the racks says more than what such machines usually have.
    if most_on_a_node:
        return {**figures, "accelerators_per_node": replace(per_node, value=most_on_a_node, origin="cluster")}
    says = shipped is not None and "accelerators_per_node" in catalogue().get(shipped.name, {})
    if not says:
        assumed = Figure(USUAL_PER_NODE, "assumed", per_node.shipped)
        return {**figures, "accelerators_per_node": assumed}
    return figures


def accelerator_for_planner(
    name: str,
    *,
    row: CatalogueAccelerator | None,
    shipped: Accelerator | None,
    figures: Mapping[str, Figure],
) -> Accelerator | None:
    """The type in the planner's units, without a price; None while its memory is not known."""
    if figures["usable_bytes"].value is None:
        return None
    values: dict[str, Any] = {}
    for column, (target, unit) in FIGURES.items():
        value = figures[column].value
        values[target] = value if value is None or unit == 1 else value * unit
    per_node = figures["accelerators_per_node"]
    if per_node.origin == "cluster":
        # Plans are also for nodes that could be had; whether those there now have room is said beside them.
        usual = max(per_node.value or 0, per_node.shipped or USUAL_PER_NODE)
        values["accelerators_per_node"] = int(usual)
    values["compute_capability"] = capability(capability_text(row, shipped))
    values["usd_per_hour"], values["price_note"] = None, ""
    if row and row.vendor:
        values["vendor"] = row.vendor
    if shipped is None:
        return Accelerator(name=name, variant=row.variant if row else "", **values)
    if figures["usable_bytes"].origin == "yours":
        values["free_at_start_bytes"] = {}  # measured on cards with another total
    return replace(shipped, **values)


def capability_text(row: CatalogueAccelerator | None, shipped: Accelerator | None) -> str:
    """CUDA's compute capability, such as 9.0; empty when it is not known."""
    if row and row.compute_capability:
        return row.compute_capability
    pair = shipped.compute_capability if shipped else None
    return f"{pair[0]}.{pair[1]}" if pair else ""


def _figure(column: str, row: CatalogueAccelerator | None, shipped: Accelerator | None) -> Figure:
    name, unit = FIGURES[column]
    own = getattr(row, column) if row else None
    given = getattr(shipped, name) if shipped else None
    base = given if given is None or unit == 1 else given / unit
    if own is not None:
        return Figure(own, "yours", base)
    return Figure(base, "shipped" if base is not None else "", base)
