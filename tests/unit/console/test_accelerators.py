"""The catalogue as the organisation has it: what is merged, in which order, and which price holds when."""

from __future__ import annotations

import time
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from console.accelerators import (
    catalogue_entries,
    catalogue_entry,
    planner_accelerator,
    planner_accelerators,
    price_of,
)
from console.models import (
    AcceleratorPrice,
    CatalogueAccelerator,
    ClusterStatus,
    Deployment,
    RegisteredModel,
    Revision,
)
from serving.accelerators import GIB, accelerator, accelerator_types

pytestmark = pytest.mark.django_db

NOON = datetime(2026, 11, 22, 12, tzinfo=UTC).timestamp()
TODAY = date(2026, 11, 22)


def see(*nodes: dict[str, Any]) -> None:
    stored = [{"name": f"n{i}", "alive": True, "memory_bytes": GIB, **node} for i, node in enumerate(nodes)]
    ClusterStatus.objects.create(pk=1, reachable=True, observed_at=time.time(), nodes=stored)


def priced(name: str, usd: str, from_date: date) -> AcceleratorPrice:
    return AcceleratorPrice.objects.create(
        accelerator_type=name, usd_per_hour=Decimal(usd), from_date=from_date, source="contract 7"
    )


def asks_for(name: str, kind: str) -> None:
    model, _ = RegisteredModel.objects.get_or_create(name="m", source_kind="folder", source="/m")
    deployment = Deployment.objects.create(name=name, model=model, requested_at=0)
    engine = {"accelerator_type": kind}
    deployment.current_revision = Revision.objects.create(deployment=deployment, number=1, engine=engine)
    deployment.save()


def names() -> list[str]:
    return [entry.name for entry in catalogue_entries(NOON)]


def test_untouched_the_catalogue_is_the_shipped_one() -> None:
    entries = catalogue_entries(NOON)
    assert [entry.name for entry in entries] == accelerator_types()
    h100 = entries[0]
    assert h100.accelerator == accelerator("H100")
    assert {figure.origin for figure in h100.figures.values()} == {"shipped", "assumed", ""}
    assert (h100.version, h100.supply_words, h100.is_changed, h100.detected) == (1, "Not said", False, 0)
    assert h100.price is not None and h100.price.is_list_price and "AWS" in h100.price.short_source


def test_detected_types_come_first_then_owned_then_rented() -> None:
    see({"accelerators": {"L4": 1}}, {"accelerators": {"A100": 4}}, {"accelerators": {"A100": 4}})
    CatalogueAccelerator.objects.create(name="T4", supply="rented")
    CatalogueAccelerator.objects.create(name="H200", supply="owned")
    CatalogueAccelerator.objects.create(name="A100", supply="rented")
    assert names()[:5] == ["A100", "L4", "H200", "T4", "H100"]


def test_nodes_are_counted_and_lost_ones_are_not() -> None:
    see(
        {"accelerators": {"H100": 4}, "accelerators_claimed": {"H100": 3}},
        {"accelerators": {"H100": 2}, "alive": False},
        {"accelerators": {}},
    )
    entry = catalogue_entry("h100", NOON)
    assert entry is not None
    assert (entry.detected, [node.claimed for node in entry.nodes]) == (4, [3, 0])
    assert [(node.name, node.alive) for node in entry.nodes] == [("n0", True), ("n1", False)]
    assert entry.figures["accelerators_per_node"].origin == "cluster"
    assert entry.figures["accelerators_per_node"].value == 4
    # Plans are for nodes that could be had, too.
    assert entry.accelerator is not None and entry.accelerator.accelerators_per_node == 8


def test_a_type_that_only_ray_knows_is_listed_first_and_cannot_be_planned_with() -> None:
    see({"accelerators": {"Strange-Card": 2}})
    entry = catalogue_entries(NOON)[0]
    assert (entry.name, entry.detected, entry.accelerator, entry.price) == ("Strange-Card", 2, None, None)
    assert planner_accelerator("Strange-Card") is None


def test_the_operators_figures_replace_the_shipped_ones_in_the_planners_units() -> None:
    CatalogueAccelerator.objects.create(
        name="H100", usable_bytes=70 * GIB, memory_bandwidth_gb_per_s=3000.5, accelerators_per_node=4
    )
    found = planner_accelerator("h100", now=NOON)
    assert found is not None
    assert (found.usable_bytes, found.memory_bandwidth_bytes_per_s) == (70 * GIB, 3000.5e9)
    assert (found.accelerators_per_node, found.flops_16bit, found.flops_fp4) == (4, 989e12, None)
    assert found.free_at_start_bytes == {}, "those were measured on a card with another total"
    entry = catalogue_entry("H100", NOON)
    assert entry is not None and entry.is_changed
    figure = entry.figures["usable_bytes"]
    assert (figure.value, figure.origin, figure.shipped) == (70 * GIB, "yours", int(79.18 * GIB))


