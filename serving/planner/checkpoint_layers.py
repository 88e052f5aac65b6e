"""Which layers a checkpoint's tensor names hold, against those its config describes. Pure.

Names alone: sizes are compared in `plan_checkpoint`. Towers and draft layers are none of the decoder's.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

from serving.planner.architecture import Architecture
from serving.planner.request import TensorGroup

NOT_THE_DECODER = (
    "vision", "visual", "audio", "image", "encoder", "mtp", "projector", "multi_modal", "resampler",
    "talker", "patch",
)  # fmt: skip
DRAFT_LAYERS = ("num_nextn_predict_layers", "num_mtp_modules", "num_mtp_layers")
DRAFT_LAYERS_AT_MOST = 16
SHOWN = 4


def draft_layers(architecture: Architecture) -> int:
    """Layers for speculative decoding that follow the decoder's in the checkpoint."""
    given = [architecture.text.get(name) for name in DRAFT_LAYERS]
    return max((n for n in given if type(n) is int and 0 < n <= DRAFT_LAYERS_AT_MOST), default=0)


def layers_against(groups: Iterable[TensorGroup], architecture: Architecture) -> str:
    """What the names say against the config's layers; empty where nothing does."""
    stack = _decoder(groups)
    count = len(architecture.layers)
    if not stack:
        return "The checkpoint's tensors name no layers of a decoder."
    held = frozenset().union(*(layers for _, layers in stack))
    wanted = frozenset(range(count))
    missing, further = (
        wanted - held,
        held - wanted - frozenset(range(count, count + draft_layers(architecture))),
    )
    if missing:
        return f"config.json describes {count} layers; the checkpoint has no tensors of {_named(missing)}."
    if further:
        return f"config.json describes {count} layers; the checkpoint also has {_named(further)}."
    return ""


def gaps(groups: Iterable[TensorGroup], architecture: Architecture) -> str:
    """A tensor that few layers of a decoder of equal layers lack; vLLM starts all the same."""
    count = len(architecture.layers)
    if len(set(map(id, architecture.layers))) > 1:
        return ""
    wanted = frozenset(range(count))
    for pattern, layers in _decoder(groups):
        missing = wanted - layers
        if missing and len(missing) * 2 < count and pattern.endswith((".weight", ".bias")):
            return f"The checkpoint's {pattern} is missing in {_named(missing)}."
    return ""


def _decoder(groups: Iterable[TensorGroup]) -> list[tuple[str, frozenset[int]]]:
    """(pattern, its layers) of the stack with the most kinds of tensors."""
    stacks: dict[str, list[tuple[str, frozenset[int]]]] = defaultdict(list)
    for group in groups:
        root, star, _ = group.pattern.partition("*")
        if not star or any(word in root for word in NOT_THE_DECODER):
            continue
        if group.indices:
            stacks[root].append((group.pattern, frozenset(group.indices)))
        elif group.pattern.count("*") == 1 and group.count <= 1 << 14:
            stacks[root].append((group.pattern, frozenset(range(group.count))))
    return max(stacks.values(), key=len, default=[])


def _named(layers: frozenset[int]) -> str:
    numbers = sorted(layers)
    shown = ", ".join(map(str, numbers[:SHOWN])) + (" …" if len(numbers) > SHOWN else "")
    return f"layer{'s' if len(numbers) > 1 else ''} {shown}"
