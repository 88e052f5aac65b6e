"""What a model consists of, as the planner needs it: typed, checked facts of one config.json. Pure.

Only data: `architecture_reading` fills it from a config, `weights` and `kv_cache` do the sums. It must not
know about accelerators, topologies or options.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, TypedDict

AttentionKind = Literal["full_attention", "sliding_attention", "chunked_attention", "mla"]
RecurrentKind = Literal["mamba1", "mamba2", "gated_delta_net", "kda", "short_convolution"]

BYTES_PER_ELEMENT = {"float32": 4, "bfloat16": 2, "float16": 2}


@dataclass(frozen=True)
class Latent:
    """Multi-head latent attention (MLA): one compressed vector per token instead of keys and values."""

    query_rank: int | None
    key_value_rank: int
    nope_head_dim: int
    rope_head_dim: int
    value_head_dim: int
    indexer_heads: int = 0
    indexer_head_dim: int = 0
    """Sparse attention's indexer (DeepSeek V3.2, GLM 5) keeps keys of its own; 0 where there is none."""


@dataclass(frozen=True)
class Attention:
    """The attention of one layer. `window_tokens`: the sliding window, or the chunk of chunked attention."""

    kind: AttentionKind
    heads: int
    kv_heads: int
    head_dim: int
    value_head_dim: int
    window_tokens: int | None = None
    has_own_cache: bool = True
    """False where the layer reads another layer's keys and values (Gemma 3n, Gemma 4)."""
    latent: Latent | None = None


@dataclass(frozen=True)
class Recurrent:
    """A layer with a fixed state per request: Mamba, gated delta net, KDA or a short convolution.

    `heads` × `head_dim` is the inner width; `state_size` is the state per channel (Mamba) or the key head
    dimension; `groups` are Mamba 2's groups or the key heads of linear attention.
    """

    kind: RecurrentKind
    heads: int
    head_dim: int
    state_size: int
    groups: int
    convolution_kernel: int
    time_step_rank: int = 0
    state_is_float32: bool = False
    has_bias: bool = False
    convolution_has_bias: bool = False
    has_norm: bool = True
    has_multipliers: bool = False
    """A fixed vector that scales the input projection's outputs (Falcon H1)."""

    @property
    def inner_width(self) -> int:
        """Channels of the whole layer."""
        return self.heads * self.head_dim


@dataclass(frozen=True)
class Mixture:
    """Experts of one layer. `shared_intermediate` is the width of all shared experts together."""

    experts: int
    experts_per_token: int
    intermediate: int
    shared_intermediate: int = 0
    latent_hidden: int = 0
    """Width the experts work in where it is not the hidden size (Nemotron 3's latent experts); 0: hidden."""


@dataclass(frozen=True)
class Rope:
    """One distinct rotary table that vLLM keeps in model memory: positions × width × bytes.

    Layers whose `key` and sizes are equal share the table.
    """

    key: str
    positions: int
    width: int
    bytes_per_element: int

    @property
    def table_bytes(self) -> int:
        """Size of the table in bytes."""
        return self.positions * self.width * self.bytes_per_element


@dataclass(frozen=True)
class Layer:
    """One decoder layer. A part that the layer does not have is None (or 0)."""

    attention: Attention | None = None
    recurrent: Recurrent | None = None
    dense_intermediate: int = 0
    mixture: Mixture | None = None
    ropes: tuple[Rope, ...] = ()

    @property
    def kind(self) -> str:
        """What mixes tokens in this layer: an attention or recurrent kind, "both", or "none"."""
        if self.attention and self.recurrent:
            return "both"
        part = self.attention or self.recurrent
        return part.kind if part else "none"


class StagePlacement(TypedDict):
    """The traits that say which modules a class builds on every pipeline stage."""

    embedding_everywhere: bool
    head_everywhere: bool
    norm_everywhere: bool


EVERYWHERE: StagePlacement = {"embedding_everywhere": True, "head_everywhere": True, "norm_everywhere": True}
"""Of classes that never ask for their pipeline rank."""


@dataclass(frozen=True)
class Traits:
    """How one family's vLLM class differs from a plain Llama; names are those of its modules.

    `*_everywhere`: built on every pipeline stage because the class does not ask for its rank.
    `query_key_norm`: "head" has one norm vector of head_dim each for queries and keys, "all" one per rank's
    heads, "whole" one over all heads, not sharded.
    """

    attention_name: str = "self_attn"
    mlp_name: str = "mlp"
    mixture_name: str = "mlp"
    router_name: str = "gate"
    shared_name: str = "shared_experts"
    layer_norms: int = 2
    norm_has_bias: bool = False
    norm_has_weight: bool = True
    qkv_bias: bool = False
    output_bias: bool = False
    mlp_bias: bool = False
    mlp_is_gated: bool = True
    experts_are_gated: bool = True
    experts_have_bias: bool = False
    query_key_norm: Literal["none", "head", "all", "whole"] = "none"
    attention_is_gated: bool = False
    has_sinks: bool = False
    router_is_quantizable: bool = False
    router_bias: bool = False
    router_is_float32: bool = False
    has_correction_bias: bool = False
    shared_expert_is_gated: bool = False
    embedding_everywhere: bool = False
    head_everywhere: bool = False
    norm_everywhere: bool = False
    head_has_bias: bool = False
    head_is_quantizable: bool = True
    position_table: int = 0
    """Learned positions, each of hidden_size elements, wherever the embedding is."""
    split_table: int = 0
    """Elements of further tables beside the embedding, split by rank (Gemma 4's per-layer inputs)."""
    table_norm: int = 0
    extra_elements: int = 0
    """Further unsharded elements of the model's dtype per layer."""
    recurrent_is_quantizable: bool = True


@dataclass(frozen=True)
class Architecture:
    """A whole model. Sizes are of the unsharded model; `dtype` is what vLLM loads 16-bit weights in.

    `family` names the closed form that covers it ("" when none does: then only what every decoder has is
    filled in, `is_known` is False and `unknown_because` says why). `text` is the checked text part of the
    config, for the traits that only one family has; `config` is the whole.
    """

    name: str | None
    model_type: str | None
    family: str
    is_known: bool
    layers: tuple[Layer, ...]
    hidden_size: int
    vocab_size: int
    attention_heads: int
    kv_heads: int
    head_dim: int
    intermediate_size: int
    dtype: str
    tie_word_embeddings: bool
    max_context_tokens: int
    default_context_tokens: int
    """What vLLM takes where max_model_len is not given: shorter than the most for LongRoPE models."""
    mixture: Mixture | None = None
    latent: Latent | None = None
    is_multimodal: bool = False
    tower: str = ""
    """The vision tower beside the decoder, by the name of its closed form; empty for a text model."""
    traits: Traits = Traits()
    unknown_because: str = ""
    text: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)
    config: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)

    @property
    def bytes_per_element(self) -> int:
        """Bytes of one unquantised weight."""
        return BYTES_PER_ELEMENT[self.dtype]

    @property
    def moe_layers(self) -> int:
        """Layers that have experts."""
        return sum(layer.mixture is not None for layer in self.layers)

    @property
    def attention_layers(self) -> int:
        """Layers that have attention of any kind."""
        return sum(layer.attention is not None for layer in self.layers)
