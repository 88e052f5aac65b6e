"""Layers of models that mix attention with a recurrent state: Qwen3-Next, Jamba, … Pure.

Each function names the vLLM module it follows (vllm/model_executor/models/…).
"""

from __future__ import annotations

from dataclasses import replace

from serving.planner.architecture import EVERYWHERE, Layer, Mixture, Recurrent, Traits
from serving.planner.architecture_fields import Fields
from serving.planner.architecture_mixture import experts_of, sparse_layers
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


def mamba2_of(
    fields: Fields,
    *,
    heads: str,
    head_dim: str,
    state: str,
    groups: str,
    kernel: str,
    bias: str,
    convolution_bias: str,
    inner: int | None = None,
    state_is_float32: bool = False,
    has_norm: bool = True,
) -> Recurrent:
    """Mamba 2 with the config's own field names. `inner`: the width where it is not heads × head_dim."""
    count = fields.whole(heads, at_most=1 << 14)
    size = fields.whole(head_dim, at_most=1 << 14) if inner is None else inner // count
    if inner is not None and inner % count:
        raise BadPlanInput(f"{heads} ({count}) does not divide Mamba's inner width {inner}.", field=heads)
    return Recurrent(
        "mamba2",
        heads=count,
        head_dim=size,
        state_size=fields.whole(state, default=128, at_most=1 << 14),
        groups=fields.whole(groups, default=1, at_most=1 << 14),
        convolution_kernel=fields.whole(kernel, default=4, at_most=1024),
        state_is_float32=state_is_float32,
        has_bias=fields.flag(bias),
        convolution_has_bias=fields.flag(convolution_bias, default=True),
        has_norm=has_norm,
    )