def test_a_type_of_ones_own_can_be_planned_with() -> None:
    CatalogueAccelerator.objects.create(
        name="Our-Card", vendor="We", usable_bytes=10 * GIB, tflops_16bit=12.5, compute_capability="9.1"
    )
    priced("Our-Card", "0.25", TODAY)
    found = planner_accelerator("our-card", now=NOON)
    assert found is not None
    assert (found.name, found.vendor, found.usable_bytes) == ("Our-Card", "We", 10 * GIB)
    assert (found.flops_16bit, found.memory_bandwidth_bytes_per_s) == (12.5e12, None)
    assert (found.compute_capability, found.usd_per_hour) == ((9, 1), Decimal("0.25"))
    assert "contract 7, from 2026-11-22" in found.price_note
    assert found in planner_accelerators(NOON)


def test_the_variant_that_the_organisation_has_is_planned_with() -> None:
    CatalogueAccelerator.objects.create(name="A100", variant="A100-SXM4-40GB")
    mine, other = planner_accelerator("A100"), planner_accelerator("A100", "PCIe")
    assert mine is not None and other is not None
    assert mine.usable_bytes < 40 * GIB and "40GB" in mine.price_note
    assert (other.variant, other.usable_bytes > 70 * GIB) == ("A100-PCIe-80GB", True)
    assert planner_accelerator("A100", "60GB") is None
    priced("A100", "1.5", TODAY)
    for spelt in ("A100", "A100-PCIe-80GB", "a100-sxm4-40gb"):
        found = planner_accelerator(spelt, now=NOON)
        assert found is not None and found.usd_per_hour == Decimal("1.5")


def test_a_size_label_that_nothing_uses_is_found_but_not_listed() -> None:
    entry = catalogue_entry("a100-40g", NOON)
    assert entry is not None and (entry.name, entry.variant) == ("A100-40G", "A100-SXM4-40GB")
    assert "A100-40G" not in names()
    priced("A100-40G", "1", TODAY)
    assert "A100-40G" in names()


def test_the_price_of_a_day_is_the_newest_from_then_or_before() -> None:
    list_price = price_of("H100", TODAY)
    assert list_price is not None and list_price.is_list_price
    priced("H100", "2.10", date(2026, 1, 1))
    priced("H100", "2.50", date(2026, 12, 1))
    priced("H100", "2.30", date(2026, 6, 1))
    priced("H100", "2.20", date(2026, 6, 1))  # corrects the one before it
    expected = {
        date(2025, 12, 31): (list_price.usd_per_hour, True),
        date(2026, 1, 1): (Decimal("2.10"), False),
        date(2026, 6, 1): (Decimal("2.20"), False),
        TODAY: (Decimal("2.20"), False),
        date(2027, 1, 1): (Decimal("2.50"), False),
    }
    for day, (usd, is_list_price) in expected.items():
        found = price_of("h100", day)
        assert found is not None and (found.usd_per_hour, found.is_list_price) == (usd, is_list_price)
    entry = catalogue_entry("H100", NOON)
    assert entry is not None and entry.price is not None
    assert (entry.price.usd_per_hour, [price.usd_per_hour for price in entry.coming]) == (
        Decimal("2.20"),
        [Decimal("2.50")],
    )


def test_a_type_without_any_price_has_none() -> None:
    assert price_of("H20", TODAY) is None
    assert price_of("nothing", TODAY) is None
    assert price_of("H100-PCIe-80GB", TODAY) is None


@settings(max_examples=30, deadline=None)
@given(
    days=st.lists(st.integers(-400, 400), max_size=6),
    asked=st.integers(-420, 420),
    later=st.integers(-400, 400),
)
def test_what_was_paid_before_a_new_price_stays(days: list[int], asked: int, later: int) -> None:
    AcceleratorPrice.objects.all().delete()
    for number, offset in enumerate(days):
        priced("H20", str(number + 1), TODAY + timedelta(days=offset))
    day = TODAY + timedelta(days=asked)
    before = price_of("H20", day)
    new = priced("H20", "9", TODAY + timedelta(days=later))
    after = price_of("H20", day)
    if day < new.from_date:
        assert after == before
    elif before is None or before.from_date is None or before.from_date <= new.from_date:
        assert after is not None and after.usd_per_hour == 9


def test_deployments_are_named_with_the_type_they_ask_for() -> None:
    asks_for("chat", "L4")
    asks_for("code", "L4")
    asks_for("odd", "Nobody-Knows")
    found = {entry.name: entry.used_by for entry in catalogue_entries(NOON)}
    assert found["L4"] == ("chat", "code")
    assert found["Nobody-Knows"] == ("odd",)


def test_four_queries_whatever_there_is(django_assert_num_queries: Any) -> None:
    see(*({"accelerators": {"H100": 8}} for _ in range(40)))
    for number in range(40):
        CatalogueAccelerator.objects.create(name=f"card-{number}", usable_bytes=GIB)
        priced(f"card-{number}", "1", TODAY)
        asks_for(f"d-{number}", "H100")
    with django_assert_num_queries(4):
        assert len(catalogue_entries(NOON)) == len(accelerator_types()) + 40
    with django_assert_num_queries(4):
        planner_accelerator("H100")
    with django_assert_num_queries(2):
        price_of("H100", TODAY)
