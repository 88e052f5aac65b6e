"""The recorded configs of real models (tests/recordings/planner/models.json)."""

import json
from pathlib import Path
from typing import Any

RECORDED = Path(__file__).resolve().parents[2] / "recordings" / "planner" / "models.json"


def real_configs() -> list[dict[str, Any]]:
    """Every recorded config.json."""
    return [model["config"] for model in json.loads(RECORDED.read_text())["models"]]
