"""Looks for layers that lack what their neighbours have, from tensor names alone. Pure.

vLLM 0.29 starts without a word when a tensor of a layer is missing from the files, and then answers
nonsense, so this is worth saying before anything is deployed.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable

NUMBERED = re.compile(r"^(.*?\.)(\d{1,5})\.(.+)$")


def missing_in_layers(names: Iterable[str]) -> list[str]:
    """Names of tensors that a layer lacks while at least half of the layers have them, in order.

    A layer counts as incomplete only when it holds nothing that the others do not: mixed stacks (dense and
    expert layers, attention and state-space layers) differ both ways and are left alone.
    """
    missing: list[str] = []
    for prefix, layers in _stacks(names).items():
        usual, count = max(Counter(layers.values()).items(), key=lambda found: (found[1], len(found[0])))
        if count * 2 < len(layers):
            continue
        for number, held in sorted(layers.items()):
            if held < usual:
                missing += [f"{prefix}{number}.{name}" for name in sorted(usual - held)]
    return missing


def layers_held(names: Iterable[str]) -> int | None:
    """How many layers the largest stack holds, None without any."""
    stacks = _stacks(names)
    if not stacks:
        return None
    largest = max(stacks.values(), key=lambda layers: sum(len(held) for held in layers.values()))
    return len(largest)


def _stacks(names: Iterable[str]) -> dict[str, dict[int, frozenset[str]]]:
    """Stack (the name up to the number) -> layer number -> what the layer holds."""
    found: dict[str, dict[int, set[str]]] = defaultdict(lambda: defaultdict(set))
    for name in names:
        match = NUMBERED.match(name)
        if match is not None:
            found[match.group(1)][int(match.group(2))].add(match.group(3))
    return {
        stack: {number: frozenset(held) for number, held in layers.items()} for stack, layers in found.items()
    }
