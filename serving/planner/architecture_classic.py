"""Layers of dense decoders whose modules differ from Llama's: GPT, Phi, Falcon, Cohere, GLM, … Pure.

Each function names the vLLM module it follows (vllm/model_executor/models/…).
"""

from __future__ import annotations

from dataclasses import replace

from serving.planner.architecture import EVERYWHERE, Layer, Traits
from serving.planner.architecture_dense import SLIDING, by_kind, plain
from serving.planner.architecture_fields import Fields
from serving.planner.architecture_sizes import Sizes, rope_of
from serving.planner.architecture_unmodelled import Unmodelled

Built = tuple[list[Layer], Traits]


def layers_of(
    sizes: Sizes, intermediate: int, ropes: tuple = (), *, window: int | None = None
) -> list[Layer]:
    """Layers that are all alike."""
    layer = Layer(attention=sizes.attention(window=window), dense_intermediate=intermediate, ropes=ropes)
    return [layer] * sizes.layers


def gemma(fields: Fields, sizes: Sizes) -> Built:
    """gemma.py: two norms, everything on every stage."""
    if fields.raw("head_dim") is None:
        sizes = replace(sizes, head_dim=256)
    return plain(fields, sizes), Traits(**EVERYWHERE)


def gpt2(fields: Fields, sizes: Sizes) -> Built:
    """gpt2.py: learned positions, biases and layer norms everywhere."""
    inner = fields.optional("n_inner") or 4 * sizes.hidden
    traits = Traits(
        norm_has_bias=True, qkv_bias=True, output_bias=True, mlp_bias=True, mlp_is_gated=False,
        position_table=sizes.max_positions, **EVERYWHERE,
    )  # fmt: skip
    return layers_of(sizes, inner), traits


def gpt_neox(fields: Fields, sizes: Sizes) -> Built:
    """gpt_neox.py: rotary positions over a quarter of a head."""
    bias = fields.flag("attention_bias", default=True)
    traits = Traits(
        norm_has_bias=True, qkv_bias=bias, output_bias=bias, mlp_bias=True, mlp_is_gated=False, **EVERYWHERE
    )
    return layers_of(sizes, sizes.intermediate, rope_of(fields, sizes, partial=0.25)), traits


def opt(fields: Fields, sizes: Sizes) -> Built:
    """opt.py: learned positions with two spare rows."""
    if fields.optional("word_embed_proj_dim") not in (None, sizes.hidden):
        raise Unmodelled("OPT with projected word embeddings is not covered by the closed form.")
    if not fields.flag("do_layer_norm_before", default=True):
        raise Unmodelled("OPT with norms after attention is not covered by the closed form.")
    bias = fields.flag("enable_bias", default=True)
    traits = Traits(
        norm_has_bias=True, qkv_bias=bias, output_bias=bias, mlp_bias=bias, mlp_is_gated=False,
        position_table=sizes.max_positions + 2, **EVERYWHERE,
    )  # fmt: skip
    return layers_of(sizes, sizes.intermediate or fields.whole("ffn_dim")), traits


def bloom(fields: Fields, sizes: Sizes) -> Built:
    """bloom.py: ALiBi instead of positions, a norm behind the embedding."""
    traits = Traits(
        norm_has_bias=True, qkv_bias=True, output_bias=True, mlp_bias=True, mlp_is_gated=False,
        position_table=2, **EVERYWHERE,
    )  # fmt: skip
    return layers_of(sizes, 4 * sizes.hidden), traits


def falcon(fields: Fields, sizes: Sizes) -> Built:
    """falcon.py: one or two norms before parallel attention and feed-forward."""
    is_new = fields.flag("new_decoder_architecture")
    parallel = fields.flag("parallel_attn", default=True)
    norms = fields.optional("num_ln_in_parallel_attn", at_most=2) or (2 if is_new else 1)
    bias = fields.flag("bias")
    traits = Traits(
        layer_norms=norms if parallel or is_new else 2, norm_has_bias=True, qkv_bias=bias, output_bias=bias,
        mlp_bias=bias, mlp_is_gated=False, **EVERYWHERE,
    )  # fmt: skip
    ropes = () if fields.flag("alibi") else rope_of(fields, sizes)
    return layers_of(sizes, 4 * sizes.hidden, ropes), traits


def phi(fields: Fields, sizes: Sizes) -> Built:
    """phi.py: one norm, biases everywhere, also on the head."""
    traits = Traits(
        layer_norms=1, norm_has_bias=True, qkv_bias=True, output_bias=True, mlp_bias=True, mlp_is_gated=False,
        head_has_bias=True, **EVERYWHERE,
    )  # fmt: skip
    # vLLM's class reads n_inner only; intermediate_size is the same in every released model.
    inner = fields.optional("n_inner") or 4 * sizes.hidden
    return layers_of(sizes, inner, rope_of(fields, sizes, partial=0.5)), traits


