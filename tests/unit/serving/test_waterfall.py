"""Parts of a request: in order, adding up, measured and derived told apart; for every way it can end."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.waterfall import LABELS, Part, parts_of

NAMES = ("gateway_s", "held_s", "queue_s", "prefill_s", "engine_decode_s", "decode_s", "ttft_s", "e2e_s")


def record(*, stream: bool = False, **figures: float | None) -> Any:
    return SimpleNamespace(stream=stream, **{name: figures.get(name) for name in NAMES})


def shown(parts: list[Part]) -> str:
    return ", ".join(f"{part.name} {part.how[0]} {round(part.seconds * 1000, 3):g}" for part in parts)


ENGINE = {"queue_s": 0.01, "prefill_s": 0.1, "engine_decode_s": 0.5}
UNARY = record(gateway_s=0.002, held_s=0.0, e2e_s=0.65, **ENGINE)
WOKE = record(gateway_s=0.002, held_s=20.0, e2e_s=20.7, **ENGINE)
STREAM = record(stream=True, gateway_s=0.002, held_s=0.0, ttft_s=0.12, decode_s=0.51, e2e_s=0.65, **ENGINE)
ABORTED = record(stream=True, gateway_s=0.002, ttft_s=0.12, decode_s=0.2, e2e_s=0.33, **ENGINE)
OLDER = record(
    stream=True, gateway_s=0.002, ttft_s=0.12, decode_s=0.4, e2e_s=0.53, queue_s=0.01, prefill_s=0.1
)


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        (UNARY, "gateway m 2, hop d 38, queue m 10, prefill m 100, decode m 500"),
        (STREAM, "gateway m 2, hop d 8, queue m 10, prefill m 100, decode m 500, rest d 30"),
        (WOKE, "gateway m 2, held m 20000, hop d 88, queue m 10, prefill m 100, decode m 500"),
        # Refused before the engine; held, and the model did not start in time.
        (record(held_s=0.0, e2e_s=0.001), "gateway m 1"),
        (record(held_s=20.0, e2e_s=20.1), "gateway m 100, held m 20000"),
        # Refused by the engine, or broken off: it has told nothing.
        (record(gateway_s=0.002, held_s=0.0, e2e_s=0.02), "gateway m 2, engine d 18"),
        # The caller left, the engine worked on a little longer.
        (ABORTED, "gateway m 2, hop d 0, queue m 10, prefill m 100, decode m 218"),
        (OLDER, "gateway m 2, hop d 8, queue m 10, prefill m 100, decode m 400, rest d 10"),
        (record(gateway_s=0.1), ""),
    ],
)
def test_parts_by_outcome(asked: Any, expected: str) -> None:
    assert shown(parts_of(asked)) == expected


SECONDS = st.none() | st.floats(0, 1e6)


@given(st.booleans(), st.fixed_dictionaries({name: SECONDS for name in NAMES}))
def test_parts_add_up_follow_one_another_and_are_never_negative(
    stream: bool, figures: dict[str, float | None]
) -> None:
    parts = parts_of(record(stream=stream, **figures))
    assert (figures["e2e_s"] is None) == (parts == [])
    end = 0.0
    for part in parts:
        assert part.seconds >= 0 and part.name in LABELS and part.label
        assert part.start_s == pytest.approx(end, abs=1e-6)
        end = part.start_s + part.seconds
    assert end == pytest.approx(figures["e2e_s"] or 0.0, abs=1e-6)
