"""How many bytes a quantised module takes, in the layout vLLM 0.29 allocates it in. Pure.

A `Scheme` is one format (bits, scales, groups); `Quantization` says which modules of a model have which.
Reading a config's section is `quantization_reading`'s, matching names `quantization_exclusions`'s.
Sources: `create_weights` of the classes in vllm/model_executor/layers/quantization.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import gcd
from typing import Literal

from serving.planner.layers import Experts, Linear

Scales = Literal["none", "tensor", "channel", "block", "group"]

FLOAT32 = 4
INT32 = 4
SMALLEST_BLOCK = 32


@dataclass(frozen=True)
class Scheme:
    """One weight format.

    `bits` per weight; `scale_bytes` per scale; `group_size` along the inputs for "group" (-1: one group);
    `block` is (outputs, inputs) for "block". `zero_point_bits` per group and output. `has_group_index`: an
    int32 per input row (GPTQ). `tensor_scales`: further float32 scales per fused partition (static inputs,
    NVFP4's global scales). `per_module_bytes`: small constants, as a stored shape.
    """

    name: str
    bits: int
    scales: Scales = "none"
    scale_bytes: int = FLOAT32
    group_size: int = -1
    block: tuple[int, int] = (128, 128)
    zero_point_bits: int = 0
    has_group_index: bool = False
    has_expert_group_index: bool = False
    tensor_scales: int = 0
    per_module_bytes: int = 0
    repeats_row_scales: bool = False
    """Scales of all input groups on every rank: GPTQ with reordered activations, or one group per row."""
    refines_blocks: bool = True
    """Whether experts that a rank does not hold in whole blocks get finer ones."""

    def linear_bytes(self, linear: Linear, dtype_bytes: int) -> int:
        """Bytes of one linear module on one rank, its bias included."""
        element = linear.bytes_per_element or dtype_bytes
        bias = linear.width * element if linear.bias else 0
        if self.name == "none":
            return linear.inputs * linear.width * element + bias
        total = -(-linear.inputs * linear.width * self.bits // 8) + self.per_module_bytes
        total += self._scale_bytes(
            linear.inputs, linear.width, full_inputs=linear.full_inputs, partitions=len(linear.outputs)
        )
        total += INT32 * linear.inputs if self.has_group_index else 0
        return total + FLOAT32 * self.tensor_scales * len(linear.outputs) + bias

    def experts_bytes(self, experts: Experts, dtype_bytes: int) -> int:
        """Bytes of the routed experts of one layer on one rank."""
        up, hidden, inner = experts.shards * experts.intermediate, experts.hidden, experts.intermediate
        bias = (up + hidden) * dtype_bytes if experts.bias else 0
        if self.name == "none":
            return experts.count * ((up + inner) * hidden * dtype_bytes + bias)
        each = -(-(up + inner) * hidden * self.bits // 8)
        if self.scales == "block":
            rows, columns = self._expert_block(experts)
            each += self.scale_bytes * experts.shards * -(-inner // rows) * -(-hidden // columns)
            each += self.scale_bytes * -(-hidden // rows) * -(-inner // columns)
        else:
            each += self._scale_bytes(hidden, up, full_inputs=hidden, partitions=experts.shards)
            each += self._scale_bytes(inner, hidden, full_inputs=experts.full_intermediate, partitions=1)
        if self.has_expert_group_index:
            each += 2 * INT32 * (hidden + inner)
        each += FLOAT32 * self.tensor_scales * (experts.shards + 1)
        return experts.count * (each + bias)

    def _expert_block(self, experts: Experts) -> tuple[int, int]:
        """Blocks that a rank does not hold whole are refined, down to 32 (refine_fp8_moe_block_shape)."""
        rows, columns = self.block
        inner = experts.intermediate
        if not self.refines_blocks or (inner % rows == 0 and inner % columns == 0):
            return rows, columns
        refined = gcd(rows, columns, inner, experts.hidden)
        return (refined, refined) if refined >= SMALLEST_BLOCK else (rows, columns)

    def _scale_bytes(self, inputs: int, outputs: int, *, full_inputs: int, partitions: int) -> int:
        if self.scales == "tensor":
            return self.scale_bytes * partitions
        if self.scales == "channel":
            return self.scale_bytes * outputs
        if self.scales == "block":
            rows, columns = self.block
            return self.scale_bytes * -(-outputs // rows) * -(-inputs // columns)
        if self.scales == "group":
            size = full_inputs if self.group_size == -1 else self.group_size
            repeated = self.repeats_row_scales or self.group_size == -1
            groups = max(1, (full_inputs if repeated else inputs) // max(1, size))
            return groups * (self.scale_bytes * outputs + -(-outputs * self.zero_point_bits // 8))
        return 0


UNQUANTIZED = Scheme("none", bits=16)


def fp8(
    scales: Scales, *, block: tuple[int, int] = (128, 128), static_inputs: bool = False, scale_bytes: int = 4
) -> Scheme:
    """8-bit floating point weights with scales per tensor, output channel or block."""
    return Scheme(
        f"fp8 per {scales}", 8, scales, scale_bytes=scale_bytes, block=block, tensor_scales=int(static_inputs)
    )


def awq(*, bits: int, group_size: int) -> Scheme:
    """AWQ: packed weights, 16-bit scales and packed zero points per group."""
    return Scheme("awq", bits, "group", scale_bytes=2, group_size=group_size, zero_point_bits=bits)


def gptq(*, bits: int, group_size: int, reorders: bool) -> Scheme:
    """GPTQ: as AWQ, with an int32 group index per input row."""
    return Scheme(
        "gptq",
        bits,
        "group",
        scale_bytes=2,
        group_size=group_size,
        zero_point_bits=bits,
        has_group_index=True,
        has_expert_group_index=True,
        repeats_row_scales=reorders,
    )


def packed(*, bits: int, group_size: int, symmetric: bool, reorders: bool) -> Scheme:
    """compressed-tensors weights packed into int32 (w4a16, w8a16), scales per group or channel."""
    return Scheme(
        f"w{bits}a16",
        bits,
        "group",
        scale_bytes=2,
        group_size=group_size,
        zero_point_bits=0 if symmetric else bits,
        has_group_index=reorders,
        has_expert_group_index=True,
        per_module_bytes=16,
        repeats_row_scales=reorders,
    )


def nvfp4(*, group_size: int = 16, static_inputs: bool = True) -> Scheme:
    """NVIDIA FP4: an FP8 scale per 16 weights and float32 global scales."""
    return Scheme(
        "nvfp4", 4, "group", scale_bytes=1, group_size=group_size, tensor_scales=2 if static_inputs else 1
    )


def mx(bits: int) -> Scheme:
    """Microscaling MXFP4 or MXFP8: one byte of exponent per 32 weights."""
    return Scheme(f"mxfp{bits}", bits, "group", scale_bytes=1, group_size=32)
