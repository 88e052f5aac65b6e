"""Layers of mixture-of-experts decoders with ordinary attention. Pure.

Each function names the vLLM module it follows (vllm/model_executor/models/…).
"""

from __future__ import annotations

from dataclasses import replace

from serving.planner.architecture import EVERYWHERE, Attention, Layer, Mixture, Traits
from serving.planner.architecture_dense import window_of
from serving.planner.architecture_fields import Fields, whole_number
from serving.planner.architecture_sizes import MOST_EXPERTS, Sizes, rope_of
from serving.planner.architecture_unmodelled import Unmodelled
from serving.planner.request import BadPlanInput

Built = tuple[list[Layer], Traits]


def experts_of(
    fields: Fields,
    *,
    count: tuple[str, ...],
    intermediate: tuple[str, ...],
    shared: int = 0,
    per_token: tuple[str, ...] = ("num_experts_per_tok", "experts_per_token", "moe_topk", "moe_k"),
    default_count: int | None = None,
) -> Mixture:
    """The experts of a layer, checked against each other."""
    experts = fields.whole(*count, default=default_count, at_most=MOST_EXPERTS)
    chosen = fields.whole(*per_token, default=min(2, experts), at_most=MOST_EXPERTS)
    if chosen > experts:
        raise BadPlanInput(
            f"{chosen} experts per token cannot be chosen among {experts}.", field=fields.given(*per_token)
        )
    return Mixture(experts, chosen, fields.whole(*intermediate), shared)


def sparse_layers(fields: Fields, sizes: Sizes, dense: Layer, sparse: Layer) -> list[Layer]:
    """Qwen's rule: every decoder_sparse_step-th layer has experts, but not those in mlp_only_layers."""
    step = fields.whole("decoder_sparse_step", default=1, at_most=2000)
    listed = fields.items("mlp_only_layers", at_most=2000) or []
    dense_ones = {whole_number(index, name="mlp_only_layers", at_least=0, at_most=2000) for index in listed}
    return [
        sparse if index not in dense_ones and (index + 1) % step == 0 else dense
        for index in range(sizes.layers)
    ]


