"""The modules of one layer's attention on one rank: ordinary and latent (MLA). Pure."""

from __future__ import annotations

from serving.planner.architecture import Attention, Latent, Traits
from serving.planner.layers import Linear, Piece, Rank, Tensor

PART = "attention"
QUERY_KEY_VALUE = ("q_proj", "k_proj", "v_proj")
SCALES_OF_THE_CACHE = Tensor(PART, 4, bytes_per_element=4)
"""Query, key, value and probability scales that every attention module of vLLM registers."""


def attention_pieces(attention: Attention, traits: Traits, *, hidden: int, rank: Rank) -> list[Piece]:
    """Everything of one layer's attention, norms on queries and keys included."""
    if attention.latent is not None:
        return _latent_pieces(attention, attention.latent, traits, hidden=hidden, rank=rank)
    heads = rank.divide(attention.heads, name="num_attention_heads", what="The number of attention heads")
    kv_heads = rank.kv_heads(attention.kv_heads) if attention.kv_heads else 0
    name, size, value_size = traits.attention_name, attention.head_dim, attention.value_head_dim
    queries = heads * size * (2 if traits.attention_is_gated else 1)
    outputs = (queries, kv_heads * size, kv_heads * value_size)
    pieces: list[Piece] = [
        Linear(
            PART, f"{name}.qkv_proj", hidden, outputs, hidden, bias=traits.qkv_bias, shards=QUERY_KEY_VALUE
        ),
        Linear(
            PART,
            f"{name}.o_proj",
            heads * value_size,
            (hidden,),
            attention.heads * value_size,
            bias=traits.output_bias,
        ),
        SCALES_OF_THE_CACHE,
    ]
    if traits.has_sinks:
        pieces.append(Tensor(PART, heads))
    norm = _query_key_norm(attention, traits, heads=heads, kv_heads=kv_heads)
    return [*pieces, Tensor(PART, norm)] if norm else pieces


def _query_key_norm(attention: Attention, traits: Traits, *, heads: int, kv_heads: int) -> int:
    """Elements of the norms on queries and keys."""
    if traits.query_key_norm == "head":
        return 2 * attention.head_dim
    if traits.query_key_norm == "all":
        return (heads + kv_heads) * attention.head_dim
    if traits.query_key_norm == "whole":
        return (attention.heads + attention.kv_heads) * attention.head_dim
    return 0


def _latent_pieces(
    attention: Attention, latent: Latent, traits: Traits, *, hidden: int, rank: Rank
) -> list[Piece]:
    """MLA: the projections down are on every rank, those up to the heads are split."""
    heads = rank.divide(attention.heads, name="num_attention_heads", what="The number of attention heads")
    name, query_head = traits.attention_name, latent.nope_head_dim + latent.rope_head_dim
    down = latent.key_value_rank + latent.rope_head_dim
    pieces: list[Piece] = [Tensor(PART, latent.key_value_rank), SCALES_OF_THE_CACHE]
    if latent.query_rank is not None:
        pieces += [
            Linear(
                PART, f"{name}.fused_qkv_a_proj", hidden, (latent.query_rank, down), hidden,
                shards=("q_a_proj", "kv_a_proj_with_mqa"), is_split=False,
            ),
            Tensor(PART, latent.query_rank),
            Linear(PART, f"{name}.q_b_proj", latent.query_rank, (heads * query_head,), latent.query_rank),
        ]  # fmt: skip
    else:
        pieces += [
            Linear(PART, f"{name}.kv_a_proj_with_mqa", hidden, (down,), hidden, is_split=False),
            Linear(PART, f"{name}.q_proj", hidden, (heads * query_head,), hidden),
        ]
    up = heads * (latent.nope_head_dim + latent.value_head_dim)
    values = latent.value_head_dim
    pieces += [
        Linear(PART, f"{name}.kv_b_proj", latent.key_value_rank, (up,), latent.key_value_rank),
        Linear(PART, f"{name}.o_proj", heads * values, (hidden,), attention.heads * values),
    ]
    return pieces + (_indexer_pieces(latent, name, hidden=hidden) if latent.indexer_heads else [])


def _indexer_pieces(latent: Latent, name: str, *, hidden: int) -> list[Piece]:
    """The indexer of sparse attention is on every rank whole."""
    query_rank, size, heads = latent.query_rank or hidden, latent.indexer_head_dim, latent.indexer_heads
    return [
        Linear(PART, f"{name}.indexer.wq_b", query_rank, (size * heads,), query_rank, is_split=False),
        Linear(PART, f"{name}.indexer.wk_weights_proj", hidden, (size, heads), hidden, quantizable=False),
        Tensor(PART, 2 * size, bytes_per_element=4),
    ]
