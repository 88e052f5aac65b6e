"""Reads the headers of safetensors files: names, types and shapes, never a weight.

Format: 8 bytes little-endian length N, then N bytes of JSON {name: {dtype, shape, data_offsets}}, then the
data; offsets count from the end of the header, without holes (github.com/huggingface/safetensors, "Format").
It must not trust anything it reads: every number is checked against the file's real size.
"""

from __future__ import annotations

import os
import stat
import struct
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any

from serving.bounded_json import Unreadable, parse_object

LENGTH_BYTES = 8
HEADER_LIMIT_BYTES = 100_000_000
"""The safetensors library refuses longer headers ("HeaderTooLarge")."""
HEADER_READ_LIMIT_BYTES = 8_000_000
"""Longer headers are legal but not read here: some 60,000 tensors in one file."""

DTYPE_BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8,
    "I16": 16, "U16": 16, "F16": 16, "BF16": 16,
    "I32": 32, "U32": 32, "F32": 32, "C64": 64, "F64": 64, "I64": 64, "U64": 64,
    "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6,
}  # fmt: skip


@dataclass
class Tensor:
    """One tensor as its header declares it."""

    name: str
    dtype: str
    elements: int
    size_bytes: int
    shape: tuple[int, ...] = ()


@dataclass
class ShardHeader:
    """What one safetensors file declares. `tensors` is empty when the header was too long to read."""

    header_bytes: int
    data_bytes: int
    tensors: list[Tensor] = field(default_factory=list)
    was_read: bool = True


def read_header(path: Path) -> ShardHeader:
    """The checked header of one file.

    Raises Unreadable, in words that name the safetensors error where that library has one for it.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except (OSError, ValueError) as error:
        raise Unreadable(
            f"cannot be opened: {getattr(error, 'strerror', None) or 'not a valid path'}"
        ) from None
    status = os.fstat(descriptor)
    # Before fdopen, which raises for a folder.
    if not stat.S_ISREG(status.st_mode):
        os.close(descriptor)
        raise Unreadable("is a folder" if stat.S_ISDIR(status.st_mode) else "is not a regular file")
    with os.fdopen(descriptor, "rb") as handle:
        try:
            header_bytes = _header_length(handle.read(LENGTH_BYTES), file_bytes=status.st_size)
            data_bytes = status.st_size - LENGTH_BYTES - header_bytes
            if header_bytes > HEADER_READ_LIMIT_BYTES:
                return ShardHeader(header_bytes=0, data_bytes=data_bytes, was_read=False)
            raw = handle.read(header_bytes)
        except OSError as error:
            raise Unreadable(f"cannot be read: {(error.strerror or 'input/output error').lower()}") from None
    return ShardHeader(
        header_bytes=header_bytes, data_bytes=data_bytes, tensors=_tensors(raw, data_bytes=data_bytes)
    )


def _header_length(raw: bytes, *, file_bytes: int) -> int:
    if len(raw) < LENGTH_BYTES:
        raise Unreadable(f"is {file_bytes} bytes long, too short for a safetensors header (HeaderTooSmall)")
    length = struct.unpack("<Q", raw)[0]
    if length > HEADER_LIMIT_BYTES:
        hint = "; this looks like a Git LFS pointer, not the weights" if raw == b"version " else ""
        raise Unreadable(f"declares a header of {length:,} bytes, over the limit (HeaderTooLarge){hint}")
    if length > file_bytes - LENGTH_BYTES:
        raise Unreadable(
            f"declares a header of {length:,} bytes but is only {file_bytes:,} bytes long "
            "(InvalidHeaderLength); the file is cut off or damaged"
        )
    return int(length)


def _tensors(raw: bytes, *, data_bytes: int) -> list[Tensor]:
    try:
        header = parse_object(raw)
    except Unreadable as error:
        raise Unreadable(f"has a header that {error} (InvalidHeaderDeserialization)") from None
    header.pop("__metadata__", None)
    spans: list[tuple[int, int]] = []
    tensors = []
    for name, entry in header.items():
        tensor, span = _tensor(name, entry)
        tensors.append(tensor)
        spans.append(span)
    _check_spans(sorted(spans), data_bytes=data_bytes)
    return tensors


def _tensor(name: str, entry: Any) -> tuple[Tensor, tuple[int, int]]:
    shown = name[:80]
    if not isinstance(entry, dict):
        raise Unreadable(f"has a header whose entry “{shown}” is no object (InvalidHeaderDeserialization)")
    dtype, shape, offsets = entry.get("dtype"), entry.get("shape"), entry.get("data_offsets")
    if not isinstance(dtype, str) or dtype not in DTYPE_BITS:
        raise Unreadable(f"gives tensor “{shown}” the unknown type {str(dtype)[:20]!r}")
    if not isinstance(shape, list) or not _are_sizes(shape, limit=16):
        raise Unreadable(f"gives tensor “{shown}” a shape that is no list of whole numbers")
    if not isinstance(offsets, list) or len(offsets) != 2 or not _are_sizes(offsets, limit=2):
        raise Unreadable(f"gives tensor “{shown}” offsets that are not two whole numbers")
    begin, end = offsets
    elements = prod(shape)
    if end < begin or elements * DTYPE_BITS[dtype] != (end - begin) * 8:
        raise Unreadable(
            f"gives tensor “{shown}” the shape {shape} of {dtype} but {end - begin:,} bytes "
            "(TensorInvalidInfo)"
        )
    return Tensor(name, dtype, elements, end - begin, tuple(shape)), (begin, end)


def _are_sizes(values: list[Any], *, limit: int) -> bool:
    """Whether these are few whole numbers below 2^62; more would be no size of anything."""
    return len(values) <= limit and all(type(number) is int and 0 <= number < 1 << 62 for number in values)


def _check_spans(spans: list[tuple[int, int]], *, data_bytes: int) -> None:
    position = 0
    for begin, end in spans:
        if begin != position:
            raise Unreadable("has a header whose tensors overlap or leave holes (InvalidOffset)")
        position = end
    if position > data_bytes:
        raise Unreadable(
            f"declares {position:,} bytes of weights but holds only {data_bytes:,} "
            "(MetadataIncompleteBuffer); the file is cut off: fetch it again"
        )
    if position < data_bytes:
        raise Unreadable(
            f"holds {data_bytes - position:,} bytes more than its header declares (MetadataIncompleteBuffer)"
        )
