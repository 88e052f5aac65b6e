"""The accelerator catalogue shipped with the project (serving/data/accelerators.json, with sources). Pure.

Names are Ray's `accelerator_type`; they are matched without regard to case, spaces and hyphens. Figures leave
here in SI units as `serving.planner.request.Accelerator` says; what the file does not know stays None. Prices
in the file are list prices of a date and only ever defaults. Must not know the operator's own catalogue.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Any

from serving.accelerator_prices import ListPrice, default_price, list_prices
from serving.planner.request import Accelerator

CATALOGUE_FILE = Path(__file__).parent / "data" / "accelerators.json"
GIB = 1 << 30
GIGA = 1e9
TERA = 1e12
NAME = re.compile(r"^[A-Za-z0-9]([A-Za-z0-9._-]{0,58}[A-Za-z0-9])?$")
NAME_HELP = "1 to 60 letters, digits, dots, hyphens and underscores, as Ray reports it, such as H100"
SIZE_LABELS = {"A100-40G": ("A100", "A100-SXM4-40GB"), "A100-80G": ("A100", "A100-SXM4-80GB")}
"""Ray's labels that name a size, which somebody has to put on the nodes by hand -> (type, variant)."""


@dataclass(frozen=True)
class Known:
    """What a name stands for: the type as Ray calls it, its catalogue entry and one variant of it, which is
    the default one unless `is_chosen`."""

    name: str
    entry_name: str
    variant: str
    is_chosen: bool = False


@cache
def catalogue() -> dict[str, dict[str, Any]]:
    """Ray's accelerator type -> its entry: vendor, variants with memory, bandwidth, prices, sources."""
    entries = json.loads(CATALOGUE_FILE.read_text())["accelerators"]
    return {entry["ray_accelerator_type"]: entry for entry in entries}


def accelerator_types() -> list[str]:
    """All known type names, in the catalogue's order."""
    return list(catalogue())


def usable_bytes(accelerator_type: str) -> int | None:
    """Memory an engine can see on the type's default variant, bytes; None when it is not known."""
    known = find(accelerator_type)
    return _usable_bytes(shipped_variant(known)) if known else None


def find(name: str, variant: str | None = None) -> Known | None:
    """What `name` stands for, or None: a type (`H100`, `h100`), one of Ray's size labels (`A100-80G`,
    `A100-80GB`) or a variant's own name (`H100-PCIe-80GB`). `variant` chooses one of the type's variants by
    its name or a unique part of it (`PCIe`, `40GB`); None for a variant that the type does not have."""
    known = _names().get(_folded(name))
    if known is None or variant is None or not variant.strip():
        return known
    chosen = _variant_called(variant, variant_names(known.entry_name))
    return replace(known, variant=chosen, is_chosen=True) if chosen else None


def variant_names(name: str) -> list[str]:
    """Names of a type's variants, the default first; empty for an unknown type."""
    known = _names().get(_folded(name))
    if known is None:
        return []
    entry = catalogue()[known.entry_name]
    names = [variant["name"] for variant in entry["variants"]]
    return sorted(names, key=lambda each: each != entry["default_variant"])


def shipped_variant(known: Known) -> dict[str, Any]:
    """The variant's figures as the file has them (GB, GB/s, TFLOP/s), with their source."""
    variants = catalogue()[known.entry_name]["variants"]
    return next(variant for variant in variants if variant["name"] == known.variant)


@cache
def shipped_prices(known: Known) -> tuple[ListPrice, ...]:
    """Every list price of the type, of all its variants."""
    return list_prices(catalogue()[known.entry_name]["prices"])


def accelerator(
    name: str, variant: str | None = None, overrides: Mapping[str, Any] | None = None
) -> Accelerator | None:
    """The accelerator called `name` for the planner, or None when it is not known (see `unknown_message`).

    `variant` as in `find`. `overrides` replaces fields of Accelerator, in its units; with `usable_bytes`
    among them a name that the catalogue lacks is a type of its own. TypeError for a field that is none.
    """
    given = dict(overrides or {})
    known = find(name, variant)
    if known is not None:
        return replace(_shipped(known), **given)
    if given.get("usable_bytes") is None or (variant and _folded(name) in _names()):
        return None
    return Accelerator(name=name, variant=variant or "", **given)