def cohere(fields: Fields, sizes: Sizes) -> Built:
    """commandr.py: one norm without bias, always tied; Cohere 2 has sliding layers."""
    kinds = fields.kinds("layer_types", layers=sizes.layers)
    names = fields.raw("architectures")
    is_second = isinstance(names, list) and "Cohere2ForCausalLM" in names
    if is_second and kinds is None:
        period = fields.whole("sliding_window_pattern", default=4, at_most=2000)
        kinds = [SLIDING if (index + 1) % period else "full_attention" for index in range(sizes.layers)]
    traits = Traits(
        layer_norms=1, query_key_norm="all" if fields.flag("use_qk_norm") else "none", **EVERYWHERE
    )
    if is_second and kinds:
        return by_kind(fields, sizes, kinds), traits
    return plain(fields, sizes), traits


def stablelm(fields: Fields, sizes: Sizes) -> Built:
    """stablelm.py: layer norms with biases, rotary positions over a quarter of a head."""
    if fields.flag("qk_layernorm"):
        raise Unmodelled("StableLM with norms on queries and keys is not covered by the closed form.")
    traits = Traits(norm_has_bias=True, qkv_bias=fields.flag("use_qkv_bias"), **EVERYWHERE)
    return layers_of(sizes, sizes.intermediate, rope_of(fields, sizes, partial=0.25)), traits


def internlm2(fields: Fields, sizes: Sizes) -> Built:
    """internlm2.py: Llama with everything on every stage."""
    return plain(fields, sizes), Traits(**EVERYWHERE)


def glm(fields: Fields, sizes: Sizes) -> Built:
    """glm.py: Llama with a bias on queries, keys and values, half rotary."""
    if fields.raw("head_dim") is None:
        sizes = replace(sizes, head_dim=128)
    ropes = rope_of(fields, sizes, partial=0.5)
    return layers_of(sizes, sizes.intermediate, ropes), Traits(
        qkv_bias=fields.flag("attention_bias", default=True)
    )


def glm4(fields: Fields, sizes: Sizes) -> Built:
    """glm4.py: four norms."""
    layers, traits = glm(fields, sizes)
    return layers, replace(traits, layer_norms=4)


def ernie(fields: Fields, sizes: Sizes) -> Built:
    """ernie45.py: Llama without a bias on the output."""
    if fields.raw("head_dim") is None:
        sizes = replace(sizes, head_dim=128)
    bias = fields.flag("attention_bias") or fields.flag("bias")
    return plain(fields, sizes), Traits(qkv_bias=bias, mlp_bias=fields.flag("mlp_bias"))


def seed_oss(fields: Fields, sizes: Sizes) -> Built:
    """seed_oss.py: biases on queries, keys and values."""
    return plain(fields, sizes), Traits(qkv_bias=True)


def exaone4(fields: Fields, sizes: Sizes) -> Built:
    """exaone4.py: norms on queries and keys, some layers sliding."""
    bias = fields.flag("attention_bias") or fields.flag("bias")
    traits = Traits(qkv_bias=bias, output_bias=bias, mlp_bias=fields.flag("mlp_bias"), query_key_norm="head")
    kinds = fields.kinds("layer_types", layers=sizes.layers)
    if kinds and fields.optional("sliding_window", at_most=1 << 31):
        return by_kind(fields, sizes, kinds), traits
    return plain(fields, sizes), traits


def nemotron(fields: Fields, sizes: Sizes) -> Built:
    """nemotron.py: layer norms with biases, an ungated feed-forward, half rotary."""
    bias = fields.flag("attention_bias") or fields.flag("bias")
    traits = Traits(
        norm_has_bias=True,
        qkv_bias=bias,
        output_bias=bias,
        mlp_bias=fields.flag("mlp_bias"),
        mlp_is_gated=False,
    )
    return layers_of(sizes, sizes.intermediate, rope_of(fields, sizes, partial=0.5)), traits


def arcee(fields: Fields, sizes: Sizes) -> Built:
    """arcee.py: Llama with an ungated feed-forward."""
    bias = fields.flag("attention_bias") or fields.flag("bias")
    traits = Traits(
        qkv_bias=fields.flag("qkv_bias", default=bias), output_bias=bias, mlp_bias=fields.flag("mlp_bias"),
        mlp_is_gated=False, head_has_bias=fields.flag("lm_head_bias"),
    )  # fmt: skip
    return plain(fields, sizes), traits


def apertus(fields: Fields, sizes: Sizes) -> Built:
    """apertus.py: an ungated feed-forward with a learned activation, norms on queries and keys."""
    bias = fields.flag("attention_bias") or fields.flag("bias")
    traits = Traits(
        qkv_bias=fields.flag("qkv_bias", default=bias), output_bias=bias, mlp_bias=fields.flag("mlp_bias"),
        mlp_is_gated=False, query_key_norm="head", extra_elements=4,
    )  # fmt: skip
    return plain(fields, sizes), traits


def mimo(fields: Fields, sizes: Sizes) -> Built:
    """mimo.py: Qwen 2 with its own head dimension; the draft layers of the checkpoint are not loaded."""
    return plain(fields, sizes), Traits(qkv_bias=True)


def granite(fields: Fields, sizes: Sizes) -> Built:
    """granite.py: Llama with scalings."""
    bias = fields.flag("attention_bias") or fields.flag("bias")
    if fields.raw("layer_types") is not None and SLIDING in str(fields.raw("layer_types"))[:4000]:
        raise Unmodelled("Granite with sliding layers is not covered by the closed form.")
    return plain(fields, sizes), Traits(qkv_bias=bias, output_bias=bias, mlp_bias=fields.flag("mlp_bias"))
