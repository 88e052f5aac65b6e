"""How MXFP4 experts are padded for the kernel that will run them. Pure.

Source: vllm/model_executor/layers/fused_moe/oracle/mxfp4.py (backends in their order of preference and
mxfp4_round_up_hidden_size_and_intermediate_size). On Hopper the Triton kernels pad the 4-bit values, not the
scales, once more when they lay them out anew after loading: measured on gpt-oss 20B and 120B.
"""

from __future__ import annotations

from dataclasses import replace

from serving.planner.layers import Experts
from serving.planner.quantization import Scheme

ROW = 256


def padded_experts(experts: Experts, scheme: Scheme, compute_capability: tuple[int, int] | None) -> Experts:
    """The experts with the sizes that the kernel for this accelerator allocates."""
    if scheme.name != "mxfp4":
        return experts
    hidden, intermediate = _multiples(compute_capability)
    return replace(
        experts,
        hidden=_up(experts.hidden, hidden),
        intermediate=_up(experts.intermediate, intermediate),
    )


def relayout_bytes(experts: Experts, scheme: Scheme, compute_capability: tuple[int, int] | None) -> int:
    """Bytes that Hopper's Triton layout adds to `experts` after loading: rows padded to 256 values."""
    if scheme.name != "mxfp4" or compute_capability is None or compute_capability[0] != 9:
        return 0
    rows = experts.shards * experts.intermediate * (_up(experts.hidden, ROW) - experts.hidden)
    rows += experts.hidden * (_up(experts.intermediate, ROW) - experts.intermediate)
    return experts.count * rows * scheme.bits // 8


def _multiples(compute_capability: tuple[int, int] | None) -> tuple[int, int]:
    """(multiple of the hidden size, multiple of the intermediate size)."""
    if compute_capability is None or compute_capability[0] == 9:
        return 1, 64  # Triton
    return 256, 128  # Marlin before Hopper and on small Blackwell; TensorRT-LLM on data-centre Blackwell


def _up(size: int, multiple: int) -> int:
    return -(-size // multiple) * multiple
