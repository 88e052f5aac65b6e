"""Recorded facts that planner tests compare with: real models, engine logs, verdicts, exact answers."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

from serving.planner.request import GIB, Accelerator

RECORDINGS = Path(__file__).parents[2] / "recordings" / "planner"


@cache
def recording(name: str) -> dict[str, Any]:
    """One file of tests/recordings/planner, parsed."""
    return json.loads((RECORDINGS / name).read_text())  # type: ignore[no-any-return]


def models() -> list[dict[str, Any]]:
    """The recorded models with what vLLM's own classes said of them."""
    return recording("models.json")["models"]  # type: ignore[no-any-return]


def model(name: str) -> dict[str, Any]:
    """One recorded model by its id."""
    return next(found for found in models() if found["id"] == name)


def topology(key: str) -> tuple[int, int]:
    """(tensor parallel, pipeline parallel) of a key such as tp8pp2."""
    tensor, _, pipeline = key.removeprefix("tp").partition("pp")
    return int(tensor), int(pipeline)


def card(
    *, usable_gib: float, name: str = "H100", capability: tuple[int, int] | None = (9, 0)
) -> Accelerator:
    """An accelerator with the memory that a log names."""
    return Accelerator(name, int(usable_gib * GIB), compute_capability=capability)
