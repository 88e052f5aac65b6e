"""The modules of one layer's feed-forward on one rank: dense, routed experts, shared experts. Pure."""

from __future__ import annotations

from serving.planner.architecture import Layer, Mixture, Traits
from serving.planner.layers import Experts, Linear, Piece, Rank, Tensor


def feed_forward_pieces(layer: Layer, traits: Traits, *, hidden: int, rank: Rank) -> list[Piece]:
    """Everything between a layer's second norm and its residual."""
    pieces: list[Piece] = []
    if layer.dense_intermediate:
        pieces += dense_pieces(
            "mlp", traits.mlp_name, hidden=hidden, intermediate=layer.dense_intermediate,
            gated=traits.mlp_is_gated, bias=traits.mlp_bias, rank=rank, field="intermediate_size",
        )  # fmt: skip
    if layer.mixture is not None:
        pieces += mixture_pieces(layer.mixture, traits, hidden=hidden, rank=rank)
    return pieces


def dense_pieces(
    part: str, name: str, *, hidden: int, intermediate: int, gated: bool, bias: bool, rank: Rank, field: str
) -> list[Piece]:
    """Up (and gate) projections split by columns, the one down by rows."""
    share = rank.divide(intermediate, name=field, what=f"The {field.replace('_', ' ')}")
    if gated:
        up = Linear(
            part,
            f"{name}.gate_up_proj",
            hidden,
            (share, share),
            hidden,
            bias=bias,
            shards=("gate_proj", "up_proj"),
        )
    else:
        up = Linear(part, f"{name}.up_proj", hidden, (share,), hidden, bias=bias)
    return [up, Linear(part, f"{name}.down_proj", share, (hidden,), intermediate, bias=bias)]


def mixture_pieces(mixture: Mixture, traits: Traits, *, hidden: int, rank: Rank) -> list[Piece]:
    """Router, routed experts and shared experts."""
    name = traits.mixture_name
    router_bytes = 4 if traits.router_is_float32 else None
    pieces: list[Piece] = [
        Linear(
            "router", f"{name}.{traits.router_name}", hidden, (mixture.experts,), hidden,
            bias=traits.router_bias, quantizable=traits.router_is_quantizable, is_split=False,
            bytes_per_element=router_bytes,
        ),
        _routed(mixture, traits, hidden=hidden, rank=rank),
    ]  # fmt: skip
    if traits.has_correction_bias:
        pieces.append(Tensor("router", mixture.experts, bytes_per_element=4))
    if mixture.latent_hidden:
        pieces += [
            Linear(
                "experts", f"{name}.fc1_latent_proj", hidden, (mixture.latent_hidden,), hidden,
                bias=traits.mlp_bias, is_split=False,
            ),
            Linear(
                "experts", f"{name}.fc2_latent_proj", mixture.latent_hidden, (hidden,), mixture.latent_hidden,
                bias=traits.mlp_bias, is_split=False,
            ),
        ]  # fmt: skip
    if mixture.shared_intermediate:
        shared = (
            f"{name}.{traits.shared_name}"
            if not traits.shared_name.startswith(".")
            else traits.shared_name[1:]
        )
        pieces += dense_pieces(
            "shared_experts", shared, hidden=hidden, intermediate=mixture.shared_intermediate,
            gated=traits.experts_are_gated, bias=False, rank=rank, field="shared_expert_intermediate_size",
        )  # fmt: skip
        if traits.shared_expert_is_gated:
            pieces.append(Tensor("shared_experts", hidden))
    return pieces


def _routed(mixture: Mixture, traits: Traits, *, hidden: int, rank: Rank) -> Experts:
    """Split across every expert, or by whole experts with expert parallelism (the last ranks have fewer)."""
    experts, width = mixture.experts, mixture.intermediate
    if rank.expert_parallel and rank.tensor_parallel > 1:
        experts = -(-experts // rank.tensor_parallel)
    else:
        width = rank.divide(width, name="moe_intermediate_size", what="The intermediate size of the experts")
    return Experts(
        f"{traits.mixture_name}.experts",
        experts,
        mixture.latent_hidden or hidden,
        width,
        mixture.intermediate,
        gated=traits.experts_are_gated,
        bias=traits.experts_have_bias,
    )
