"""/accelerators over the API: read, add, change, price, and what is refused."""

from __future__ import annotations

import time
from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone

from console.models import AcceleratorPrice, CatalogueAccelerator, ClusterStatus, Event
from serving.accelerators import GIB, accelerator_types
from tests.unit.api.conftest import Caller, error_of

pytestmark = pytest.mark.django_db

PRICE = {"usd_per_hour": "2.18", "from_date": "2026-01-01", "source": "contract 7"}


def test_the_list_has_the_clusters_types_first(as_viewer: Caller) -> None:
    nodes = [{"name": "rack-4", "accelerators": {"L4": 3}, "accelerators_claimed": {"L4": 1}}]
    ClusterStatus.objects.create(pk=1, reachable=True, observed_at=time.time(), nodes=nodes)
    answer = as_viewer.get("accelerators?limit=2").json()
    assert (answer["total"], len(answer["items"])) == (len(accelerator_types()), 2)
    first = answer["items"][0]
    assert (first["name"], first["detected"], first["nodes"][0]["claimed"]) == ("L4", 3, 1)
    assert first["specification"]["usable_bytes"] == {
        "value": int(22.03 * GIB),
        "origin": "shipped",
        "shipped": int(22.03 * GIB),
    }
    assert first["price"]["is_list_price"] and first["price"]["usd_per_hour"] == "0.8048"
    assert "AWS g6.xlarge" in first["price"]["source"]
    assert answer["items"][1]["name"] == "H100"


def test_one_type_however_it_is_spelt_and_an_unknown_one_with_a_hint(as_viewer: Caller) -> None:
    for spelt in ("H100", "h100", "h100-pcie-80gb"):
        found = as_viewer.get(f"accelerators/{spelt}")
        assert (found.json()["name"], found["ETag"]) == ("H100", '"1"')
    assert as_viewer.get("accelerators/A100-80G").json()["variant"] == "A100-SXM4-80GB"
    assert "Did you mean" in error_of(as_viewer.get("accelerators/H1000"), 404)["message"]


def test_a_type_is_added_once(as_operator: Caller) -> None:
    body = {"name": "Our-Card", "usable_bytes": 24 * GIB, "tflops_16bit": 12.5, "supply": "owned"}
    made = as_operator.post("accelerators", body, Idempotency_Key="one")
    assert made.status_code == 201
    shown = made.json()
    assert shown["specification"]["tflops_16bit"] == {"value": 12.5, "origin": "yours", "shipped": None}
    assert (shown["supply"], shown["is_shipped"], shown["can_be_planned_with"]) == ("owned", False, True)
    again = as_operator.post("accelerators", body, Idempotency_Key="one")
    assert (again["Idempotent-Replayed"], again.json()) == ("true", shown)
    assert Event.objects.get().source == "api"
    assert error_of(as_operator.post("accelerators", body), 400)["field"] == "name"
    assert as_operator.delete("accelerators/Our-Card").status_code == 204
    assert as_operator.get("accelerators/Our-Card").status_code == 404


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"name": "a b"}, "name"),
        ({"name": "h200"}, "name"),
        ({"name": "CPU"}, "name"),
        ({"name": "cpu"}, "name"),
        ({"name": None}, "name"),
        ({"usable_bytes": None}, "usable_bytes"),
        ({"usable_bytes": 80}, "usable_bytes"),
        ({"usable_bytes": 10**30}, "usable_bytes"),
        ({"usable_bytes": "much"}, "usable_bytes"),
        ({"tflops_fp8": -1}, "tflops_fp8"),
        ({"tflops_fp8": 1e300}, "tflops_fp8"),
        ({"supply": "stolen"}, "supply"),
        ({"compute_capability": "x"}, "compute_capability"),
        ({"accelerators_per_node": 0}, "accelerators_per_node"),
        ({"note": "x" * 501}, "note"),
        ({"memory": 80}, "memory"),
    ],
)
def test_a_bad_type_names_its_field_and_changes_nothing(
    change: dict[str, Any], field: str, as_operator: Caller
) -> None:
    body = {"name": "Our-Card", "usable_bytes": 24 * GIB, **change}
    assert error_of(as_operator.post("accelerators", body), 400)["field"] == field
    assert not CatalogueAccelerator.objects.exists() and not Event.objects.exists()


