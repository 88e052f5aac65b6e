"""Layers of Gemma 4's text model: two head sizes, shared caches, per-layer inputs, experts. Pure.

Follows vllm/model_executor/models/gemma4.py and transformers_utils/configs/gemma4.py.
"""

from __future__ import annotations

from dataclasses import replace

from serving.planner.architecture import EVERYWHERE, Attention, Layer, Traits
from serving.planner.architecture_dense import SLIDING
from serving.planner.architecture_fields import Fields, whole_number
from serving.planner.architecture_mixture import experts_of
from serving.planner.architecture_sizes import Sizes, rope_of
from serving.planner.architecture_unmodelled import Unmodelled
from serving.planner.request import BadPlanInput

Built = tuple[list[Layer], Traits]

FULL = "full_attention"
OWN_SIZES = ("head_dim", "num_key_value_heads")


def gemma4(fields: Fields, sizes: Sizes) -> Built:
    """Sliding layers with small heads, full ones with large heads."""
    if fields.raw("head_dim") is None:
        sizes = replace(sizes, head_dim=256)
    kinds = _kinds(fields, sizes)
    window = fields.whole("sliding_window", default=512, at_most=1 << 31)
    shared = fields.whole("num_kv_shared_layers", default=0, at_least=0, at_most=2000)
    wide = 2 if fields.flag("use_double_wide_mlp") else 1
    overrides = _overrides(fields, sizes)
    mixture = None
    if fields.flag("enable_moe_block") or fields.flag("use_second_mlp_block"):
        mixture = experts_of(
            fields,
            count=("num_experts",),
            intermediate=("moe_intermediate_size", "expert_intermediate_size"),
            per_token=("top_k_experts",),
        )
    layers = []
    for index, kind in enumerate(kinds):
        is_shared = shared > 0 and index >= sizes.layers - shared > 0
        attention = _attention(fields, sizes, kind, window, overrides.get(index, {}))
        layers.append(
            Layer(
                attention=replace(attention, has_own_cache=not is_shared),
                dense_intermediate=sizes.intermediate * (wide if is_shared else 1),
                mixture=mixture,
                ropes=rope_of(fields, sizes, head_dim=attention.head_dim, layer_kind=kind, key=kind),
            )
        )
    return layers, _traits(fields, sizes, has_experts=mixture is not None)


def _kinds(fields: Fields, sizes: Sizes) -> list[str]:
    kinds = fields.kinds("layer_types", layers=sizes.layers) or [
        FULL if (index + 1) % 6 == 0 else SLIDING for index in range(sizes.layers)
    ]
    if set(kinds) - {FULL, SLIDING}:
        raise BadPlanInput("layer_types names a kind that this model does not have.", field="layer_types")
    return kinds


def _attention(fields: Fields, sizes: Sizes, kind: str, window: int, override: dict[str, int]) -> Attention:
    head_dim, kv_heads = sizes.head_dim, sizes.kv_heads
    if kind == FULL:
        head_dim = fields.optional("global_head_dim", at_most=1 << 14) or head_dim
        if fields.flag("attention_k_eq_v"):
            kv_heads = fields.optional("num_global_key_value_heads", at_most=1 << 14) or kv_heads
    head_dim = override.get("head_dim", head_dim)
    kv_heads = override.get("num_key_value_heads", kv_heads)
    if sizes.heads % kv_heads:
        raise BadPlanInput(
            f"{sizes.heads} attention heads cannot be shared evenly among {kv_heads} key/value heads.",
            field="num_global_key_value_heads",
        )
    return Attention(
        "full_attention" if kind == FULL else "sliding_attention",
        sizes.heads, kv_heads, head_dim, head_dim, None if kind == FULL else window,
    )  # fmt: skip


def _overrides(fields: Fields, sizes: Sizes) -> dict[int, dict[str, int]]:
    """Newer configs name the layers with other sizes one by one."""
    listed = fields.part("per_layer_config") or {}
    found: dict[int, dict[str, int]] = {}
    for name, given in list(listed.items())[: sizes.layers]:
        if not (isinstance(name, str) and name.isdecimal() and len(name) <= 6 and isinstance(given, dict)):
            raise BadPlanInput(
                "per_layer_config must hold an object for each layer's number.", field="per_layer_config"
            )
        if set(given) - set(OWN_SIZES):
            raise Unmodelled(
                "Layers that differ in more than their heads are not covered by the closed form."
            )
        found[int(name)] = {
            key: whole_number(value, name="per_layer_config", at_most=1 << 14) for key, value in given.items()
        }
    return found


def _traits(fields: Fields, sizes: Sizes, *, has_experts: bool) -> Traits:
    hidden = sizes.hidden
    width = fields.whole("hidden_size_per_layer_input", default=0, at_least=0)
    rows = fields.whole("vocab_size_per_layer_input", default=sizes.vocab)
    # Every layer has a scalar; with per-layer inputs two small projections and a norm on every rank.
    per_layer = 1 + (2 * hidden * width + hidden if width else 0)
    experts = fields.whole("num_experts", default=0, at_least=0) if has_experts else 0
    padded = -(-rows // 64) * 64
    bias = fields.flag("attention_bias")
    return Traits(
        layer_norms=7 if has_experts else 4,
        query_key_norm="head",
        qkv_bias=bias,
        output_bias=bias,
        mixture_name="moe",
        router_name="router.proj",
        extra_elements=per_layer + (hidden + experts + 1 if has_experts else 0),
        split_table=(padded + hidden) * width * sizes.layers,
        table_norm=width,
        **EVERYWHERE,
    )
