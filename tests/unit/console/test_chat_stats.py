"""The figures of a reply, by hand-made clocks."""

from __future__ import annotations

from decimal import Decimal

import pytest

from console.chat_stats import ReplicaPrice, ReplyClock, stats_of, with_engine


def clock(*pieces: float, ended_at: float) -> ReplyClock:
    made = ReplyClock(started_at=100.0)
    for moment in pieces:
        made.piece(moment)
    made.end(ended_at)
    return made


def test_times_tokens_and_price_of_a_whole_reply() -> None:
    price = ReplicaPrice(per_accelerator_hour_usd=Decimal("2.50"), accelerators=4)
    stats = stats_of(
        clock=clock(100.2, 100.3, 100.6, ended_at=100.8), prompt_tokens=20, completion_tokens=5, price=price
    )
    assert stats["ttft_s"] == pytest.approx(0.2)
    assert stats["tpot_s"] == pytest.approx(0.4 / 4)
    assert stats["tokens_per_s"] == pytest.approx(5 / 0.8)
    assert Decimal(stats["cost_usd"]) == (Decimal("0.8") / 3600 * Decimal("2.50") * 4).quantize(
        Decimal("1E-8")
    )


def test_what_was_not_measured_is_missing_not_zero() -> None:
    stats = stats_of(clock=clock(ended_at=100.1), prompt_tokens=None, completion_tokens=None, price=None)
    assert [stats[name] for name in ("ttft_s", "tpot_s", "tokens_per_s", "cost_usd")] == [None] * 4
    one = stats_of(clock=clock(100.1, ended_at=100.2), prompt_tokens=1, completion_tokens=1, price=None)
    assert one["ttft_s"] == pytest.approx(0.1) and one["tpot_s"] is None


def test_a_stopped_reply_counts_its_pieces_until_the_engines_count_arrives() -> None:
    stats = stats_of(
        clock=clock(100.2, 100.4, 100.6, ended_at=101.0),
        prompt_tokens=None,
        completion_tokens=None,
        price=None,
    )
    assert (stats["completion_tokens"], stats["tokens_counted"]) == (3, True)
    engine = {"engine_ttft_s": 0.15, "prompt_tokens": 9, "completion_tokens": 5}
    true = with_engine(stats, engine)
    assert (true["completion_tokens"], true["tokens_counted"], true["prompt_tokens"]) == (5, False, 9)
    assert true["tpot_s"] == pytest.approx(0.4 / 4) and true["tokens_per_s"] == pytest.approx(5.0)
    assert true["engine_ttft_s"] == 0.15


def test_what_was_seen_of_a_stopped_reply_is_never_taken_back() -> None:
    stats = stats_of(
        clock=clock(100.2, 100.4, 100.6, ended_at=101.0),
        prompt_tokens=None,
        completion_tokens=None,
        price=None,
    )
    final = with_engine(stats, {"engine_ttft_s": 0.1, "prompt_tokens": 9, "completion_tokens": 2})
    assert (final["completion_tokens"], final["tokens_counted"]) == (3, False)
    assert (final["tpot_s"], final["tokens_per_s"]) == (stats["tpot_s"], stats["tokens_per_s"])


def test_a_reply_without_a_token_costs_nothing() -> None:
    price = ReplicaPrice(per_accelerator_hour_usd=Decimal("2.50"), accelerators=4)
    stats = stats_of(clock=clock(ended_at=100.5), prompt_tokens=None, completion_tokens=None, price=price)
    assert (stats["completion_tokens"], stats["cost_usd"]) == (0, None)


def test_a_whole_replys_count_is_not_replaced() -> None:
    stats = stats_of(clock=clock(100.2, ended_at=101.0), prompt_tokens=3, completion_tokens=7, price=None)
    engine = {"engine_ttft_s": None, "prompt_tokens": 99, "completion_tokens": 99}
    merged = with_engine(stats, engine)
    assert (merged["completion_tokens"], merged["prompt_tokens"]) == (7, 3)
    assert with_engine(stats, None) is stats
