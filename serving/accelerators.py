"""The accelerator catalogue shipped with the project (serving/data/accelerators.json, with sources). Pure.

Names are Ray's `accelerator_type`. Prices in the file are list prices of a date and only ever defaults.
"""

import json
from functools import cache
from pathlib import Path
from typing import Any

CATALOGUE_FILE = Path(__file__).parent / "data" / "accelerators.json"
GIB = 1 << 30


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
    entry = catalogue().get(accelerator_type)
    if entry is None:
        return None
    variants = {variant["name"]: variant for variant in entry["variants"]}
    variant = variants.get(entry.get("default_variant", "")) or entry["variants"][0]
    usable_gib = variant.get("usable_gib") or variant.get("memory_gb")
    return int(usable_gib * GIB) if usable_gib else None
