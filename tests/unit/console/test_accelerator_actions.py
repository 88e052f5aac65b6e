"""Writes on the catalogue: what is refused and in which words, what events say, and that history stays."""

from __future__ import annotations

from datetime import date, timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.utils import timezone

from console import actions
from console.accelerators import catalogue_entry, price_of
from console.models import AcceleratorPrice, CatalogueAccelerator, ClusterStatus, Event, User
from serving.accelerators import GIB
from serving.errors import Conflict, InUse, InvalidSpec, NotFound

pytestmark = pytest.mark.django_db


@pytest.fixture
def actor(admin: User) -> actions.Actor:
    return actions.Actor(admin)


def today() -> date:
    return timezone.now().date()


def add(actor: actions.Actor, name: str = "Our-Card", **values: Any) -> CatalogueAccelerator:
    return actions.add_accelerator(actor=actor, name=name, **{"usable_bytes": 10 * GIB, **values})


def price(actor: actions.Actor, **values: Any) -> AcceleratorPrice:
    given = {"name": "H100", "usd_per_hour": "2.18", "from_date": today(), "source": "contract 7"}
    return actions.add_price(actor=actor, **{**given, **values})


def test_a_type_is_added_with_an_event(actor: actions.Actor) -> None:
    row = add(actor, "  Our-Card ", vendor="We", tflops_16bit=3, supply="owned", note=" two\n lines ")
    assert (row.name, row.version, row.tflops_16bit, row.note) == ("Our-Card", 1, 3.0, "two lines")
    event = Event.objects.get(kind="accelerator.added")
    assert (event.subject_kind, event.subject_name, event.actor) == (
        "accelerator",
        "Our-Card",
        "admin-person",
    )
    assert event.after["usable_bytes"] == 10 * GIB and "tflops_fp8" not in event.after


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("", "1 to 60"),
        ("-x", "1 to 60"),
        ("a b", "1 to 60"),
        ("x" * 61, "1 to 60"),
        ("a/b", "1 to 60"),
        ("karte-ä", "1 to 60"),
        ("New", "address"),
        ("h100", "H100 is in the catalogue"),
        ("A100-80GB", "A100-80G is in the catalogue"),
        ("OUR-card", "in the catalogue"),
    ],
)
def test_a_name_that_cannot_be_is_refused(name: str, words: str, actor: actions.Actor) -> None:
    add(actor)
    with pytest.raises(InvalidSpec, match=words) as refused:
        add(actor, name)
    assert refused.value.field == "name"
    assert CatalogueAccelerator.objects.count() == 1


@pytest.mark.parametrize(
    ("column", "value", "words"),
    [
        ("usable_bytes", None, "Give its memory"),
        ("usable_bytes", 80, "at least 1 GiB"),
        ("usable_bytes", 1 << 60, "at most 16 TiB"),
        ("usable_bytes", 1.5, "whole bytes"),
        ("usable_bytes", True, "whole bytes"),
        ("tflops_16bit", 0, "above 0"),
        ("tflops_16bit", -1, "above 0"),
        ("tflops_16bit", float("nan"), "above 0"),
        ("tflops_16bit", float("inf"), "above 0"),
        ("tflops_16bit", 989e12, "check the unit"),
        ("memory_bandwidth_gb_per_s", "fast", "Give a number"),
        ("accelerators_per_node", 0, "from 1 to"),
        ("accelerators_per_node", 8.5, "from 1 to"),
        ("compute_capability", "nine", "looks like 9.0"),
        ("supply", "stolen", "owned, rented"),
        ("vendor", "x" * 41, "under 40"),
        ("note", "x" * 501, "under 500"),
        ("source", "a\x00b", "plain text"),
    ],
)
def test_a_figure_that_cannot_be_is_refused_with_its_field(
    column: str, value: Any, words: str, actor: actions.Actor
) -> None:
    with pytest.raises(InvalidSpec, match=words) as refused:
        add(actor, **{column: value})
    assert refused.value.field == column
    assert not CatalogueAccelerator.objects.exists() and not Event.objects.exists()


