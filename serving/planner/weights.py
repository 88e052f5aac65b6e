"""Bytes of a model's weights on each pipeline stage, per tensor-parallel rank, as vLLM 0.29 allocates them.

Pure. Rotary tables and scales count: they lie in model memory too. What a stage holds besides its layers
follows the class (some build the embedding and the head on every stage).
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from serving.planner.architecture import Architecture, Layer
from serving.planner.layers import Experts, Linear, Piece, Rank, Tensor
from serving.planner.layers_attention import attention_pieces
from serving.planner.layers_feed_forward import feed_forward_pieces
from serving.planner.layers_recurrent import recurrent_pieces
from serving.planner.quantization import UNQUANTIZED
from serving.planner.quantization_reading import Quantization
from serving.planner.weights_checks import check_experts, check_linear
from serving.planner.weights_padding import padded_experts, relayout_bytes
from serving.planner.weights_tower import tower_bytes

VOCABULARY_PADDING = 64


@dataclass(frozen=True)
class StageWeights:
    """One pipeline stage of one rank: its layers and the bytes by part."""

    first_layer: int
    layers: int
    parts: dict[str, int]

    @property
    def total_bytes(self) -> int:
        """All parts together."""
        return sum(self.parts.values())


@dataclass
class Weights:
    """All stages. `problems`: (field, message) of sizes the engine would refuse to split."""

    stages: tuple[StageWeights, ...]
    problems: list[tuple[str, str]] = field(default_factory=list)


def stage_layers(layers: int, stages: int) -> list[tuple[int, int]]:
    """(first, count) of every stage: vLLM's get_pp_indices, the remainder before the last stage."""
    counts = [layers // stages] * stages
    for offset in range(2, 2 + layers % stages):
        counts[-offset if offset <= stages else -1] += 1
    firsts = [sum(counts[:index]) for index in range(stages)]
    return list(zip(firsts, counts, strict=True))


def plan_weights(
    architecture: Architecture,
    quantization: Quantization,
    *,
    tensor_parallel: int,
    pipeline_parallel: int,
    expert_parallel: bool = False,
    compute_capability: tuple[int, int] | None = None,
) -> Weights:
    """Weight bytes of every stage of one rank."""
    rank = Rank(tensor_parallel, expert_parallel)
    tower = tower_bytes(architecture, quantization, rank)
    sizer = _Sizer(architecture, quantization, rank, compute_capability)
    stages = []
    for index, (first, count) in enumerate(stage_layers(len(architecture.layers), pipeline_parallel)):
        parts = sizer.layers_parts(first, count)
        parts.update(sizer.outer_parts(is_first=index == 0, is_last=index == pipeline_parallel - 1))
        tables = {rope for layer in architecture.layers[first : first + count] for rope in layer.ropes}
        parts["rotary_tables"] = sum(table.table_bytes for table in tables)
        parts["vision_tower"] = tower
        stages.append(StageWeights(first, count, {part: size for part, size in parts.items() if size}))
    return Weights(tuple(stages), rank.problems)


def padded_vocabulary(vocabulary: int) -> int:
    """Rows of the embedding: rounded up to a multiple of 64."""
    return -(-vocabulary // VOCABULARY_PADDING) * VOCABULARY_PADDING


def total_parameters(architecture: Architecture) -> int:
    """Parameters of the whole model: weights and norms, without rotary tables and scales."""
    return _parameters(architecture, active=False)


def active_parameters(architecture: Architecture) -> int:
    """Parameters that one token passes: of routed experts only those chosen for it."""
    return _parameters(architecture, active=True)


def _parameters(architecture: Architecture, *, active: bool) -> int:
    rank, total = Rank(1), 0
    for layer, count in Counter(architecture.layers).items():
        for piece in layer_pieces(architecture, layer, rank):
            total += count * _elements(piece, layer, active=active)
    matrices = 1 if architecture.tie_word_embeddings else 2
    total += architecture.hidden_size * (architecture.vocab_size * matrices + 1)
    traits = architecture.traits
    return total + traits.position_table * architecture.hidden_size + traits.split_table + traits.table_norm


def _elements(piece: Piece, layer: Layer, *, active: bool) -> int:
    if isinstance(piece, Tensor):
        return 0 if piece.elements == 4 and piece.bytes_per_element == 4 else piece.elements
    if isinstance(piece, Linear):
        return piece.inputs * piece.width + (piece.width if piece.bias else 0)
    count = layer.mixture.experts_per_token if active and layer.mixture else piece.count
    bias = piece.shards * piece.intermediate + piece.hidden if piece.bias else 0
    return count * ((piece.shards + 1) * piece.intermediate * piece.hidden + bias)


def layer_pieces(architecture: Architecture, layer: Layer, rank: Rank) -> list[Piece]:
    """Every module of one layer on one rank."""
    hidden, traits = architecture.hidden_size, architecture.traits
    pieces: list[Piece] = []
    if layer.attention is not None:
        pieces += attention_pieces(layer.attention, traits, hidden=hidden, rank=rank)
    if layer.recurrent is not None:
        pieces += recurrent_pieces(layer.recurrent, traits, hidden=hidden, rank=rank)
    pieces += feed_forward_pieces(layer, traits, hidden=hidden, rank=rank)
    if traits.norm_has_weight:
        norms = traits.layer_norms * hidden * (2 if traits.norm_has_bias else 1)
        pieces.append(Tensor("norms", norms + traits.extra_elements))
    return pieces


class _Sizer:
    """Turns pieces into bytes, remembering equal layers: most models have two or three different ones."""

    def __init__(
        self,
        architecture: Architecture,
        quantization: Quantization,
        rank: Rank,
        compute_capability: tuple[int, int] | None,
    ) -> None:
        self.architecture = architecture
        self.quantization = quantization
        self.rank = rank
        self.compute_capability = compute_capability
        self._pieces: dict[int, list[Piece]] = {}
        self._parts: dict[int, Counter[str]] = {}
        self._alike = self._first_alike()

    def layers_parts(self, first: int, count: int) -> Counter[str]:
        """Bytes of consecutive layers by part."""
        parts: Counter[str] = Counter()
        for index, number in Counter(self._alike[first : first + count]).items():
            if index not in self._parts:
                self._parts[index] = self._sized(self.architecture.layers[index], index)
            for part, size in self._parts[index].items():
                parts[part] += number * size
        return parts

    def _first_alike(self) -> list[int]:
        """For every layer the first one of its size: equal layers share one object, and only those that a
        list names by number are sized on their own."""
        layers = self.architecture.layers
        named = self.quantization.named_layers(len(layers))
        first: dict[int, int] = {}
        return [
            index if index in named else first.setdefault(id(layer), index)
            for index, layer in enumerate(layers)
        ]

    def outer_parts(self, *, is_first: bool, is_last: bool) -> Counter[str]:
        """Embedding, head and last norm of a stage."""
        model, traits, parts = self.architecture, self.architecture.traits, Counter[str]()
        rows = padded_vocabulary(model.vocab_size)
        share = self.rank.divide(rows, name="vocab_size", what="The padded vocabulary")
        tied = model.tie_word_embeddings
        matrix = share * model.hidden_size * model.bytes_per_element
        has_embedding = is_first or traits.embedding_everywhere or (tied and is_last)
        if has_embedding:
            parts["embedding"] = matrix
            unsplit = traits.position_table * model.hidden_size + traits.table_norm
            tables = traits.split_table // self.rank.tensor_parallel + unsplit
            parts["embedding"] += tables * model.bytes_per_element
        if not tied and (is_last or traits.head_everywhere):
            parts["head"] = self._head_bytes(share)
        if traits.norm_has_weight and (is_last or traits.norm_everywhere):
            parts["norms"] = model.hidden_size * model.bytes_per_element * (2 if traits.norm_has_bias else 1)
        return parts

    def _head_bytes(self, share: int) -> int:
        model = self.architecture
        linear = Linear(
            "head", "lm_head", model.hidden_size, (share,), model.hidden_size, bias=model.traits.head_has_bias
        )
        scheme = UNQUANTIZED
        if self.quantization.head and model.traits.head_is_quantizable:
            scheme = self.quantization.scheme_of("lm_head", ())
        return scheme.linear_bytes(linear, model.bytes_per_element)

    def _sized(self, layer: Layer, index: int) -> Counter[str]:
        parts: Counter[str] = Counter()
        pieces = self._pieces.get(id(layer))
        if pieces is None:
            pieces = self._pieces[id(layer)] = layer_pieces(self.architecture, layer, self.rank)
        for piece in pieces:
            parts[piece.part] += self._piece_bytes(piece, f"layers.{index}.")
        return parts

    def _piece_bytes(self, piece: Piece, prefix: str) -> int:
        default = self.architecture.bytes_per_element
        if isinstance(piece, Tensor):
            return piece.elements * (piece.bytes_per_element or default)
        if isinstance(piece, Experts):
            scheme = self.quantization.scheme_of(prefix + piece.name, (), experts=True)
            check_experts(piece, scheme, self.rank)
            padded = padded_experts(piece, scheme, self.compute_capability)
            return scheme.experts_bytes(padded, default) + relayout_bytes(
                padded, scheme, self.compute_capability
            )
        scheme = (
            self.quantization.scheme_of(prefix + piece.name, piece.shards)
            if piece.quantizable
            else UNQUANTIZED
        )
        check_linear(piece, scheme, self.rank)
        return scheme.linear_bytes(piece, default)
