"""The pieces a decoder layer is made of, sized for one tensor-parallel rank. Pure.

A piece says what vLLM allocates (inputs, outputs, experts) but not in which format: `quantization` turns
it into bytes. It must not know any model family.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Linear:
    """A linear module of one rank. `outputs`: its fused partitions; `name`: as vLLM and checkpoints call it.

    `shards` are the checkpoint's names of the fused partitions (q_proj, k_proj, v_proj), which exclusion
    lists use. `full_inputs` is the unsharded input size; `quantizable` False where vLLM passes no
    quantisation config.
    """

    part: str
    name: str
    inputs: int
    outputs: tuple[int, ...]
    full_inputs: int
    bias: bool = False
    quantizable: bool = True
    shards: tuple[str, ...] = ()
    bytes_per_element: int | None = None
    is_split: bool = True
    """False where every tensor-parallel rank holds the whole module."""

    @property
    def width(self) -> int:
        """All outputs of this rank."""
        return sum(self.outputs)


@dataclass(frozen=True)
class Experts:
    """The routed experts of one layer on one rank: `count` experts of `intermediate` channels each."""

    name: str
    count: int
    hidden: int
    intermediate: int
    full_intermediate: int
    gated: bool = True
    bias: bool = False
    part: str = "experts"

    @property
    def shards(self) -> int:
        """Fused input projections: gate and up, or up alone."""
        return 2 if self.gated else 1


@dataclass(frozen=True)
class Tensor:
    """A parameter that is never quantised. `bytes_per_element` None takes the model's dtype."""

    part: str
    elements: int
    bytes_per_element: int | None = None


Piece = Linear | Experts | Tensor


@dataclass
class Rank:
    """One rank's share. Sizes that do not divide are noted in `problems` as (field, message), once."""

    tensor_parallel: int
    expert_parallel: bool = False
    problems: list[tuple[str, str]] = field(default_factory=list)

    def divide(self, size: int, *, name: str, what: str) -> int:
        """This rank's part of `size`; notes a problem where the engine would refuse to split it."""
        if size % self.tensor_parallel:
            self.refuse(
                name, f"{what} ({size:,}) is not divisible by {self.tensor_parallel} tensor-parallel ranks."
            )
        return -(-size // self.tensor_parallel)

    def kv_heads(self, kv_heads: int) -> int:
        """Key/value heads of this rank: replicated where there are more ranks than heads."""
        tp = self.tensor_parallel
        if kv_heads >= tp and kv_heads % tp:
            self.refuse(
                "num_key_value_heads",
                f"{kv_heads} key/value heads cannot be shared evenly among {tp} tensor-parallel ranks.",
            )
        elif kv_heads < tp and tp % kv_heads:
            self.refuse(
                "num_key_value_heads",
                f"{tp} tensor-parallel ranks are no multiple of {kv_heads} key/value heads.",
            )
        return max(1, kv_heads // tp)

    def refuse(self, name: str, message: str) -> None:
        """Note why the engine would not start, once per field and message."""
        if (name, message) not in self.problems:
            self.problems.append((name, message))