def test_a_shipped_type_is_changed_and_reset_with_events_before_and_after(actor: actions.Actor) -> None:
    row = actions.edit_accelerator(
        actor=actor, name="h100", expected_version=1, usable_bytes=70 * GIB, supply="rented", note="rack 4"
    )
    assert (row.name, row.version, row.supply) == ("H100", 2, "rented")
    event = Event.objects.get(kind="accelerator.edited")
    assert event.before == {"usable_bytes": None, "supply": "", "note": ""}
    assert event.after == {"usable_bytes": 70 * GIB, "supply": "rented", "note": "rack 4"}
    row = actions.reset_accelerator(actor=actor, name="H100", expected_version=2)
    assert (row.usable_bytes, row.supply, row.note, row.version) == (None, "rented", "rack 4", 3)
    event = Event.objects.get(kind="accelerator.reset")
    assert (event.before, event.after) == ({"usable_bytes": 70 * GIB}, {"usable_bytes": None})


def test_nothing_changed_writes_nothing(actor: actions.Actor) -> None:
    actions.edit_accelerator(actor=actor, name="H100", expected_version=1, supply="", note="")
    assert not CatalogueAccelerator.objects.exists() and not Event.objects.exists()


def test_who_comes_second_is_told_what_stands_now(actor: actions.Actor) -> None:
    actions.edit_accelerator(actor=actor, name="H100", expected_version=1, note="first")
    for stale in (1, 7):
        with pytest.raises(Conflict) as refused:
            actions.edit_accelerator(actor=actor, name="H100", expected_version=stale, note="second")
        assert refused.value.current["version"] == 2
        assert refused.value.current["values"]["note"] == "first"  # type: ignore[index]
    assert CatalogueAccelerator.objects.get().note == "first"


def test_two_first_changes_at_once_end_in_one_conflict(
    actor: actions.Actor, monkeypatch: pytest.MonkeyPatch
) -> None:
    stale = catalogue_entry("H100")
    actions.edit_accelerator(actor=actor, name="H100", expected_version=1, note="first")
    monkeypatch.setattr("console.actions.accelerators._entry", lambda name: stale)
    with pytest.raises(Conflict):
        actions.edit_accelerator(actor=actor, name="H100", expected_version=1, note="second")
    assert CatalogueAccelerator.objects.get().note == "first"
    assert Event.objects.count() == 1


def test_a_variant_must_be_one_of_the_types(actor: actions.Actor) -> None:
    row = actions.edit_accelerator(actor=actor, name="A100", expected_version=1, variant="40gb")
    assert row.variant == "A100-SXM4-40GB"
    with pytest.raises(InvalidSpec, match="A100-PCIe-80GB"):
        actions.edit_accelerator(actor=actor, name="A100", expected_version=2, variant="60GB")


def test_an_unknown_column_and_an_unknown_type_are_refused(actor: actions.Actor) -> None:
    with pytest.raises(InvalidSpec, match="cannot be changed"):
        actions.edit_accelerator(actor=actor, name="H100", expected_version=1, version=9)
    with pytest.raises(NotFound):
        actions.edit_accelerator(actor=actor, name="nothing", expected_version=1, note="x")


def test_a_type_that_only_ray_reports_can_be_given_its_memory(actor: actions.Actor) -> None:
    nodes = [{"name": "n", "accelerators": {"Strange": 2}}]
    ClusterStatus.objects.create(pk=1, reachable=True, nodes=nodes)
    actions.edit_accelerator(actor=actor, name="Strange", expected_version=1, usable_bytes=8 * GIB)
    entry = catalogue_entry("Strange")
    assert entry is not None and entry.accelerator is not None
    with pytest.raises(InvalidSpec, match="Give its memory"):
        actions.edit_accelerator(actor=actor, name="Strange", expected_version=2, usable_bytes=None)
    with pytest.raises(InUse, match="The cluster has 2"):
        actions.remove_accelerator(actor=actor, name="Strange")