def qwen2_moe(fields: Fields, sizes: Sizes) -> Built:
    """qwen2_moe.py: a gated shared expert beside the routed ones."""
    sizes = replace(sizes, head_dim=sizes.hidden // sizes.heads)
    shared = fields.whole("shared_expert_intermediate_size", default=5632, at_least=0)
    mixture = experts_of(
        fields, count=("num_experts",), intermediate=("moe_intermediate_size",), shared=shared
    )
    base = Layer(attention=sizes.attention(), ropes=rope_of(fields, sizes))
    layers = sparse_layers(
        fields, sizes, replace(base, dense_intermediate=sizes.intermediate), replace(base, mixture=mixture)
    )
    return layers, Traits(
        qkv_bias=True, shared_name="shared_expert", shared_expert_is_gated=True, **EVERYWHERE
    )


def qwen3_moe(fields: Fields, sizes: Sizes) -> Built:
    """qwen3_moe.py."""
    shared = fields.whole("shared_expert_intermediate_size", default=0, at_least=0)
    mixture = experts_of(
        fields,
        count=("num_experts",),
        intermediate=("moe_intermediate_size",),
        shared=shared,
        default_count=128,
    )
    base = Layer(attention=sizes.attention(), ropes=rope_of(fields, sizes))
    layers = sparse_layers(
        fields, sizes, replace(base, dense_intermediate=sizes.intermediate), replace(base, mixture=mixture)
    )
    traits = Traits(
        qkv_bias=fields.flag("attention_bias"),
        query_key_norm="head",
        # The class would quantise the router; every released checkpoint lists it as excluded.
        shared_name="shared_expert",
        shared_expert_is_gated=True,
        **EVERYWHERE,
    )
    return layers, traits


def mixtral(fields: Fields, sizes: Sizes) -> Built:
    """mixtral.py."""
    mixture = experts_of(
        fields, count=("num_local_experts", "num_experts"), intermediate=("intermediate_size",)
    )
    layer = Layer(
        attention=sizes.attention(window=window_of(fields)), mixture=mixture, ropes=rope_of(fields, sizes)
    )
    return [layer] * sizes.layers, Traits(mixture_name="block_sparse_moe", **EVERYWHERE)


def gpt_oss(fields: Fields, sizes: Sizes) -> Built:
    """gpt_oss.py: sinks, biases everywhere, a float32 rotary table, every other layer sliding."""
    mixture = experts_of(
        fields, count=("num_local_experts", "num_experts"), intermediate=("intermediate_size",)
    )
    window = fields.whole("sliding_window", default=128, at_most=1 << 31)
    # Older configs and summaries leave the scaling out; the class then has yarn over 4,096 × 32.
    has_rope = fields.raw("rope_parameters", "rope_scaling") is not None
    ropes = rope_of(fields, sizes, float32=True)
    if not has_rope and ropes:
        ropes = (replace(ropes[0], positions=131072),)
    base = Layer(attention=sizes.attention(), mixture=mixture, ropes=ropes)
    sliding = replace(base, attention=sizes.attention(window=window))
    layers = [sliding if index % 2 == 0 else base for index in range(sizes.layers)]
    traits = Traits(
        attention_name="attn",
        router_name="router",
        router_bias=True,
        qkv_bias=True,
        output_bias=True,
        has_sinks=True,
        experts_have_bias=True,
        **EVERYWHERE,
    )
    return layers, traits


def llama4(fields: Fields, sizes: Sizes) -> Built:
    """llama4.py: chunked attention with rotary positions in three of four layers, one shared expert."""
    intermediate = fields.whole("intermediate_size", default=8192)
    dense = fields.whole("intermediate_size_mlp", default=16384)
    mixture = experts_of(
        fields, count=("num_local_experts",), intermediate=("intermediate_size",), shared=intermediate,
        per_token=("num_experts_per_tok",), default_count=16,
    )  # fmt: skip
    step = fields.whole("interleave_moe_layer_step", default=1, at_least=0, at_most=2000)
    chunk = fields.optional("attention_chunk_size", at_most=1 << 31)
    listed = fields.items("no_rope_layers", at_most=2000) or []
    period = fields.whole("no_rope_layer_interval", default=4, at_most=2000)
    has_rope = [bool(flag) for flag in listed] or [(index + 1) % period != 0 for index in range(sizes.layers)]
    if len(has_rope) != sizes.layers:
        raise BadPlanInput(
            f"no_rope_layers has {len(has_rope):,} entries for {sizes.layers} layers.", field="no_rope_layers"
        )
    ropes = rope_of(fields, sizes)
    heads = (sizes.heads, sizes.kv_heads, sizes.head_dim, sizes.head_dim)
    local = Attention("chunked_attention", *heads, chunk) if chunk else sizes.attention()
    layers = []
    for index in range(sizes.layers):
        is_sparse = step > 0 and (index + 1) % step == 0
        layers.append(
            Layer(
                attention=local if has_rope[index] else sizes.attention(),
                dense_intermediate=0 if is_sparse else dense,
                mixture=mixture if is_sparse else None,
                ropes=ropes if has_rope[index] else (),
            )
        )
    traits = Traits(
        mlp_name="feed_forward",
        mixture_name="feed_forward",
        router_name="router",
        shared_name="shared_expert",
    )
    return layers, traits


def olmoe(fields: Fields, sizes: Sizes) -> Built:
    """olmoe.py: norms over all queries and keys, whole on every rank."""
    mixture = experts_of(
        fields, count=("num_experts",), intermediate=("intermediate_size",), default_count=64
    )
    layer = Layer(attention=sizes.attention(), mixture=mixture, ropes=rope_of(fields, sizes))
    return [layer] * sizes.layers, Traits(query_key_norm="whole", **EVERYWHERE)


def phimoe(fields: Fields, sizes: Sizes) -> Built:
    """phimoe.py: layer norms with biases, biases on attention and head."""
    mixture = experts_of(
        fields, count=("num_local_experts",), intermediate=("intermediate_size",), default_count=16
    )
    layer = Layer(
        attention=sizes.attention(window=window_of(fields)), mixture=mixture, ropes=rope_of(fields, sizes)
    )
    traits = Traits(
        mixture_name="block_sparse_moe", norm_has_bias=True, qkv_bias=True, output_bias=True,
        head_has_bias=True, **EVERYWHERE,
    )  # fmt: skip
    return [layer] * sizes.layers, traits


def ernie_moe(fields: Fields, sizes: Sizes) -> Built:
    """ernie45_moe.py: dense layers at both ends, a float32 router with corrections."""
    if fields.raw("head_dim") is None and sizes.hidden % sizes.heads == 0:
        sizes = replace(sizes, head_dim=sizes.hidden // sizes.heads)
    width = fields.whole("moe_intermediate_size")
    shared = width * fields.whole("moe_num_shared_experts", default=0, at_least=0, at_most=1000)
    mixture = experts_of(
        fields, count=("moe_num_experts",), intermediate=("moe_intermediate_size",), shared=shared,
        per_token=("moe_k",),
    )  # fmt: skip
    first = fields.whole("moe_layer_start_index", default=0, at_least=0, at_most=2000)
    last = fields.raw("moe_layer_end_index")
    last = (
        sizes.layers - 1
        if last in (None, -1)
        else fields.whole("moe_layer_end_index", at_least=0, at_most=2000)
    )
    step = fields.whole("moe_layer_interval", default=1, at_most=2000)
    bias = fields.flag("use_bias")
    base = Layer(attention=sizes.attention(), ropes=rope_of(fields, sizes))
    dense, sparse = replace(base, dense_intermediate=sizes.intermediate), replace(base, mixture=mixture)
    layers = [
        sparse if first <= index <= last and (index + 1) % step == 0 else dense
        for index in range(sizes.layers)
    ]
    traits = Traits(qkv_bias=bias, mlp_bias=bias, router_is_float32=True, has_correction_bias=True)
    return layers, traits


def glm4_moe(fields: Fields, sizes: Sizes) -> Built:
    """glm4_moe.py: a float32 router with corrections, half rotary."""
    width = fields.whole("moe_intermediate_size")
    shared = width * fields.whole("n_shared_experts", default=0, at_least=0, at_most=1000)
    mixture = experts_of(
        fields, count=("n_routed_experts",), intermediate=("moe_intermediate_size",), shared=shared
    )
    first = fields.whole("first_k_dense_replace", default=1, at_least=0, at_most=2000)
    base = Layer(attention=sizes.attention(), ropes=rope_of(fields, sizes, partial=0.5))
    dense, sparse = replace(base, dense_intermediate=sizes.intermediate), replace(base, mixture=mixture)
    traits = Traits(
        qkv_bias=fields.flag("attention_bias"),
        query_key_norm="head" if fields.flag("use_qk_norm") else "none",
        router_is_float32=True,
        has_correction_bias=True,
    )
    return [sparse if index >= first else dense for index in range(sizes.layers)], traits


def minimax_m2(fields: Fields, sizes: Sizes) -> Built:
    """minimax_m2.py: norms over a rank's queries and keys, a float32 router."""
    if fields.items("attn_type_list") and any(kind != 1 for kind in fields.items("attn_type_list") or []):
        raise Unmodelled("MiniMax with other than full attention is not covered by the closed form.")
    mixture = experts_of(fields, count=("num_local_experts",), intermediate=("intermediate_size",))
    rotary = fields.optional("rotary_dim", at_most=1 << 14)
    ropes = rope_of(fields, sizes, partial=rotary / sizes.head_dim if rotary else None)
    layer = Layer(attention=sizes.attention(), mixture=mixture, ropes=ropes)
    traits = Traits(
        mixture_name="block_sparse_moe",
        qkv_bias=fields.flag("attention_bias"),
        query_key_norm="all",
        router_is_float32=True,
        has_correction_bias=fields.flag("use_routing_bias"),
    )
    return [layer] * sizes.layers, traits


def granite_moe(fields: Fields, sizes: Sizes) -> Built:
    """granitemoe.py and granitemoeshared.py."""
    shared = fields.whole("shared_intermediate_size", default=0, at_least=0)
    mixture = experts_of(
        fields,
        count=("num_local_experts",),
        intermediate=("intermediate_size",),
        shared=shared,
        default_count=8,
    )
    layer = Layer(attention=sizes.attention(), mixture=mixture, ropes=rope_of(fields, sizes))
    return [layer] * sizes.layers, Traits(
        mixture_name="block_sparse_moe", shared_name=".shared_mlp", **EVERYWHERE
    )
