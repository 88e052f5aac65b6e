"""The sizes that every decoder has, read and checked once for all families. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from serving.planner.architecture import Attention, AttentionKind, Rope
from serving.planner.architecture_fields import Fields
from serving.planner.architecture_rope import rope_parameters, rotary_table
from serving.planner.request import BadPlanInput

MOST_LAYERS = 2_000
MOST_EXPERTS = 10_000
LARGEST_CONTEXT = 1 << 31
HEADS = ("num_attention_heads", "n_head", "n_heads", "num_heads")


@dataclass(frozen=True)
class Sizes:
    """Common sizes of the text model. `intermediate` is 0 where no dense feed-forward is given."""

    layers: int
    hidden: int
    vocab: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    max_positions: int
    bytes_per_element: int

    def attention(self, *, window: int | None = None) -> Attention:
        """Plain attention with the common heads, over all tokens or a sliding window."""
        kind: AttentionKind = "full_attention" if window is None else "sliding_attention"
        return Attention(kind, self.heads, self.kv_heads, self.head_dim, self.head_dim, window)


def read_sizes(
    fields: Fields, *, bytes_per_element: int, has_attention: bool, per_layer: bool = False
) -> Sizes:
    """The common sizes. Raises BadPlanInput naming the field.

    `has_attention`: the number of heads must be given, for nobody's cache is that of one head.
    `per_layer`: sizes may be lists with an entry per layer, as some classes that no closed form covers have.
    """
    hidden = fields.whole("hidden_size", "n_embd", "d_model", "model_dim")
    heads = fields.whole(*HEADS, default=None if has_attention else 1, at_most=1 << 14)
    kv_heads = _kv_heads(fields, heads, per_layer=per_layer)
    return Sizes(
        layers=fields.whole(
            "num_hidden_layers",
            "n_layer",
            "n_layers",
            "num_layers",
            default=_listed_layers(fields),
            at_most=MOST_LAYERS,
        ),
        hidden=hidden,
        vocab=fields.whole("vocab_size", "padded_vocab_size"),
        heads=heads,
        kv_heads=kv_heads,
        head_dim=_head_dim(fields, hidden, heads),
        intermediate=_intermediate(fields, per_layer=per_layer),
        max_positions=fields.whole(
            "max_position_embeddings",
            "n_positions",
            "max_seq_len",
            "seq_length",
            default=2048,
            at_most=LARGEST_CONTEXT,
        ),
        bytes_per_element=bytes_per_element,
    )


def _listed_layers(fields: Fields) -> int | None:
    """How many layers a pattern or a list of blocks has, where the config gives no number."""
    pattern = fields.raw("hybrid_override_pattern")
    if isinstance(pattern, str) and 0 < len(pattern) <= MOST_LAYERS:
        return len(pattern)
    lists = [fields.raw(name) for name in ("layers_block_type", "block_configs")]
    return next((min(len(each), MOST_LAYERS) for each in lists if isinstance(each, list) and each), None)


def rope_of(
    fields: Fields,
    sizes: Sizes,
    *,
    head_dim: int | None = None,
    layer_kind: str | None = None,
    float32: bool = False,
    partial: float | None = None,
    key: str = "",
) -> tuple[Rope, ...]:
    """The rotary table of one layer kind; empty where vLLM's kind is not known here."""
    parameters = rope_parameters(fields, layer_kind)
    if partial is not None:
        parameters.setdefault("partial_rotary_factor", partial)
    table = rotary_table(
        fields,
        head_dim=head_dim or sizes.head_dim,
        max_positions=sizes.max_positions,
        bytes_per_element=4 if float32 else sizes.bytes_per_element,
        parameters=parameters,
        key=key,
    )
    return (table,) if table else ()


def _kv_heads(fields: Fields, heads: int, *, per_layer: bool) -> int:
    names = ("num_key_value_heads", "num_kv_heads", "n_head_kv", "multi_query_group_num")
    value = fields.raw(*names)
    if isinstance(value, list) and per_layer:
        value = None
    if value is None:
        return (
            1 if fields.raw("multi_query") is True and not fields.flag("new_decoder_architecture") else heads
        )
    kv_heads = fields.whole(*names, at_most=1 << 14)
    if kv_heads > heads or heads % kv_heads:
        raise BadPlanInput(
            f"{heads} attention heads cannot be shared evenly among {kv_heads} key/value heads.",
            field=fields.given(*names),
        )
    return kv_heads


def _head_dim(fields: Fields, hidden: int, heads: int) -> int:
    given = fields.optional("head_dim", "attention_head_dim", at_most=1 << 14)
    if given is not None:
        return given
    if hidden % heads and fields.raw("kv_lora_rank") is None:
        raise BadPlanInput(
            f"hidden_size {hidden} is no multiple of {heads} attention heads, and head_dim is not given.",
            field="num_attention_heads",
        )
    return max(1, hidden // heads)


def _intermediate(fields: Fields, *, per_layer: bool) -> int:
    names = ("intermediate_size", "n_inner", "ffn_hidden_size", "ffn_dim", "block_ff_dim")
    value = fields.raw(*names)
    if isinstance(value, list) and per_layer:
        return max((size for size in value[:4096] if type(size) is int and 0 < size <= 1 << 24), default=0)
    return 0 if value is None else fields.whole(*names, at_least=0)
