"""The modules of one layer with a recurrent state on one rank: Mamba, gated delta nets, convolutions. Pure.

Sources: vllm/model_executor/layers/mamba (mamba_mixer, mamba_mixer2, gdn, short_conv).
"""

from __future__ import annotations

from collections.abc import Callable

from serving.planner.architecture import Recurrent, Traits
from serving.planner.layers import Linear, Piece, Rank, Tensor

PART = "recurrent"


def recurrent_pieces(recurrent: Recurrent, traits: Traits, *, hidden: int, rank: Rank) -> list[Piece]:
    """Everything of one layer's state-space or linear-attention part."""
    return BUILDERS[recurrent.kind](recurrent, traits, hidden, rank)


def groups_with_copies(groups: int, tensor_parallel: int) -> int:
    """Mamba 2's groups, copied so that every rank has those its heads need."""
    return groups if groups % tensor_parallel == 0 else tensor_parallel


def _mamba1(recurrent: Recurrent, traits: Traits, hidden: int, rank: Rank) -> list[Piece]:
    inner = recurrent.heads * recurrent.head_dim
    share = rank.divide(inner, name="mamba_expand", what="Mamba's inner width")
    states, steps, can = recurrent.state_size, recurrent.time_step_rank, traits.recurrent_is_quantizable
    pieces: list[Piece] = [
        Linear(PART, "mamba.conv1d", recurrent.convolution_kernel, (share,), recurrent.convolution_kernel,
               bias=recurrent.convolution_has_bias, quantizable=False),
        Linear(PART, "mamba.in_proj", hidden, (share, share), hidden, bias=recurrent.has_bias,
               quantizable=can),
        Linear(PART, "mamba.x_proj", share, (steps + 2 * states,), inner, quantizable=can),
        Linear(PART, "mamba.dt_proj", steps, (share,), steps, bias=True, quantizable=can),
        Linear(PART, "mamba.out_proj", share, (hidden,), inner, bias=recurrent.has_bias, quantizable=can),
        Tensor(PART, share * states, bytes_per_element=4),
        Tensor(PART, share),
    ]  # fmt: skip
    return [*pieces, Tensor(PART, steps + 2 * states)] if recurrent.has_norm else pieces


def _mamba2(recurrent: Recurrent, traits: Traits, hidden: int, rank: Rank) -> list[Piece]:
    tp, kernel, inner = rank.tensor_parallel, recurrent.convolution_kernel, recurrent.inner_width
    heads = rank.divide(recurrent.heads, name="mamba_num_heads", what="The number of Mamba heads")
    if recurrent.groups % tp and recurrent.groups != 1:
        rank.refuse(
            "mamba_n_groups",
            f"{recurrent.groups} Mamba groups cannot be shared among {tp} tensor-parallel ranks.",
        )
    grouped = groups_with_copies(recurrent.groups, tp) * recurrent.state_size
    share = rank.divide(inner, name="mamba_expand", what="Mamba's inner width")
    side = grouped // tp
    pieces: list[Piece] = [
        Linear(PART, "mixer.conv1d", kernel, (share, side, side), kernel,
               bias=recurrent.convolution_has_bias, quantizable=False),
        Linear(PART, "mixer.in_proj", hidden, (share, share, side, side, heads), hidden,
               bias=recurrent.has_bias),
        Linear(PART, "mixer.out_proj", share, (hidden,), inner, bias=recurrent.has_bias),
        Tensor(PART, heads, bytes_per_element=4),
        Tensor(PART, 2 * heads),
    ]  # fmt: skip
    if recurrent.has_multipliers:
        pieces.append(Tensor(PART, 2 * share + 2 * side + heads))
    return [*pieces, Tensor(PART, share)] if recurrent.has_norm else pieces


def _gated_delta_net(recurrent: Recurrent, traits: Traits, hidden: int, rank: Rank) -> list[Piece]:
    keys = recurrent.groups * recurrent.state_size
    values = recurrent.heads * recurrent.head_dim
    key = rank.divide(keys, name="linear_num_key_heads", what="The key width of linear attention")
    value = rank.divide(values, name="linear_num_value_heads", what="The value width of linear attention")
    heads = rank.divide(recurrent.heads, name="linear_num_value_heads", what="The number of value heads")
    name, kernel = "linear_attn", recurrent.convolution_kernel
    return [
        Linear(PART, f"{name}.conv1d", kernel, (2 * key + value,), kernel, quantizable=False),
        Linear(PART, f"{name}.in_proj_qkvz", hidden, (key, key, value, value), hidden,
               shards=("in_proj_qkv", "in_proj_z")),
        Linear(PART, f"{name}.in_proj_ba", hidden, (heads, heads), hidden, shards=("in_proj_b", "in_proj_a")),
        Linear(PART, f"{name}.out_proj", value, (hidden,), values),
        Tensor(PART, heads),
        Tensor(PART, heads, bytes_per_element=4),
        Tensor(PART, recurrent.head_dim),
    ]  # fmt: skip


def _short_convolution(recurrent: Recurrent, traits: Traits, hidden: int, rank: Rank) -> list[Piece]:
    width = recurrent.inner_width
    share = rank.divide(width, name="conv_dim", what="The width of the short convolution")
    kernel, bias = recurrent.convolution_kernel, recurrent.has_bias
    return [
        Linear(PART, "conv.conv", kernel, (share,), kernel, bias=bias, quantizable=False),
        Linear(PART, "conv.in_proj", width, (share, share, share), width, bias=bias),
        Linear(PART, "conv.out_proj", share, (width,), width, bias=bias),
    ]


BUILDERS: dict[str, Callable[[Recurrent, Traits, int, Rank], list[Piece]]] = {
    "mamba1": _mamba1,
    "mamba2": _mamba2,
    "gated_delta_net": _gated_delta_net,
    "short_convolution": _short_convolution,
}
