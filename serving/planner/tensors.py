"""A checkpoint's tensors, summed up: those that differ only in the numbers of their names make one group.

A model of 60,000 tensors becomes some hundred groups, small enough to be stored beside it. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from serving.planner.request import BadPlanInput, TensorGroup

NUMBER = re.compile(r"(?<=\.)\d+(?=\.)")
GROUP_LIMIT = 20_000
"""More kinds of names than that are no model's; nothing is said of the tensors then."""
INDEX_LIMIT = 4_000
NAME_LIMIT_CHARACTERS = 300

Named = tuple[str, str, tuple[int, ...] | None, int]
"""Name, dtype as safetensors writes it, shape and bytes; an index file gives the name alone ("", None, 0)."""


@dataclass
class _Growing:
    shape: tuple[int, ...] | None
    count: int = 0
    total_bytes: int = 0
    indices: set[int] = field(default_factory=set)


def group_tensors(tensors: Iterable[Named]) -> tuple[TensorGroup, ...] | None:
    """The groups, sorted by pattern; None when the names are too diverse to be a model's."""
    groups: dict[tuple[str, str], _Growing] = {}
    for name, dtype, shape, size_bytes in tensors:
        pattern = NUMBER.sub("*", name[:NAME_LIMIT_CHARACTERS])
        known = groups.get((pattern, dtype))
        if known is None:
            if len(groups) >= GROUP_LIMIT:
                return None
            known = groups[(pattern, dtype)] = _Growing(shape)
        known.shape = known.shape if known.shape == shape else None
        known.count += 1
        known.total_bytes += size_bytes
        first = NUMBER.search(name)
        if first is not None and len(first.group()) < 8 and len(known.indices) <= INDEX_LIMIT:
            known.indices.add(int(first.group()))
    most = max((len(known.indices) for known in groups.values()), default=0)
    return tuple(
        TensorGroup(pattern, dtype, known.shape, known.count, known.total_bytes, _told(known.indices, most))
        for (pattern, dtype), known in sorted(groups.items())
    )


def group_index(index: Mapping[str, Any]) -> tuple[TensorGroup, ...] | None:
    """The groups of a model.safetensors.index.json, which knows names but neither types nor sizes."""
    names = index.get("weight_map")
    if not isinstance(names, dict) or not names:
        raise BadPlanInput(
            "The index has no weight_map, so it names no tensors.", field="safetensors_index:weight_map"
        )
    return group_tensors((name, "", None, 0) for name in names)


def total_size(index: Mapping[str, Any]) -> int | None:
    """Bytes of all tensors as the index's metadata states them; None when it does not, or senselessly."""
    metadata = index.get("metadata")
    size = metadata.get("total_size") if isinstance(metadata, dict) else None
    if isinstance(size, float) and size.is_integer():
        size = int(size)
    return size if type(size) is int and 0 < size < 1 << 60 else None


def to_json(groups: tuple[TensorGroup, ...] | None) -> list[list[Any]] | None:
    """The groups as lists, for a JSON column; `from_json` reads them back."""
    if groups is None:
        return None
    return [[g.pattern, g.dtype, g.shape, g.count, g.total_bytes, list(g.indices)] for g in groups]


def from_json(stored: list[list[Any]] | None) -> tuple[TensorGroup, ...] | None:
    """The groups that `to_json` stored."""
    if stored is None:
        return None
    return tuple(
        TensorGroup(
            pattern, dtype, None if shape is None else tuple(shape), count, total_bytes, tuple(indices)
        )
        for pattern, dtype, shape, count, total_bytes, indices in stored
    )


def _told(indices: set[int], most: int) -> tuple[int, ...]:
    """Which layers have it, where not all do."""
    return tuple(sorted(indices)) if 0 < len(indices) < most else ()
