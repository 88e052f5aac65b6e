"""What a probe says about one part."""

from dataclasses import asdict, dataclass
from typing import Any, Literal

State = Literal["ok", "warn", "fail"]

# A probe that waits for an answer waits this long.
TIMEOUT_S = 3.0
START_IT = "Start it with `make run` (or `python manage.py up`); logs are in the data folder under logs/."


@dataclass(frozen=True)
class PartState:
    """How one part is. `advice` says what to do, empty when all is well; `took_s` is the probe's time."""

    name: str
    state: State
    summary: str
    advice: str = ""
    took_s: float = 0.0

    def as_json(self) -> dict[str, Any]:
        """The fields as JSON types."""
        return asdict(self)
