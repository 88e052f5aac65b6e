"""Layers of decoders that vLLM runs with transformers' own modules: OLMo, SmolLM 3, StarCoder 2. Pure.

Follows vllm/model_executor/models/transformers: linear layers become vLLM's and are split by transformers'
tensor-parallel plan, everything else is on every rank whole. Rotary tables are a few hundred bytes there.
"""

from __future__ import annotations

from serving.planner.architecture import Layer, Traits
from serving.planner.architecture_dense import SLIDING, window_of
from serving.planner.architecture_fields import Fields
from serving.planner.architecture_sizes import Sizes

Built = tuple[list[Layer], Traits]


def _layers(fields: Fields, sizes: Sizes, window: int | None, *, full_every: int = 1) -> list[Layer]:
    """Layers with the window where layer_types names it; without the list in all but each full_every-th."""
    kinds = fields.kinds("layer_types", layers=sizes.layers) or [
        SLIDING if (index + 1) % full_every else "full_attention" for index in range(sizes.layers)
    ]
    full = Layer(attention=sizes.attention(), dense_intermediate=sizes.intermediate)
    sliding = Layer(attention=sizes.attention(window=window), dense_intermediate=sizes.intermediate)
    return [sliding if kind == SLIDING and window else full for kind in kinds]


def smollm3(fields: Fields, sizes: Sizes) -> Built:
    """smollm3: Llama without rotary positions in every fourth layer, which hold no weights."""
    bias = fields.flag("attention_bias")
    traits = Traits(qkv_bias=bias, output_bias=bias, mlp_bias=fields.flag("mlp_bias"))
    return _layers(fields, sizes, window_of(fields)), traits


def olmo(fields: Fields, sizes: Sizes) -> Built:
    """olmo: norms without weights."""
    bias = fields.flag("attention_bias")
    return _layers(fields, sizes, None), Traits(norm_has_weight=False, qkv_bias=bias, output_bias=bias)


def olmo2(fields: Fields, sizes: Sizes) -> Built:
    """olmo2: norms behind each part, and over all queries and keys."""
    bias = fields.flag("attention_bias")
    return _layers(fields, sizes, None), Traits(query_key_norm="whole", qkv_bias=bias, output_bias=bias)


def olmo3(fields: Fields, sizes: Sizes) -> Built:
    """olmo3: as olmo2, three sliding layers to a full one."""
    window = fields.whole("sliding_window", default=4096, at_most=1 << 31)
    return _layers(fields, sizes, window, full_every=4), olmo2(fields, sizes)[1]


def starcoder2(fields: Fields, sizes: Sizes) -> Built:
    """starcoder2: layer norms with biases, biases everywhere, an ungated feed-forward."""
    bias = fields.flag("use_bias", default=True)
    traits = Traits(norm_has_bias=True, qkv_bias=bias, output_bias=bias, mlp_bias=bias, mlp_is_gated=False)
    # vLLM's Attention takes the model-wide window from the cache config.
    window = fields.optional("sliding_window", at_most=1 << 31)
    layer = Layer(attention=sizes.attention(window=window), dense_intermediate=sizes.intermediate)
    return [layer] * sizes.layers, traits
