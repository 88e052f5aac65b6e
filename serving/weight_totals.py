"""Adds up what the headers of a model's weight files declare: exact bytes, parameters, types. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from serving.tensor_headers import ShardHeader, Tensor

ONLY_FOR_DEQUANTIZING = frozenset({
    "qzeros", "scales", "g_idx", "weight_scale", "weight_zero_point", "weight_g_idx", "weight_shape",
    "weight_scale_inv", "weight_scale_2", "weight_global_scale", "input_scale", "input_global_scale",
    "k_scale", "v_scale",
})  # fmt: skip
"""Names' last parts of tensors that hold no weights (GPTQ, AWQ, compressed-tensors, FP8)."""
CONTAINER_BITS = {"I32": 32, "U8": 8, "I8": 8}


@dataclass
class WeightTotals:
    """Running sums. `packed_bits`: bits of a packed weight as config.json says, when it does."""

    packed_bits: int | None
    bytes_by_dtype: dict[str, int] = field(default_factory=dict)
    parameters: int = 0
    weight_bytes: int = 0
    tensor_count: int = 0
    packed: bool = False
    unpacked: bool = True
    unread_files: int = 0
    broken: bool = False
    tensors: list[Tensor] = field(default_factory=list)

    def add(self, header: ShardHeader) -> None:
        """Count one file."""
        if not header.was_read:
            self.add_unread(header.data_bytes)
            return
        self.weight_bytes += header.data_bytes
        for tensor in header.tensors:
            self.tensor_count += 1
            self.tensors.append(tensor)
            self.bytes_by_dtype[tensor.dtype] = self.bytes_by_dtype.get(tensor.dtype, 0) + tensor.size_bytes
            self.parameters += self._parameters_of(tensor)

    def add_unread(self, size_bytes: int) -> None:
        """Count a file whose header was not read by its size alone."""
        self.unread_files += 1
        self.weight_bytes += size_bytes

    def facts(self, *, files: int) -> dict[str, Any]:
        """The sums as facts; None where a file was broken or not read.

        `parameters_are_packed`: several weights share a number and it is not known how many, so
        `parameters` counts the numbers.
        """
        known = files > 0 and not self.broken
        complete = known and not self.unread_files
        return {
            "parameters": self.parameters if complete else None,
            "parameters_are_packed": self.packed and not self.unpacked,
            "weight_bytes": self.weight_bytes if known else None,
            "weight_bytes_by_dtype": self.bytes_by_dtype if complete else {},
            "tensor_count": self.tensor_count if complete else None,
            "file_count": files,
        }

    def _parameters_of(self, tensor: Tensor) -> int:
        last = tensor.name.rsplit(".", 1)[-1]
        if last in ONLY_FOR_DEQUANTIZING or last.endswith("_scales"):
            return 0
        container_bits = CONTAINER_BITS.get(tensor.dtype)
        if container_bits is None:
            return tensor.elements
        # MXFP4 as in gpt-oss: always two 4-bit weights to a byte.
        if last.endswith("_blocks"):
            return self._unpacked(tensor, container_bits=container_bits, bits=4)
        if last in ("qweight", "weight_packed"):
            return self._unpacked(tensor, container_bits=container_bits, bits=self.packed_bits)
        return tensor.elements

    def _unpacked(self, tensor: Tensor, *, container_bits: int, bits: int | None) -> int:
        self.packed = True
        if bits is None:
            self.unpacked = False
            return tensor.elements
        return tensor.elements * container_bits // bits