def test_a_type_is_changed_with_the_version_that_was_read(as_operator: Caller) -> None:
    assert error_of(as_operator.patch("accelerators/H100", {}), 400)["field"] == "expected_version"
    changed = as_operator.patch("accelerators/h100", {"tflops_16bit": 756}, If_Match='"1"')
    assert (changed.json()["version"], changed["ETag"], changed.json()["is_changed"]) == (2, '"2"', True)
    error = error_of(as_operator.patch("accelerators/H100", {"note": "x", "expected_version": 1}), 409)
    assert error["details"]["current"]["version"] == 2
    assert error["details"]["current"]["values"]["tflops_16bit"] == 756
    back = as_operator.patch("accelerators/H100", {"tflops_16bit": None, "expected_version": 2}).json()
    assert back["specification"]["tflops_16bit"]["origin"] == "shipped"
    as_operator.patch("accelerators/H100", {"vendor": "ours", "supply": "owned"}, If_Match="3")
    reset = as_operator.post("accelerators/H100/reset", {"expected_version": 4}).json()
    assert (reset["vendor"], reset["supply"], reset["version"]) == ("NVIDIA", "owned", 5)


def test_prices_are_inserted_by_administrators_and_each_says_what_it_is(
    as_admin: Caller, as_operator: Caller
) -> None:
    assert error_of(as_operator.post("accelerators/H100/prices", PRICE), 403)["code"] == "forbidden"
    made = as_admin.post("accelerators/h100/prices", PRICE, Idempotency_Key="p1")
    assert (made.status_code, made.json()["usd_per_hour"], made.json()["state"]) == (201, "2.180000", "now")
    replayed = as_admin.post("accelerators/h100/prices", PRICE, Idempotency_Key="p1")
    assert (replayed["Idempotent-Replayed"], AcceleratorPrice.objects.count()) == ("true", 1)
    as_admin.post("accelerators/H100/prices", {**PRICE, "usd_per_hour": 2.5})
    soon = (timezone.now() + timedelta(days=20)).date().isoformat()
    as_admin.post("accelerators/H100/prices", {**PRICE, "usd_per_hour": "3", "from_date": soon})
    rows = as_operator.get("accelerators/H100/prices").json()
    assert [(row["usd_per_hour"], row["state"]) for row in rows["items"]] == [
        ("3.000000", "coming"),
        ("2.500000", "now"),
        ("2.180000", "corrected"),
    ]
    shown = as_operator.get("accelerators/H100").json()
    assert (shown["price"]["usd_per_hour"], shown["price"]["from_date"]) == ("2.500000", "2026-01-01")
    assert [row["from_date"] for row in shown["coming_prices"]] == [soon]


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"usd_per_hour": "-1"}, "usd_per_hour"),
        ({"usd_per_hour": "NaN"}, "usd_per_hour"),
        ({"usd_per_hour": "Infinity"}, "usd_per_hour"),
        ({"usd_per_hour": 1e999}, "usd_per_hour"),
        ({"usd_per_hour": "100000.01"}, "usd_per_hour"),
        ({"usd_per_hour": "0.0000001"}, "usd_per_hour"),
        ({"usd_per_hour": True}, "usd_per_hour"),
        ({"usd_per_hour": None}, "usd_per_hour"),
        ({"from_date": "1999-12-31"}, "from_date"),
        ({"from_date": "9999-12-31"}, "from_date"),
        ({"from_date": "2026-02-30"}, "from_date"),
        ({"from_date": 1_767_225_600}, "from_date"),
        ({"from_date": "soon"}, "from_date"),
        ({"source": ""}, "source"),
        ({"source": "  "}, "source"),
        ({"source": None}, "source"),
        ({"variant": "x"}, "variant"),
    ],
)
def test_a_bad_price_names_its_field_and_changes_nothing(
    change: dict[str, Any], field: str, as_admin: Caller
) -> None:
    body = {**PRICE, **change}
    if body["usd_per_hour"] == float("inf"):
        raw = b'{"usd_per_hour": 1e999, "from_date": "2026-01-01", "source": "s"}'
        response = as_admin.client.post(
            "/api/v1/accelerators/H100/prices",
            data=raw,
            content_type="application/json",
            headers=as_admin.headers,
        )
    else:
        response = as_admin.post("accelerators/H100/prices", body)
    assert error_of(response, 400)["field"] == field
    assert not AcceleratorPrice.objects.exists() and not Event.objects.exists()


def test_a_price_for_a_type_that_is_nowhere_is_404(as_admin: Caller) -> None:
    assert error_of(as_admin.post("accelerators/nothing/prices", PRICE), 404)["code"] == "not_found"