def suggestions(name: str, count: int = 3) -> list[str]:
    """Known names that look like `name`, likeliest first."""
    folded = _folded(name)
    by_folded = {_folded(each): each for each in (*accelerator_types(), *SIZE_LABELS)}
    parts = [each for key, each in by_folded.items() if len(folded) > 2 and (folded in key or key in folded)]
    close = [by_folded[key] for key in get_close_matches(folded, by_folded, n=count, cutoff=0.6)]
    return list(dict.fromkeys([*parts, *close]))[:count]


def unknown_message(name: str, variant: str | None = None) -> str:
    """Why `accelerator` gave None, with what may have been meant."""
    shown = name.strip()[:60]
    known = find(name)
    if known is not None and variant:
        return f"{known.name} has no variant “{variant.strip()[:60]}”; it has {_listed(variant_names(name))}."
    likely = suggestions(name)
    if likely:
        return f"There is no accelerator “{shown}” in the catalogue. Did you mean {_listed(likely)}?"
    return f"There is no accelerator “{shown}” in the catalogue; names are Ray's, such as H100 or A100-80G."


@cache
def _shipped(known: Known) -> Accelerator:
    entry, figures = catalogue()[known.entry_name], shipped_variant(known)
    price = default_price(shipped_prices(known), variant=known.variant)
    return Accelerator(
        name=known.name,
        variant=known.variant,
        vendor=entry["vendor"],
        usable_bytes=_usable_bytes(figures),
        memory_bandwidth_bytes_per_s=_scaled(figures.get("mem_bw_gbs"), GIGA),
        # Cards from before bfloat16 give their float16 peak, which is what vLLM then computes in.
        flops_16bit=_scaled(figures.get("bf16_tflops") or figures.get("fp16_tflops"), TERA),
        flops_fp8=_scaled(figures.get("fp8_tflops"), TERA),
        flops_fp4=_scaled(figures.get("fp4_tflops"), TERA),
        intra_node_bytes_per_s=_scaled(figures.get("intra_node_gbs_oneway"), GIGA),
        inter_node_bytes_per_s=_scaled(figures.get("inter_node_gbs_oneway"), GIGA),
        compute_capability=capability(entry.get("compute_capability", "")),
        accelerators_per_node=entry.get("accelerators_per_node", 8),
        free_at_start_bytes={
            int(size.removeprefix("tp")): int(free_gib * GIB)
            for size, free_gib in figures.get("free_at_start_gib", {}).items()
        },
        usd_per_hour=price.usd_per_hour if price else None,
        price_note=price.note if price else "",
    )


def capability(text: str) -> tuple[int, int] | None:
    """CUDA's compute capability: "9.0" -> (9, 0); None for no such text."""
    found = re.fullmatch(r"(\d{1,2})\.(\d)", text)
    return (int(found[1]), int(found[2])) if found else None


def _usable_bytes(figures: Mapping[str, Any]) -> int:
    """What the driver reports; where that is not known the nominal size in 1e9 bytes, which no card's driver
    falls short of, so that a plan errs on the side of not fitting."""
    usable_gib = figures.get("usable_gib")
    return int(usable_gib * GIB) if usable_gib else int(figures["memory_gb"] * GIGA)


def _scaled(value: float | None, unit: float) -> float | None:
    return None if value is None else value * unit


@cache
def _names() -> dict[str, Known]:
    """Folded name -> what it stands for; types win over labels, labels over variants."""
    known: dict[str, Known] = {}
    for name, entry in catalogue().items():
        known[_folded(name)] = Known(name, name, entry["default_variant"])
    for label, (name, variant) in SIZE_LABELS.items():
        for spelt in (label, f"{label}B"):
            known.setdefault(_folded(spelt), Known(label, name, variant))
    for name, entry in catalogue().items():
        for variant in entry["variants"]:
            known.setdefault(_folded(variant["name"]), Known(name, name, variant["name"], is_chosen=True))
    return known


def _variant_called(wanted: str, names: list[str]) -> str | None:
    """The one of `names` that is `wanted`, or the first (the default comes first) that holds it as a part."""
    folded = _folded(wanted)
    exact = [name for name in names if _folded(name) == folded]
    partly = [name for name in names if folded in _folded(name)]
    return next(iter([*exact, *partly]), None)


def _folded(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _listed(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} or {names[-1]}"
