"""What is supervised: one part of the product as a command line with its conditions. Starts nothing."""

import signal
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path


def always_ready() -> bool:
    """For parts without a probe of their own: ready as soon as they run."""
    return True


def nothing_left() -> Sequence[int]:
    """For parts whose orphans need no search beyond what the supervisor sees by itself."""
    return ()


@dataclass(frozen=True, kw_only=True)
class Part:
    """One supervised process.

    `ready` is asked a few times a second until it says True; it must answer within about half a second.
    `waits_for` names parts that should be ready first; after `patience_s` it is started all the same.
    `grace_s` is the time to end after SIGTERM. `find_left_behind` gives pids of further processes that
    belong to this part, asked only once its own process has ended.
    """

    name: str
    argv: Sequence[str]
    cwd: Path
    environment: Mapping[str, str] = field(default_factory=dict)
    withheld_variables: frozenset[str] = frozenset()
    ready: Callable[[], bool] = always_ready
    waits_for: tuple[str, ...] = ()
    patience_s: float = 15.0
    grace_s: float = 10.0
    find_left_behind: Callable[[], Sequence[int]] = nothing_left


def ordinal(number: int) -> str:
    """1st, 2nd, 3rd, 4th … 11th … 21st."""
    if number % 100 in (11, 12, 13):
        return f"{number}th"
    return f"{number}{ {1: 'st', 2: 'nd', 3: 'rd'}.get(number % 10, 'th') }"


def backoff_s(attempt: int) -> float:
    """Seconds before the `attempt`-th restart in a row (1-based): 1, 2, 4, 8, 16, then 30 each."""
    return float(min(30, 2 ** min(attempt - 1, 5)))


def describe_exit(code: int) -> str:
    """How a process ended, from Popen's return code: 'exited with 1' or 'was killed by SIGKILL'."""
    if code >= 0:
        return f"exited with {code}"
    return f"was killed by {_signal_name(-code)}"


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
