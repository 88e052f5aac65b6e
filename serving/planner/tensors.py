"""A checkpoint's tensors, summed up: those that differ only in the numbers of their names make one group.

A model of 60,000 tensors becomes some hundred groups, small enough to be stored beside it. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from serving.planner.architecture_fields import shown, whole_number
from serving.planner.request import BadPlanInput, TensorGroup

NUMBER = re.compile(r"(?<=\.)\d+(?=\.)")
GROUP_LIMIT = 20_000
"""More kinds of names than that are no model's; nothing is said of the tensors then."""
INDEX_LIMIT = 4_000
NAME_LIMIT_CHARACTERS = 300
LARGEST_CHECKPOINT = 1 << 44
"""Bytes: some ten times the largest model that anybody published."""
METADATA_FIELD = "safetensors_index:metadata"
MAP_FIELD = "safetensors_index:weight_map"

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


def group_index(index: Mapping[str, Any]) -> tuple[TensorGroup, ...]:
    """The groups of a model.safetensors.index.json, which knows names but neither types nor sizes.

    Raises BadPlanInput where its weight_map is none.
    """
    groups = group_tensors((name, "", None, 0) for name in weight_map(index))
    if groups is None:
        raise BadPlanInput("The names of its tensors are too diverse for a model's.", field=MAP_FIELD)
    return groups


def weight_map(index: Mapping[str, Any]) -> dict[str, str]:
    """Tensor -> the file beside the index that holds it. Raises BadPlanInput for anything else."""
    names = index.get("weight_map")
    if not isinstance(names, dict) or not names:
        raise BadPlanInput("The index has no weight_map, so it names no tensors.", field=MAP_FIELD)
    for name, file in names.items():
        if not isinstance(file, str) or not is_plain_name(file):
            raise BadPlanInput(
                f"{shown(name)} must be in a file beside the index, not in {shown(file)}.", field=MAP_FIELD
            )
    return names


def total_size(index: Mapping[str, Any]) -> int | None:
    """Bytes of all tensors as the index's metadata states them; None when it states none.

    Raises BadPlanInput for a size that is none.
    """
    metadata = index.get("metadata")
    if metadata is None:
        return None
    if not isinstance(metadata, dict):
        raise BadPlanInput(f"metadata must be an object, not {shown(metadata)}.", field=METADATA_FIELD)
    size = metadata.get("total_size")
    if size is None:
        return None
    try:
        return whole_number(size, name="total_size", at_most=LARGEST_CHECKPOINT)
    except BadPlanInput as error:
        raise BadPlanInput(error.message, field=f"{METADATA_FIELD}.total_size") from None


def is_plain_name(name: str) -> bool:
    """Whether this can be a file in the same folder."""
    return 0 < len(name) <= 255 and "/" not in name and "\0" not in name and name not in (".", "..")


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
    """Which layers have it, where not all do or their numbers have holes."""
    is_whole = len(indices) == most and max(indices, default=-1) == most - 1
    return () if not indices or is_whole else tuple(sorted(indices))