def test_only_ones_own_types_are_removed_and_only_shipped_ones_reset(actor: actions.Actor) -> None:
    add(actor)
    price(actor, name="Our-Card")
    with pytest.raises(InvalidSpec, match="added here"):
        actions.reset_accelerator(actor=actor, name="Our-Card", expected_version=1)
    with pytest.raises(InvalidSpec, match="comes with Raydeck"):
        actions.remove_accelerator(actor=actor, name="H100")
    actions.remove_accelerator(actor=actor, name="Our-Card")
    assert catalogue_entry("Our-Card") is None
    assert AcceleratorPrice.objects.count() == 1, "what was paid stays known"
    assert Event.objects.get(kind="accelerator.removed").before["usable_bytes"] == 10 * GIB


def test_a_price_is_inserted_and_its_event_says_from_what_to_what(actor: actions.Actor) -> None:
    price(actor, usd_per_hour=Decimal("2.18"), from_date=date(2026, 1, 1))
    price(actor, usd_per_hour="2.50", from_date=date(2026, 6, 1), source="  new\ncontract ")
    assert AcceleratorPrice.objects.count() == 2
    event = Event.objects.filter(kind="accelerator.price_added").first()
    assert event is not None
    assert event.message == "Price of H100 from 2026-06-01: $2.18/h → $2.50/h"
    assert (event.before["usd_per_hour"], event.after["usd_per_hour"]) == ("2.180000", "2.500000")
    assert event.after["source"] == "new contract"
    held = price_of("H100", date(2026, 5, 31))
    assert held is not None and held.usd_per_hour == Decimal("2.18")


@pytest.mark.parametrize(
    ("values", "field", "words"),
    [
        ({"usd_per_hour": "-0.01"}, "usd_per_hour", "0 or more"),
        ({"usd_per_hour": "NaN"}, "usd_per_hour", "0 or more"),
        ({"usd_per_hour": "sNaN"}, "usd_per_hour", "0 or more"),
        ({"usd_per_hour": "Infinity"}, "usd_per_hour", "0 or more"),
        ({"usd_per_hour": "100000.01"}, "usd_per_hour", "more than"),
        ({"usd_per_hour": "1e999999"}, "usd_per_hour", "more than"),
        ({"usd_per_hour": "0.0000001"}, "usd_per_hour", "six decimals"),
        ({"usd_per_hour": "1e-999999"}, "usd_per_hour", "six decimals"),
        ({"usd_per_hour": "two"}, "usd_per_hour", "number of US dollars"),
        ({"from_date": date(1999, 12, 31)}, "from_date", "before 2000"),
        ({"from_date": date(9999, 1, 1)}, "from_date", "ten years ahead"),
        ({"source": "  "}, "source", "where the price is from"),
        ({"source": "x" * 301}, "source", "under 300"),
    ],
)
def test_a_price_that_cannot_be_is_refused_with_its_field(
    values: dict[str, Any], field: str, words: str, actor: actions.Actor
) -> None:
    with pytest.raises(InvalidSpec, match=words) as refused:
        price(actor, **values)
    assert refused.value.field == field
    assert not AcceleratorPrice.objects.exists() and not Event.objects.exists()


def test_prices_at_the_bounds_are_taken_exactly(actor: actions.Actor) -> None:
    for usd in ("0", "-0", "0.000001", "100000"):
        stored = price(actor, usd_per_hour=usd, from_date=today() + timedelta(days=3650))
        stored.refresh_from_db()
        assert stored.usd_per_hour == Decimal(usd) and not stored.usd_per_hour.is_signed()


def test_a_price_for_a_type_that_is_nowhere_is_refused(actor: actions.Actor) -> None:
    with pytest.raises(NotFound):
        price(actor, name="nothing")
