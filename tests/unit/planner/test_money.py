"""Dollars are exact where they are a product, None where nothing is known, and fall with the load."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal

from hypothesis import given, settings
from hypothesis import strategies as st

from serving.planner.latency import predict
from serving.planner.money import full_load_concurrency, output_tokens_per_s, price, replica_usd_per_hour
from serving.planner.request import PlanRequest
from serving.planner.result import Money
from tests.unit.planner.latency_cases import CARD, ask, case

prices = st.decimals(min_value=0, max_value=1000, places=6)


def cost(request: PlanRequest, num_blocks: int = 100_000) -> Money | None:
    asked, architecture, memory = case(request, num_blocks=num_blocks)
    return price(asked, architecture, memory, predict(asked, architecture, memory))


def test_the_hour_is_the_price_times_the_accelerators_exactly() -> None:
    money = cost(
        ask(tensor_parallel_size=4, pipeline_parallel_size=2, usd_per_accelerator_hour=Decimal("0.1"))
    )
    assert money is not None and money.usd_per_hour == Decimal("0.8")
    listed = cost(ask(tensor_parallel_size=2))
    assert listed is not None and str(listed.usd_per_hour) == "5.90"


def test_a_million_tokens_cost_what_the_hours_that_make_them_cost() -> None:
    request, architecture, memory = case(ask(concurrency=8, usd_per_accelerator_hour=Decimal(3)))
    latency = predict(request, architecture, memory)
    assert latency is not None
    money = price(request, architecture, memory, latency)
    assert money is not None and money.usd_per_million_output_tokens is not None
    seconds = latency.ttft_unloaded_s.expected + 255 * latency.tpot_s.expected
    hours_per_million = 1e6 / (8 * 256 / seconds) / 3600
    assert abs(float(money.usd_per_million_output_tokens) - 3 * hours_per_million) < 1e-4


@settings(max_examples=60, deadline=None)
@given(
    one=prices, factor=st.integers(2, 9), concurrency=st.integers(1, 300), ranks=st.sampled_from((1, 2, 4))
)
def test_money_is_proportional_to_the_price_and_never_negative(
    one: Decimal, factor: int, concurrency: int, ranks: int
) -> None:
    request = ask(concurrency=concurrency, tensor_parallel_size=ranks, usd_per_accelerator_hour=one)
    cheap, dear = cost(request), cost(replace(request, usd_per_accelerator_hour=one * factor))
    assert cheap is not None and dear is not None
    assert dear.usd_per_hour == cheap.usd_per_hour * factor == one * factor * ranks
    for low, high in (
        (cheap.usd_per_million_output_tokens, dear.usd_per_million_output_tokens),
        (cheap.usd_per_million_output_tokens_full_load, dear.usd_per_million_output_tokens_full_load),
    ):
        assert low is not None and high is not None and low >= 0
        assert abs(high - low * factor) <= high * Decimal("0.0001")


@settings(max_examples=40, deadline=None)
@given(concurrency=st.integers(1, 200), more=st.integers(1, 200))
def test_a_fuller_replica_makes_tokens_no_dearer(concurrency: int, more: int) -> None:
    few, many = cost(ask(concurrency=concurrency)), cost(ask(concurrency=concurrency + more))
    assert few is not None and many is not None
    assert few.usd_per_million_output_tokens is not None and many.usd_per_million_output_tokens is not None
    assert many.usd_per_million_output_tokens <= few.usd_per_million_output_tokens * Decimal("1.0001")


def test_a_free_accelerator_makes_free_tokens() -> None:
    money = cost(ask(usd_per_accelerator_hour=Decimal(0)))
    assert money is not None
    assert money.usd_per_hour == 0
    assert money.usd_per_million_output_tokens == 0 == money.usd_per_million_output_tokens_full_load


def test_the_operators_price_goes_before_the_list_price() -> None:
    assert replica_usd_per_hour(ask()) == Decimal("2.95")
    assert replica_usd_per_hour(ask(usd_per_accelerator_hour=Decimal("0"))) == 0
    assert replica_usd_per_hour(ask(accelerator=replace(CARD, usd_per_hour=None))) is None
    assert cost(ask(accelerator=replace(CARD, usd_per_hour=None))) is None


def test_without_a_prediction_only_the_hour_has_a_price() -> None:
    request = ask(accelerator=replace(CARD, flops_16bit=None))
    assert cost(request) == Money(Decimal("2.95"), None, None)


def test_full_load_is_what_the_cache_or_max_num_seqs_hold() -> None:
    request, _, memory = case(ask(prompt_tokens=1024, output_tokens=256), num_blocks=800)
    assert full_load_concurrency(request, memory) == 10
    assert full_load_concurrency(replace(request, max_num_seqs=4), memory) == 4
    money = cost(request, num_blocks=800)
    assert money is not None and money.full_load_concurrency == 10
    assert money.usd_per_million_output_tokens_full_load is not None
    assert money.usd_per_million_output_tokens is not None
    assert money.usd_per_million_output_tokens_full_load < money.usd_per_million_output_tokens
    nothing = cost(request, num_blocks=0)
    assert nothing is not None and nothing.full_load_concurrency is None
    assert nothing.usd_per_million_output_tokens_full_load is None


def test_requests_that_wait_add_no_tokens() -> None:
    request, architecture, memory = case(ask(concurrency=10), num_blocks=720)
    crowded = replace(request, concurrency=200)
    rates = []
    for asked in (request, crowded):
        latency = predict(asked, architecture, memory)
        assert latency is not None
        rates.append(output_tokens_per_s(asked, memory, latency))
    assert rates[0] == rates[1]
