"""The shipped catalogue: names, variants, units, and what is said of a name it lacks."""

from __future__ import annotations

import math
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.accelerators import (
    GIB,
    NAME,
    SIZE_LABELS,
    accelerator,
    accelerator_types,
    capability,
    catalogue,
    find,
    suggestions,
    unknown_message,
    usable_bytes,
    variant_names,
)


def test_h100_is_there_in_si_units_with_a_price_and_its_source() -> None:
    found = accelerator("H100")
    assert found is not None
    assert (found.name, found.variant, found.vendor) == ("H100", "H100-SXM5-80GB", "NVIDIA")
    assert found.usable_bytes == int(79.18 * GIB)
    assert found.memory_bandwidth_bytes_per_s == 3350e9
    assert (found.flops_16bit, found.flops_fp8, found.flops_fp4) == (989e12, 1979e12, None)
    assert (found.intra_node_bytes_per_s, found.inter_node_bytes_per_s) == (450e9, 50e9)
    assert found.compute_capability == (9, 0)
    assert found.free_at_start_bytes == {1: int(78.57 * GIB), 2: int(77.64 * GIB)}
    assert found.usd_per_hour == Decimal("6.88")
    assert "AWS p5" in found.price_note and "2026" in found.price_note


@pytest.mark.parametrize(
    ("name", "variant", "expected"),
    [
        ("h100", None, ("H100", "H100-SXM5-80GB")),
        ("H100", "PCIe", ("H100", "H100-PCIe-80GB")),
        ("h100-pcie-80gb", None, ("H100", "H100-PCIe-80GB")),
        ("A100", None, ("A100", "A100-SXM4-80GB")),
        ("A100", "40GB", ("A100", "A100-SXM4-40GB")),
        ("A100", "80gb", ("A100", "A100-SXM4-80GB")),
        ("A100-40G", None, ("A100-40G", "A100-SXM4-40GB")),
        ("a100-80gb", None, ("A100-80G", "A100-SXM4-80GB")),
        ("a100 80g", "", ("A100-80G", "A100-SXM4-80GB")),
        ("rtx 4090", None, ("GeForce-RTX-4090", "RTX 4090")),
        ("amd-instinct-mi300x-oam", None, ("AMD-Instinct-MI300X-OAM", "AMD-Instinct-MI300X-OAM")),
    ],
)
def test_names_and_variants_are_found_however_they_are_spelt(
    name: str, variant: str | None, expected: tuple[str, str]
) -> None:
    known = find(name, variant)
    assert known is not None
    assert (known.name, known.variant) == expected
    found = accelerator(name, variant)
    assert found is not None and (found.name, found.variant) == expected


def test_the_sizes_of_an_a100_differ_in_memory_bandwidth_and_price() -> None:
    small, large = accelerator("A100-40G"), accelerator("A100-80G")
    assert small is not None and large is not None
    assert small.usable_bytes < 40 * GIB < large.usable_bytes
    assert (small.memory_bandwidth_bytes_per_s, large.memory_bandwidth_bytes_per_s) == (1555e9, 2039e9)
    assert small.usd_per_hour is not None and large.usd_per_hour is not None
    assert small.usd_per_hour < large.usd_per_hour
    assert "40GB" in small.price_note and "80GB" in large.price_note
    assert (usable_bytes("A100-40G"), usable_bytes("A100")) == (small.usable_bytes, large.usable_bytes)


def test_a_variant_without_a_price_of_its_own_has_none() -> None:
    found = accelerator("H100", "PCIe")
    assert found is not None
    assert (found.usd_per_hour, found.price_note) == (None, "")


def test_cards_from_before_bfloat16_give_their_float16_peak() -> None:
    found = accelerator("T4")
    assert found is not None
    assert (found.flops_16bit, found.flops_fp8) == (65e12, None)


def test_memory_that_no_driver_was_asked_for_is_the_smaller_reading_of_the_nominal_size() -> None:
    assert usable_bytes("P100") == 16_000_000_000


def test_dies_that_ray_counts_alone_have_figures_of_one_die() -> None:
    found = accelerator("AMD-Instinct-MI250X")
    assert found is not None
    assert found.usable_bytes < 64 * GIB
    assert (found.memory_bandwidth_bytes_per_s, found.flops_16bit) == (1638e9, 191.5e12)


@pytest.mark.parametrize("name", [*accelerator_types(), *SIZE_LABELS])
def test_every_entry_can_be_planned_with(name: str) -> None:
    found = accelerator(name)
    assert found is not None
    assert found.name == name and NAME.match(name)
    assert 10 * GIB < found.usable_bytes < 300 * GIB
    for figure in (
        found.memory_bandwidth_bytes_per_s,
        found.flops_16bit,
        found.flops_fp8,
        found.flops_fp4,
        found.intra_node_bytes_per_s,
        found.inter_node_bytes_per_s,
    ):
        assert figure is None or (math.isfinite(figure) and figure > 1e9)
    assert variant_names(name)[0] == catalogue()[find(name).entry_name]["default_variant"]  # type: ignore[union-attr]


def test_overrides_replace_figures_and_make_a_type_of_its_own() -> None:
    changed = accelerator("H100", overrides={"usable_bytes": 5 * GIB, "usd_per_hour": Decimal(1)})
    assert changed is not None
    assert (changed.usable_bytes, changed.usd_per_hour) == (5 * GIB, Decimal(1))
    assert changed.memory_bandwidth_bytes_per_s == 3350e9
    own = accelerator("Our-Card", overrides={"usable_bytes": 5 * GIB})
    assert own is not None
    assert (own.name, own.memory_bandwidth_bytes_per_s, own.usd_per_hour) == ("Our-Card", None, None)
    assert accelerator("Our-Card", overrides={"flops_16bit": 1e12}) is None
    with pytest.raises(TypeError):
        accelerator("H100", overrides={"memory": 1})


@pytest.mark.parametrize(
    ("name", "expected"),
    [("H1000", "H100"), ("MI300X", "AMD-Instinct-MI300X-OAM"), ("4090", "GeForce-RTX-4090"), ("A10", "A10G")],
)
def test_a_name_that_is_near_one_gets_it_suggested(name: str, expected: str) -> None:
    assert accelerator(name) is None
    assert expected in suggestions(name)
    assert f"“{name}”" in unknown_message(name) and "Did you mean" in unknown_message(name)


def test_a_name_like_no_other_and_a_variant_that_is_none_are_said_plainly() -> None:
    assert "such as H100" in unknown_message("nonsense")
    assert "A100 has no variant “60GB”; it has A100-SXM4-80GB," in unknown_message("A100", "60GB")
    assert accelerator("A100", "60GB") is None
    assert accelerator("A100", "60GB", {"usable_bytes": 1}) is None


@given(st.text(max_size=200), st.none() | st.text(max_size=50))
def test_no_name_breaks_the_search(name: str, variant: str | None) -> None:
    accelerator(name, variant)
    assert unknown_message(name, variant).endswith((".", "?"))


def test_a_compute_capability_is_two_numbers_or_nothing() -> None:
    assert capability("12.0") == (12, 0)
    for text in ("", "9", "9.0.1", "x.y", "-9.0"):
        assert capability(text) is None
