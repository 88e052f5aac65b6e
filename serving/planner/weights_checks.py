"""Whether a quantised module can be split the way a topology asks: groups and blocks must stay whole. Pure.

Sources: validate_fp8_block_shape and refine_fp8_moe_block_shape, verify_group_size_divides_partition and the
create_weights of AWQ, GPTQ and compressed-tensors in vLLM 0.29. Problems are noted on the rank.
"""

from __future__ import annotations

from math import gcd

from serving.planner.layers import Experts, Linear, Rank
from serving.planner.quantization import SMALLEST_BLOCK, Scheme

FIELD = "quantization_config"


def check_linear(linear: Linear, scheme: Scheme, rank: Rank) -> None:
    """Note where one linear module's share holds broken groups or blocks."""
    if scheme.scales == "group" and scheme.group_size > 0:
        if linear.inputs % scheme.group_size and not scheme.repeats_row_scales:
            _refuse(rank, linear.name, "inputs", linear.inputs, f"the group size {scheme.group_size}")
    elif scheme.scales == "block":
        _check_blocks(linear, scheme.block, rank)


def _check_blocks(linear: Linear, block: tuple[int, int], rank: Rank) -> None:
    rows, columns = block
    splits_inputs = linear.inputs != linear.full_inputs
    if splits_inputs and linear.inputs % columns:
        _refuse(rank, linear.name, "inputs", linear.inputs, f"the block's {columns} columns")
    splits_outputs = rank.tensor_parallel > 1 and linear.is_split and not splits_inputs
    checked = linear.outputs if splits_outputs else linear.outputs[:-1]
    for size in checked:
        if size % rows:
            _refuse(rank, linear.name, "outputs", size, f"the block's {rows} rows")


def check_experts(experts: Experts, scheme: Scheme, rank: Rank) -> None:
    """Note where a rank's share of every expert holds broken groups or blocks that cannot be refined."""
    share = experts.intermediate
    if scheme.scales == "block":
        rows, columns = scheme.block
        whole = share % rows == 0 and (rank.tensor_parallel == 1 or share % columns == 0)
        if not whole and not scheme.refines_blocks:
            _refuse(rank, experts.name, "channels", share, f"blocks of {rows} × {columns}")
        elif not whole and gcd(rows, columns, share, experts.hidden) < SMALLEST_BLOCK:
            finer = f"blocks of {rows} × {columns}, nor finer ones from {SMALLEST_BLOCK} on"
            _refuse(rank, experts.name, "channels", share, finer)
    elif scheme.scales == "group" and scheme.group_size > 0 and scheme.name != "mxfp4":
        is_split = share != experts.full_intermediate and not scheme.repeats_row_scales
        if is_split and share % scheme.group_size:
            _refuse(rank, experts.name, "channels", share, f"the group size {scheme.group_size}")


def _refuse(rank: Rank, name: str, what: str, size: int, divisor: str) -> None:
    rank.refuse(
        FIELD,
        f"{name} has {size:,} {what} per rank at tensor parallel {rank.tensor_parallel}, "
        f"no multiple of {divisor} of its quantisation.",
    )
