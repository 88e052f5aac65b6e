"""Bytes of a multimodal model's vision (or audio) tower on the first stage of one rank. Pure."""

from __future__ import annotations

from serving.planner.architecture import Architecture
from serving.planner.request import PlanRequest


def tower_bytes(request: PlanRequest, architecture: Architecture) -> int:
    """Bytes per rank; 0 for a text model."""
    return 0
