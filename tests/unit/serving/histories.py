"""Random histories of a deployment for the tests of cost sharing: lives, prices, minimums, requests."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from hypothesis import strategies as st

from serving.cost import Life, Price
from serving.idle import Claim, Minimum
from serving.work import Served

START = 1_800_000_000
LASTS_S = 120
"""Everything happens within these seconds; an hour finds nothing more and takes thirty times as long."""

moments = st.floats(min_value=START, max_value=START + LASTS_S, allow_nan=False, width=64)
durations = st.floats(min_value=0, max_value=40) | st.just(0.0)
money = st.decimals(min_value=0, max_value=100_000, places=6) | st.just(Decimal("2.5"))
prices = st.lists(st.builds(Price, st.just(0.0) | moments, money), min_size=1, max_size=3)
minimums = st.lists(st.builds(Minimum, st.just(0.0) | moments, st.integers(0, 3)), max_size=3)
tokens = st.none() | st.integers(0, 5000)
seconds = st.none() | durations


@st.composite
def claims(draw: Any, replica_id: str = "r1") -> Claim:
    """A life, with or without having been ready, drained and ended, in that order."""
    facts = sorted(draw(st.lists(moments, min_size=4, max_size=4)))
    known = draw(st.integers(0, 3))
    ready, draining, ended = (at if known >= i else None for i, at in enumerate(facts[1:], start=1))
    if draw(st.booleans()):
        ready = None
    if draw(st.booleans()):
        draining = None
    return Claim(replica_id, Life(facts[0], ended, draw(st.integers(1, 64))), ready, draining)


@st.composite
def fleets(draw: Any) -> list[Claim]:
    """One to four replicas of one deployment."""
    return [draw(claims(f"r{i}")) for i in range(draw(st.integers(1, 4)))]


@st.composite
def served(draw: Any, request_id: str = "q") -> Served:
    """A usage record, measured in parts, that may contradict itself."""
    started = draw(moments)
    return Served(
        id=request_id,
        started_at=started,
        finished_at=started + draw(durations),
        stream=draw(st.booleans()),
        woke=draw(st.booleans()),
        gateway_s=draw(seconds),
        queue_s=draw(seconds),
        prefill_s=draw(seconds),
        ttft_s=draw(seconds),
        decode_s=draw(seconds),
        prompt_tokens=draw(tokens),
        cached_tokens=draw(tokens),
        completion_tokens=draw(tokens),
    )


@st.composite
def requests(draw: Any, most: int = 8) -> list[Served]:
    """Up to `most` requests with ids of their own."""
    return [draw(served(f"q{i}")) for i in range(draw(st.integers(0, most)))]