def granite_hybrid(fields: Fields, sizes: Sizes) -> Built:
    """granitemoehybrid.py: Mamba 2 with attention in some layers, experts and a shared feed-forward."""
    sizes = replace(sizes, head_dim=sizes.hidden // sizes.heads)
    inner = fields.whole("mamba_expand", default=2, at_most=64) * sizes.hidden
    recurrent = mamba2_of(
        fields, heads="mamba_n_heads", head_dim="mamba_d_head", state="mamba_d_state",
        groups="mamba_n_groups", kernel="mamba_d_conv", bias="mamba_proj_bias",
        convolution_bias="mamba_conv_bias", inner=inner,
    )  # fmt: skip
    shared = fields.whole("shared_intermediate_size", default=0, at_least=0)
    experts = fields.whole("num_local_experts", default=0, at_least=0, at_most=MOST_EXPERTS)
    body = Layer(dense_intermediate=shared)
    if experts:
        mixture = experts_of(
            fields, count=("num_local_experts",), intermediate=("intermediate_size",), shared=shared
        )
        body = Layer(mixture=mixture)
    kinds = fields.kinds("layer_types", layers=sizes.layers) or fields.kinds(
        "layers_block_type", layers=sizes.layers
    )
    if kinds is None or set(kinds) - {"mamba", "linear_attention", "attention", "full_attention"}:
        raise BadPlanInput("layer_types must name every layer as mamba or attention.", field="layer_types")
    ropes = rope_of(fields, sizes) if fields.words("position_embedding_type") == "rope" else ()
    attention = replace(body, attention=sizes.attention(), ropes=ropes)
    state = replace(body, recurrent=recurrent)
    bias = fields.flag("attention_bias")
    traits = Traits(
        mlp_name="shared_mlp",
        mixture_name="block_sparse_moe",
        shared_name=".shared_mlp",
        qkv_bias=bias,
        output_bias=bias,
        **EVERYWHERE,
    )
    return [attention if kind in ("attention", "full_attention") else state for kind in kinds], traits


def nemotron_h(fields: Fields, sizes: Sizes) -> Built:
    """nemotron_h.py: each layer is one of Mamba 2, attention, feed-forward or experts, with one norm."""
    pattern = (
        fields.words("hybrid_override_pattern")
        if isinstance(fields.raw("hybrid_override_pattern"), str)
        else ""
    )
    kinds = list(pattern) or _nemotron_kinds(fields, sizes)
    if len(kinds) != sizes.layers:
        raise BadPlanInput(
            f"hybrid_override_pattern has {len(kinds)} layers; num_hidden_layers says {sizes.layers}.",
            field="hybrid_override_pattern",
        )
    if set(kinds) - set("M*-E"):
        raise BadPlanInput(
            "hybrid_override_pattern may hold M, *, - and E only.", field="hybrid_override_pattern"
        )
    dtype = fields.words("mamba_ssm_cache_dtype", default="float32")
    recurrent = mamba2_of(
        fields, heads="mamba_num_heads", head_dim="mamba_head_dim", state="ssm_state_size", groups="n_groups",
        kernel="conv_kernel", bias="use_bias", convolution_bias="use_conv_bias",
        state_is_float32=dtype == "float32",
    )  # fmt: skip
    made = {
        "M": Layer(recurrent=recurrent),
        "*": Layer(attention=sizes.attention(window=fields.optional("sliding_window", at_most=1 << 31))),
        "-": Layer(dense_intermediate=sizes.intermediate),
    }
    if "E" in kinds:
        made["E"] = Layer(mixture=_nemotron_experts(fields))
    traits = Traits(
        attention_name="mixer", mlp_name="mixer", mixture_name="mixer", layer_norms=1, mlp_is_gated=False,
        experts_are_gated=False, has_correction_bias=True, mlp_bias=fields.flag("mlp_bias"),
        **EVERYWHERE,
    )  # fmt: skip
    return [made[kind] for kind in kinds], traits


def _nemotron_kinds(fields: Fields, sizes: Sizes) -> list[str]:
    names = {"mamba": "M", "attention": "*", "mlp": "-", "moe": "E"}
    listed = fields.kinds("layers_block_type", layers=sizes.layers)
    if listed is None or set(listed) - set(names):
        raise BadPlanInput(
            "hybrid_override_pattern is missing from the config.", field="hybrid_override_pattern"
        )
    return [names[kind] for kind in listed]


def _nemotron_experts(fields: Fields) -> Mixture:
    shared = fields.whole("n_shared_experts", default=0, at_least=0, at_most=1000)
    width = fields.whole("moe_shared_expert_intermediate_size", default=1) if shared else 0
    mixture = experts_of(
        fields, count=("n_routed_experts",), intermediate=("moe_intermediate_size",), shared=shared * width
    )
    return replace(mixture, latent_hidden=fields.optional("moe_latent_size") or 0)


def falcon_h1(fields: Fields, sizes: Sizes) -> Built:
    """falcon_h1.py: attention and Mamba 2 side by side in every layer."""
    inner = (
        fields.optional("mamba_d_ssm") or fields.whole("mamba_expand", default=2, at_most=64) * sizes.hidden
    )
    recurrent = mamba2_of(
        fields, heads="mamba_n_heads", head_dim="mamba_d_head", state="mamba_d_state",
        groups="mamba_n_groups", kernel="mamba_d_conv", bias="mamba_proj_bias",
        convolution_bias="mamba_conv_bias", inner=inner, has_norm=fields.flag("mamba_rms_norm"),
    )  # fmt: skip
    recurrent = replace(recurrent, has_multipliers=True)
    layer = Layer(
        attention=sizes.attention(),
        recurrent=recurrent,
        dense_intermediate=sizes.intermediate,
        ropes=rope_of(fields, sizes),
    )
    return [layer] * sizes.layers, Traits(mlp_name="feed_forward")


def lfm2(fields: Fields, sizes: Sizes) -> Built:
    """lfm2.py and lfm2_moe.py: short convolutions with attention in some layers."""
    kinds = fields.kinds("layer_types", layers=sizes.layers)
    if kinds is None or set(kinds) - {"conv", "full_attention"}:
        raise BadPlanInput(
            "layer_types must name every layer as conv or full_attention.", field="layer_types"
        )
    recurrent = Recurrent(
        "short_convolution", heads=1, head_dim=fields.whole("conv_dim", default=sizes.hidden), state_size=0,
        groups=1, convolution_kernel=fields.whole("conv_L_cache", default=3, at_most=1024),
        has_bias=fields.flag("conv_bias"),
    )  # fmt: skip
    bodies = _lfm2_bodies(fields, sizes)
    ropes = rope_of(fields, sizes)
    layers = [
        replace(body, attention=sizes.attention(), ropes=ropes)
        if kind == "full_attention"
        else replace(body, recurrent=recurrent)
        for body, kind in zip(bodies, kinds, strict=True)
    ]
    traits = Traits(
        mlp_name="feed_forward", mixture_name="feed_forward", query_key_norm="head",
        embedding_everywhere=True, has_correction_bias=fields.flag("use_expert_bias", default=True),
    )  # fmt: skip
    return layers, traits


def _lfm2_bodies(fields: Fields, sizes: Sizes) -> list[Layer]:
    if fields.raw("num_experts") is None:
        width = sizes.intermediate
        if fields.flag("block_auto_adjust_ff_dim", default=True):
            multiple = fields.whole("block_multiple_of", default=256)
            width = -(-int(2 * width / 3) // multiple) * multiple
        return [Layer(dense_intermediate=width)] * sizes.layers
    dense_layers = fields.whole("num_dense_layers", default=2, at_least=0, at_most=2000)
    mixture = experts_of(fields, count=("num_experts",), intermediate=("moe_intermediate_size",))
    return [
        Layer(dense_intermediate=sizes.intermediate) if index < dense_layers else Layer(mixture=mixture)
        for index in range(sizes.layers)
    ]


def mamba(fields: Fields, sizes: Sizes) -> Built:
    """mamba.py: Mamba 1 alone; the norms that Falcon Mamba has in the mixer carry no weights."""
    recurrent = Recurrent(
        "mamba1",
        heads=1,
        head_dim=fields.whole("intermediate_size", default=2 * sizes.hidden),
        state_size=fields.whole("state_size", default=16, at_most=1 << 14),
        groups=1,
        convolution_kernel=fields.whole("conv_kernel", default=4, at_most=1024),
        time_step_rank=_time_step_rank(fields, "time_step_rank", sizes.hidden),
        has_bias=fields.flag("use_bias"),
        convolution_has_bias=fields.flag("use_conv_bias", default=True),
        has_norm=False,
    )
    traits = Traits(layer_norms=1, recurrent_is_quantizable=False, **EVERYWHERE)
    return [Layer(recurrent=recurrent)] * sizes.layers, traits


def mamba2(fields: Fields, sizes: Sizes) -> Built:
    """mamba2.py: Mamba 2 alone."""
    expand = fields.whole("expand", default=2, at_most=64)
    recurrent = mamba2_of(
        fields, heads="num_heads", head_dim="head_dim", state="state_size", groups="n_groups",
        kernel="conv_kernel", bias="use_bias", convolution_bias="use_conv_bias",
        inner=fields.optional("intermediate_size") or expand * sizes.hidden,
    )  # fmt: skip
    return [Layer(recurrent=recurrent)] * sizes.layers, Traits(layer_norms=1, **EVERYWHERE)


def qwen3_5(fields: Fields, sizes: Sizes) -> Built:
    """qwen3_5.py: as Qwen3-Next, guarded head, dense or with experts by the text model's type."""
    if fields.raw("head_dim") is None:
        sizes = replace(sizes, head_dim=256)
    if fields.flag("layer_scale"):
        raise Unmodelled("Layer scales are not covered by the closed form.")
    body = Layer(dense_intermediate=sizes.intermediate)
    if fields.raw("num_experts"):
        shared = fields.whole("shared_expert_intermediate_size", default=512, at_least=0)
        body = Layer(
            mixture=experts_of(
                fields, count=("num_experts",), intermediate=("moe_intermediate_size",), shared=shared
            )
        )
    dtype = fields.words("mamba_ssm_dtype", default="")
    recurrent = replace(delta_net(fields), state_is_float32=dtype in ("", "float32"))
    ropes, attention = rope_of(fields, sizes, partial=0.25), sizes.attention()
    layers = [
        replace(body, attention=attention, ropes=ropes)
        if kind == "full_attention"
        else replace(body, recurrent=recurrent)
        for kind in linear_kinds(fields, sizes)
    ]
    traits = Traits(
        query_key_norm="head",
        qkv_bias=fields.flag("qkv_bias"),
        attention_is_gated=fields.flag("attn_output_gate", default=True),
        shared_name="shared_expert",
        shared_expert_is_gated=True,
        embedding_everywhere=True,
    )
    return layers, traits
