"""Layers of decoders with a dense feed-forward: Llama and its relatives, Qwen, Phi, Gemma. Pure.

Each function names the vLLM module it follows (vllm/model_executor/models/…).
"""

from __future__ import annotations

from dataclasses import replace

from serving.planner.architecture import Layer, Rope, Traits
from serving.planner.architecture_fields import Fields
from serving.planner.architecture_sizes import Sizes, rope_of
from serving.planner.architecture_unmodelled import Unmodelled

Built = tuple[list[Layer], Traits]

SLIDING = "sliding_attention"
GEMMA_3_LONG_CONTEXT = 131_072
GEMMA_3_STRETCH = 8


def window_of(fields: Fields) -> int | None:
    """The sliding window, or None where it is not used."""
    if fields.raw("use_sliding_window") is False:
        return None
    return fields.optional("sliding_window", at_most=1 << 31) if fields.raw("sliding_window") != 0 else None


def plain(fields: Fields, sizes: Sizes, *, window: int | None = None) -> list[Layer]:
    """Every layer alike, with one rotary table."""
    if not sizes.intermediate:
        fields.whole("intermediate_size")
    layer = Layer(
        attention=sizes.attention(window=window),
        dense_intermediate=sizes.intermediate,
        ropes=rope_of(fields, sizes),
    )
    return [layer] * sizes.layers


def by_kind(fields: Fields, sizes: Sizes, kinds: list[str], *, rope_per_kind: bool = False) -> list[Layer]:
    """Layers whose attention is sliding or full as the list says."""
    window = fields.whole("sliding_window", at_most=1 << 31) if SLIDING in kinds else None
    made: dict[str, Layer] = {}
    for kind in dict.fromkeys(kinds):
        made[kind] = Layer(
            attention=sizes.attention(window=window if kind == SLIDING else None),
            dense_intermediate=sizes.intermediate,
            ropes=rope_of(fields, sizes, layer_kind=kind if rope_per_kind else None),
        )
    return [made[kind] for kind in kinds]


def llama(fields: Fields, sizes: Sizes) -> Built:
    """llama.py: biases as the config says, a window only where layer_types names it."""
    bias = fields.flag("attention_bias") or fields.flag("bias")
    traits = Traits(
        qkv_bias=fields.flag("qkv_bias", default=bias), output_bias=bias, mlp_bias=fields.flag("mlp_bias")
    )
    kinds = fields.kinds("layer_types", layers=sizes.layers)
    if kinds and SLIDING in kinds:
        return by_kind(fields, sizes, kinds), traits
    # vLLM's Attention takes the model-wide window of Mistral and Phi 3 from the cache config.
    return plain(fields, sizes, window=window_of(fields)), traits


def phi3(fields: Fields, sizes: Sizes) -> Built:
    """phi3.py: Llama with fused checkpoint tensors."""
    return llama(fields, sizes)


def qwen2(fields: Fields, sizes: Sizes) -> Built:
    """qwen2.py: biases on queries, keys and values."""
    if fields.raw("dual_chunk_attention_config") is not None:
        raise Unmodelled("Dual chunk attention is not covered by the closed form.")
    sizes = replace(sizes, head_dim=sizes.hidden // sizes.heads)
    traits = Traits(qkv_bias=True, query_key_norm="head" if fields.flag("qk_norm") else "none")
    return plain(fields, sizes), traits


def qwen3(fields: Fields, sizes: Sizes) -> Built:
    """qwen3.py: norms on queries and keys per head."""
    if fields.raw("dual_chunk_attention_config") is not None:
        raise Unmodelled("Dual chunk attention is not covered by the closed form.")
    if fields.raw("head_dim") is None:
        sizes = replace(sizes, head_dim=128)
    return plain(fields, sizes), Traits(qkv_bias=fields.flag("attention_bias"), query_key_norm="head")


def gemma2(fields: Fields, sizes: Sizes) -> Built:
    """gemma2.py: every other layer sliding, four norms, everything on every stage."""
    if fields.raw("head_dim") is None:
        sizes = replace(sizes, head_dim=256)
    kinds = fields.kinds("layer_types", layers=sizes.layers) or [
        SLIDING if index % 2 == 0 else "full_attention" for index in range(sizes.layers)
    ]
    bias = fields.flag("attention_bias")
    return by_kind(fields, sizes, kinds), _gemma_traits(qkv_bias=bias, output_bias=bias)


def gemma3(fields: Fields, sizes: Sizes) -> Built:
    """gemma3.py: five sliding layers to a full one, a rotary table for each kind."""
    if fields.raw("head_dim") is None:
        sizes = replace(sizes, head_dim=256)
    period = fields.whole("sliding_window_pattern", default=6, at_most=2000)
    kinds = fields.kinds("layer_types", layers=sizes.layers) or [
        "full_attention" if (index + 1) % period == 0 else SLIDING for index in range(sizes.layers)
    ]
    window = fields.whole("sliding_window", default=4096, at_most=1 << 31)
    bias = fields.flag("attention_bias")
    sliding = Layer(
        attention=sizes.attention(window=window),
        dense_intermediate=sizes.intermediate,
        ropes=_gemma3_rope(fields, sizes, SLIDING),
    )
    full = Layer(
        attention=sizes.attention(),
        dense_intermediate=sizes.intermediate,
        ropes=_gemma3_rope(fields, sizes, "full_attention"),
    )
    layers = [sliding if kind == SLIDING else full for kind in kinds]
    return layers, _gemma_traits(query_key_norm="head", qkv_bias=bias, output_bias=bias)


def _gemma3_rope(fields: Fields, sizes: Sizes, kind: str) -> tuple[Rope, ...]:
    given = fields.part("rope_parameters")
    if kind == SLIDING and (given is None or kind not in given):
        # Local layers never stretch: a table of the plain positions.
        local = Fields({"rope_theta": fields.raw("rope_local_base_freq") or 10000.0})
        return rope_of(local, sizes, key="local")
    ropes = rope_of(fields, sizes, layer_kind=kind, key="local" if kind == SLIDING else "global")
    if fields.raw("rope_parameters", "rope_scaling", "rope_theta", "rope_local_base_freq") is not None:
        return ropes
    # A summary without any rope field: the released models with 131,072 positions stretch them by eight.
    stretch = GEMMA_3_STRETCH if sizes.max_positions == GEMMA_3_LONG_CONTEXT else 1
    return tuple(replace(rope, positions=rope.positions * stretch) for rope in ropes)


def _gemma_traits(**changes: object) -> Traits:
    base = Traits(layer_norms=4, embedding_everywhere=True, head_everywhere=True, norm_everywhere=True)
    return replace(base, **changes)  # type: ignore[arg-type]
