"""The time range of a page with charts: `?range=15m`, part of the address, so that it can be shared."""

from __future__ import annotations

from dataclasses import dataclass

from django.http import HttpRequest

RANGES = {"15m": 900, "1h": 3600, "6h": 6 * 3600, "24h": 24 * 3600, "7d": 7 * 24 * 3600}
WORDS = {"15m": "15 min", "1h": "hour", "6h": "6 h", "24h": "24 h", "7d": "7 days"}
DEFAULT = "15m"


@dataclass(frozen=True)
class TimeRange:
    """The chosen range."""

    key: str

    @property
    def window_s(self) -> int:
        """Its length in seconds."""
        return RANGES[self.key]

    @property
    def words(self) -> str:
        """Such as "15 min", to stand after "the last"."""
        return WORDS[self.key]

    @property
    def choices(self) -> list[str]:
        """All ranges, shortest first."""
        return list(RANGES)


def range_of(request: HttpRequest) -> TimeRange:
    """The range in the address; the default for none or an unknown one."""
    wanted = request.GET.get("range", DEFAULT)
    return TimeRange(wanted if wanted in RANGES else DEFAULT)
