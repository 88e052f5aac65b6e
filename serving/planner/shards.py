"""Reads the headers of the weight files that an index names, where they lie beside it; never a weight.

Bounded like serving/checkpoint.py: in bytes, in time, and no file outside the index's folder. A header that
lies is bad input with the file's name.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from serving.bounded_json import Unreadable
from serving.planner.request import BadPlanInput
from serving.tensor_headers import Tensor, read_header

FILES_AT_MOST = 5_000
READ_LIMIT_BYTES = 24_000_000
"""A parsed header takes several times its size in memory."""
PATIENCE_S = 1.0


@dataclass(frozen=True)
class Shards:
    """Every tensor of all files, with their bytes together."""

    tensors: tuple[Tensor, ...]
    total_bytes: int


def read_shards(folder: Path, names: Iterable[str]) -> Shards | None:
    """The headers of all files; None where one is absent, too long, or time ran out before all were read.

    Raises BadPlanInput for a file that is there and is no safetensors file.
    """
    wanted = sorted(set(names))
    if len(wanted) > FILES_AT_MOST:
        raise BadPlanInput(f"The index names {len(wanted):,} files.", field="safetensors_index:weight_map")
    tensors: list[Tensor] = []
    left, whole, total, deadline = READ_LIMIT_BYTES, True, 0, time.monotonic() + PATIENCE_S
    for name in wanted:
        if left <= 0 or time.monotonic() > deadline:
            return None
        path = folder / name
        if not path.exists():
            whole = False
            continue
        try:
            header = read_header(path)
        except Unreadable as error:
            raise BadPlanInput(f"{name[:100]} {error}.", field=f"safetensors_index:{name[:100]}") from None
        left -= header.header_bytes
        whole &= header.was_read
        total += header.data_bytes
        tensors += header.tensors
    return Shards(tuple(tensors), total) if whole else None
