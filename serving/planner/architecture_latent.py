"""Layers with multi-head latent attention (MLA): DeepSeek, Kimi K2, GLM 5. Pure.

Follows vllm/model_executor/models/deepseek_v2.py and vllm/models/deepseek_v32.
"""

from __future__ import annotations

from dataclasses import replace

from serving.planner.architecture import Attention, Latent, Layer, Traits
from serving.planner.architecture_fields import Fields
from serving.planner.architecture_mixture import experts_of
from serving.planner.architecture_sizes import Sizes, rope_of
from serving.planner.architecture_unmodelled import Unmodelled

Built = tuple[list[Layer], Traits]


def latent_attention(fields: Fields, sizes: Sizes, *, has_indexer: bool = False) -> Attention:
    """MLA with the ranks and head dimensions of the config."""
    nope = fields.whole("qk_nope_head_dim", at_most=1 << 14)
    rope = fields.whole("qk_rope_head_dim", at_most=1 << 14)
    latent = Latent(
        query_rank=fields.optional("q_lora_rank"),
        key_value_rank=fields.whole("kv_lora_rank"),
        nope_head_dim=nope,
        rope_head_dim=rope,
        value_head_dim=fields.whole("v_head_dim", at_most=1 << 14),
        indexer_heads=fields.whole("index_n_heads", at_most=1 << 14) if has_indexer else 0,
        indexer_head_dim=fields.whole("index_head_dim", at_most=1 << 14) if has_indexer else 0,
    )
    return Attention("mla", sizes.heads, sizes.heads, nope + rope, latent.value_head_dim, latent=latent)


def deepseek(fields: Fields, sizes: Sizes) -> Built:
    """deepseek_v2.py: a few dense layers first, then experts with shared ones."""
    if fields.raw("index_topk") is not None:
        raise Unmodelled("Sparse attention with an indexer is not covered by this class's closed form.")
    if fields.raw("kv_lora_rank") is None:
        raise Unmodelled("DeepSeek without latent attention is not covered by the closed form.")
    return deepseek_layers(fields, sizes, latent_attention(fields, sizes)), deepseek_traits(fields)


def deepseek_layers(fields: Fields, sizes: Sizes, attention: Attention) -> list[Layer]:
    """Dense layers before first_k_dense_replace, then experts every moe_layer_freq-th layer."""
    latent = attention.latent
    assert latent is not None
    ropes = rope_of(fields, sizes, head_dim=latent.rope_head_dim)
    if latent.indexer_heads and not fields.flag("indexer_rope_interleave"):
        # The indexer turns pairs the other way round, so it has a table of its own.
        ropes += rope_of(fields, sizes, head_dim=latent.rope_head_dim, key="indexer")
    base = Layer(attention=attention, ropes=ropes)
    dense = replace(base, dense_intermediate=sizes.intermediate)
    if fields.raw("n_routed_experts") is None:
        return [dense] * sizes.layers
    width = fields.whole("moe_intermediate_size")
    mixture = experts_of(
        fields,
        count=("n_routed_experts",),
        intermediate=("moe_intermediate_size",),
        shared=width * fields.whole("n_shared_experts", default=0, at_least=0, at_most=1000),
    )
    first = fields.whole("first_k_dense_replace", default=0, at_least=0, at_most=2000)
    step = fields.whole("moe_layer_freq", default=1, at_most=2000)
    sparse = replace(base, mixture=mixture)
    return [sparse if index >= first and index % step == 0 else dense for index in range(sizes.layers)]


def deepseek_traits(fields: Fields) -> Traits:
    """Corrections of the router's bias come with the noaux_tc method only, which DeepSeek V3 is made for."""
    names = fields.raw("architectures")
    is_third = isinstance(names, list) and "DeepseekV3ForCausalLM" in names
    method = fields.words("topk_method", default="noaux_tc" if is_third else "")
    return Traits(has_correction_bias=method == "noaux_tc")


def sparse_deepseek(fields: Fields, sizes: Sizes) -> Built:
    """deepseek_v32: MLA whose layers choose tokens with an indexer (DeepSeek V3.2, GLM 5)."""
    if (
        fields.raw("index_topk_pattern") is not None
        or fields.whole("index_topk_freq", default=1, at_most=2000) != 1
    ):
        raise Unmodelled("Layers that share an indexer's choice are not covered by the closed form.")
    attention = latent_attention(fields, sizes, has_indexer=True)
    layers = deepseek_layers(fields, sizes, attention)
    method = fields.words("topk_method", default="noaux_tc")
    return layers, Traits(has_correction_bias=method == "noaux_tc")


def glm4_moe_lite(fields: Fields, sizes: Sizes) -> Built:
    """glm4_moe_lite.py: DeepSeek's layers with a float32 router that has corrections."""
    layers = deepseek_layers(fields, sizes, latent_attention(fields, sizes))
    return layers, Traits(has_correction_bias=True, router_is_float32=True)
