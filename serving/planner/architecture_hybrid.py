"""Layers of models that mix attention with a recurrent state: Qwen3-Next, Jamba, … Pure.

Each function names the vLLM module it follows (vllm/model_executor/models/…).
"""

from __future__ import annotations

from dataclasses import replace

from serving.planner.architecture import Layer, Recurrent, Traits
from serving.planner.architecture_fields import Fields
from serving.planner.architecture_mixture import EVERYWHERE, experts_of, sparse_layers
from serving.planner.architecture_sizes import MOST_EXPERTS, Sizes, rope_of
from serving.planner.architecture_unmodelled import Unmodelled
from serving.planner.request import BadPlanInput

Built = tuple[list[Layer], Traits]


def delta_net(fields: Fields) -> Recurrent:
    """A gated delta net with the linear_* sizes; vLLM keeps its state in float32 (config.py)."""
    return Recurrent(
        "gated_delta_net",
        heads=fields.whole("linear_num_value_heads", default=32, at_most=1 << 14),
        head_dim=fields.whole("linear_value_head_dim", default=128, at_most=1 << 14),
        state_size=fields.whole("linear_key_head_dim", default=128, at_most=1 << 14),
        groups=fields.whole("linear_num_key_heads", default=16, at_most=1 << 14),
        convolution_kernel=fields.whole("linear_conv_kernel_dim", default=4, at_most=1024),
        state_is_float32=True,
    )


def linear_kinds(fields: Fields, sizes: Sizes) -> list[str]:
    """Which layers have linear attention: the list, or every layer but each full_attention_interval-th."""
    period = fields.whole("full_attention_interval", default=4, at_most=2000)
    kinds = fields.kinds("layer_types", layers=sizes.layers) or [
        "full_attention" if (index + 1) % period == 0 else "linear_attention" for index in range(sizes.layers)
    ]
    if set(kinds) - {"full_attention", "linear_attention"}:
        raise BadPlanInput("layer_types names a kind that this model does not have.", field="layer_types")
    return kinds


def qwen3_next(fields: Fields, sizes: Sizes) -> Built:
    """qwen3_next.py: gated attention every fourth layer, gated delta nets between."""
    if fields.raw("head_dim") is None:
        sizes = replace(sizes, head_dim=256)
    shared = fields.whole("shared_expert_intermediate_size", default=512, at_least=0)
    mixture = experts_of(
        fields,
        count=("num_experts",),
        intermediate=("moe_intermediate_size",),
        shared=shared,
        default_count=512,
    )
    if fields.flag("layer_scale"):
        raise Unmodelled("Layer scales are not covered by the closed form.")
    dense, sparse = Layer(dense_intermediate=sizes.intermediate), Layer(mixture=mixture)
    bodies = sparse_layers(fields, sizes, dense, sparse)
    ropes = rope_of(fields, sizes, partial=0.25)
    recurrent, attention = delta_net(fields), sizes.attention()
    layers = [
        replace(body, attention=attention, ropes=ropes)
        if kind == "full_attention"
        else replace(body, recurrent=recurrent)
        for body, kind in zip(bodies, linear_kinds(fields, sizes), strict=True)
    ]
    traits = Traits(
        query_key_norm="head",
        qkv_bias=fields.flag("qkv_bias"),
        attention_is_gated=fields.flag("attn_output_gate", default=True),
        shared_name="shared_expert",
        shared_expert_is_gated=True,
        embedding_everywhere=True,
        head_everywhere=True,
    )
    return layers, traits


def jamba(fields: Fields, sizes: Sizes) -> Built:
    """jamba.py: Mamba 1 with attention every eighth layer, experts every other; no rotary positions."""
    hidden = sizes.hidden
    inner = fields.whole("mamba_expand", default=2, at_most=64) * hidden
    recurrent = Recurrent(
        "mamba1",
        heads=1,
        head_dim=inner,
        state_size=fields.whole("mamba_d_state", default=16, at_most=1 << 14),
        groups=1,
        convolution_kernel=fields.whole("mamba_d_conv", default=4, at_most=1024),
        time_step_rank=_time_step_rank(fields, "mamba_dt_rank", hidden),
        state_is_float32=True,
        has_bias=fields.flag("mamba_proj_bias"),
        convolution_has_bias=fields.flag("mamba_conv_bias", default=True),
    )
    period = fields.whole("attn_layer_period", default=8, at_most=2000)
    offset = fields.whole("attn_layer_offset", default=4, at_least=0, at_most=2000)
    every = fields.whole("expert_layer_period", default=2, at_most=2000)
    from_layer = fields.whole("expert_layer_offset", default=1, at_least=0, at_most=2000)
    experts = fields.whole("num_experts", default=16, at_most=MOST_EXPERTS)
    mixture = experts_of(
        fields, count=("num_experts",), intermediate=("intermediate_size",), default_count=16
    )
    layers = []
    for index in range(sizes.layers):
        is_sparse = experts > 1 and index % every == from_layer
        is_attention = index % period == offset
        layers.append(
            Layer(
                attention=sizes.attention() if is_attention else None,
                recurrent=None if is_attention else recurrent,
                # A single expert is a plain feed-forward in vLLM's fused kernel, without a router.
                mixture=mixture if is_sparse else None,
                dense_intermediate=0 if is_sparse else sizes.intermediate,
            )
        )
    traits = Traits(
        mlp_name="feed_forward",
        mixture_name="feed_forward",
        router_name="router",
        recurrent_is_quantizable=False,
        **EVERYWHERE,
    )
    return layers, traits


def _time_step_rank(fields: Fields, name: str, hidden: int) -> int:
    return -(-hidden // 16) if fields.raw(name) in (None, "auto") else fields.whole(name)
