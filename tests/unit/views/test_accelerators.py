"""The catalogue's pages: what they show, what they refuse, and who may change what."""

from __future__ import annotations

import re
import time
from datetime import date, timedelta
from typing import Any

import pytest
from django.test import Client
from django.utils import timezone

from console.models import AcceleratorPrice, CatalogueAccelerator, ClusterStatus, Event, User
from serving.accelerators import GIB, accelerator_types
from tests.unit.views.test_shell import INLINE

pytestmark = pytest.mark.django_db


@pytest.fixture
def as_viewer(client: Client, viewer: User) -> Client:
    client.force_login(viewer)
    return client


@pytest.fixture
def as_operator(client: Client, operator: User) -> Client:
    client.force_login(operator)
    return client


@pytest.fixture
def as_admin(client: Client, admin: User) -> Client:
    client.force_login(admin)
    return client


def text_of(response: Any, status: int = 200) -> str:
    assert response.status_code == status, response.content[:300]
    html = response.content.decode()
    assert not INLINE.findall(html)
    return str(html.replace("\u00a0", " ").replace("&nbsp;", " "))


def see(**accelerators: int) -> None:
    nodes = [{"name": "rack-4", "alive": True, "memory_bytes": GIB, "accelerators": accelerators}]
    ClusterStatus.objects.create(pk=1, reachable=True, observed_at=time.time(), nodes=nodes)


def priced(usd: str, from_date: date, name: str = "H100") -> None:
    AcceleratorPrice.objects.create(
        accelerator_type=name, usd_per_hour=usd, from_date=from_date, source="contract 7", author_name="ada"
    )


def today() -> date:
    return timezone.now().date()


PRICE = {"usd_per_hour": "2.18", "from_date": "2026-11-01", "source": "contract 7"}


def test_the_list_has_every_type_and_what_the_cluster_has_first(as_viewer: Client) -> None:
    see(L4=3)
    html = text_of(as_viewer.get("/accelerators/"))
    links = re.findall(r'class="nm trunc" href="/accelerators/([^/"]+)/"', html)
    assert links[0] == "L4" and set(links) == set(accelerator_types())
    assert html.index(">Yours<") < html.index(">Other types<")
    for words in ("22.0 <span", "300 <span", "AWS g6.xlarge", "list, 2026", "$0.80/h"):
        assert words in html, words


def test_a_price_entered_here_shows_with_its_day_and_source(as_viewer: Client) -> None:
    priced("2.18", today())
    priced("2.50", today() + timedelta(days=30))
    html = text_of(as_viewer.get("/accelerators/?q=h100"))
    assert "$2.18/h" in html and "contract 7" in html and "$2.50/h from" in html
    assert "/accelerators/L4/" not in html


def test_an_empty_cluster_and_a_filter_that_finds_nothing_are_said(as_viewer: Client) -> None:
    assert "The cluster was not seen yet" in text_of(as_viewer.get("/accelerators/"))
    see()
    assert "Ray reports no accelerators" in text_of(as_viewer.get("/accelerators/"))
    assert "No accelerator matches “zebra&lt;" in text_of(as_viewer.get("/accelerators/?q=zebra<"))


def test_the_list_takes_the_same_queries_for_few_and_many(
    as_viewer: Client, django_assert_max_num_queries: Any
) -> None:
    for number in range(60):
        CatalogueAccelerator.objects.create(name=f"card-{number}", usable_bytes=GIB)
        priced("1", today(), f"card-{number}")
    with django_assert_max_num_queries(9):
        as_viewer.get("/accelerators/")


def test_a_type_shows_its_figures_prices_variants_and_nodes(as_viewer: Client) -> None:
    see(A100=4)
    priced("1.00", date(2026, 1, 1), "A100")
    priced("1.10", date(2026, 1, 1), "A100")
    priced("9.99", today() + timedelta(days=9), "A100")
    html = text_of(as_viewer.get("/accelerators/A100/"))
    for words in (
        "84986665369 bytes",
        "2,039",
        "rack-4",
        "4 × A100",
        "A100-PCIe-80GB",
        "planned with",
        "seen on the cluster",
        "Holds",
        "Coming",
        "Corrected",
        "GCP a2-ultragpu-1g",
        "stands in",
    ):
        assert words in html, words
    assert "<form" not in html[html.index("<main") : html.index("</main>")], "viewers only read"


def test_another_spelling_leads_to_the_type_and_an_unknown_one_to_404(as_viewer: Client) -> None:
    response = as_viewer.get("/accelerators/h100-pcie-80gb/")
    assert (response.status_code, response.headers["Location"]) == (302, "/accelerators/H100/")
    assert as_viewer.get("/accelerators/nothing/").status_code == 404


def test_a_type_without_memory_says_what_is_missing(as_operator: Client) -> None:
    see(Strange=2)
    html = text_of(as_operator.get("/accelerators/Strange/"))
    assert "Its memory is not known" in html and "/accelerators/Strange/edit/" in html
    assert "not known" in text_of(as_operator.get("/accelerators/"))


def test_operators_change_the_specification(as_operator: Client) -> None:
    page = text_of(as_operator.get("/accelerators/H100/edit/"))
    assert 'placeholder="3350"' in page and "79.18 GiB" in page and "H100-PCIe-80GB" in page
    sent = {"usable_bytes": "78,5 GiB", "tflops_16bit": "700.5", "supply": "owned", "expected_version": "1"}
    response = as_operator.post("/accelerators/H100/edit/", sent)
    assert response.headers["Location"] == "/accelerators/H100/"
    row = CatalogueAccelerator.objects.get()
    assert (row.usable_bytes, row.tflops_16bit, row.supply) == (int(78.5 * GIB), 700.5, "owned")
    html = text_of(as_operator.get("/accelerators/H100/"))
    assert "yours; shipped 79.2 GiB" in html and "Return to the shipped figures" in html
    again = text_of(as_operator.get("/accelerators/H100/edit/"))
    assert 'value="78.50 GiB"' in again and 'value="700.5"' in again
    as_operator.post("/accelerators/H100/reset/", {"expected_version": "2"})
    row.refresh_from_db()
    assert (row.usable_bytes, row.supply) == (None, "owned")


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("usable_bytes", "80 GB", "Write a size with its unit"),
        ("usable_bytes", "80", "at least 1 GiB"),
        ("tflops_16bit", "-3", "above 0"),
        ("tflops_16bit", "nan", "number"),
        ("accelerators_per_node", "2000", "from 1 to 1,024"),
        ("compute_capability", "nine", "looks like 9.0"),
        ("variant", "H100-9TB", "valid choice"),
    ],
)
def test_bad_input_stays_in_the_form_with_its_reason(
    field: str, value: str, words: str, as_operator: Client
) -> None:
    sent = {"note": "kept <text>", "expected_version": "1", "supply": "", field: value}
    html = text_of(as_operator.post("/accelerators/H100/edit/", sent), 400)
    assert words in html and "kept &lt;text&gt;" in html
    if field != "variant":
        assert f'value="{value}"' in html
    assert f'id="id_{field}_error"' in html
    assert not CatalogueAccelerator.objects.exists()


def test_who_saves_second_sees_both_and_decides(as_operator: Client) -> None:
    CatalogueAccelerator.objects.create(name="H100", note="theirs", version=2)
    sent = {"note": "mine", "expected_version": "1", "supply": ""}
    html = text_of(as_operator.post("/accelerators/H100/edit/", sent), 409)
    assert "changed H100 while you were editing" in html and "theirs" in html and 'value="mine"' in html
    assert 'name="expected_version" value="2"' in html
    as_operator.post("/accelerators/H100/edit/", {**sent, "expected_version": "2"})
    assert CatalogueAccelerator.objects.get().note == "mine"


def test_a_field_that_only_the_other_editor_changed_stays_as_it_is(as_operator: Client, admin: User) -> None:
    row = CatalogueAccelerator.objects.create(name="H100", tflops_16bit=900, version=2, updated_by=admin)
    opened = {"expected_version": "1", "initial-tflops_16bit": "", "initial-note": "", "tflops_16bit": ""}
    html = text_of(as_operator.post("/accelerators/H100/edit/", {**opened, "note": "mine"}), 409)
    assert "admin-person changed H100" in html and "Kept from admin-person" in html
    assert re.search(r'name="tflops_16bit" value="900(\.0)?"', html)
    again = {**opened, "expected_version": "2", "initial-tflops_16bit": "900", "tflops_16bit": "900"}
    as_operator.post("/accelerators/H100/edit/", {**again, "note": "mine"})
    row.refresh_from_db()
    assert (row.note, row.tflops_16bit) == ("mine", 900)


def test_supply_is_marked_on_the_types_page(as_operator: Client) -> None:
    as_operator.post("/accelerators/H100/supply/", {"supply": "rented", "expected_version": "1"})
    assert CatalogueAccelerator.objects.get().supply == "rented"
    stale = {"supply": "owned", "expected_version": "1"}
    assert "person changed H100" in text_of(as_operator.post("/accelerators/H100/supply/", stale), 409)
    wrong = {"supply": "stolen", "expected_version": "2"}
    assert "Choose owned" in text_of(as_operator.post("/accelerators/H100/supply/", wrong), 400)
    for nonsense in ("", "x", "²", "9" * 40):
        text_of(as_operator.post("/accelerators/H100/supply/", {"expected_version": nonsense}), 409)


def test_a_type_is_added_and_removed_with_its_name_typed(as_operator: Client) -> None:
    assert 'value="Our-Card"' in text_of(as_operator.get("/accelerators/new/?name=Our-Card"))
    assert "required" in text_of(as_operator.post("/accelerators/new/", {"name": "Our-Card"}), 400)
    taken = {"name": "h100", "usable_bytes": "8 GiB"}
    assert "H100 is in the catalogue" in text_of(as_operator.post("/accelerators/new/", taken), 400)
    response = as_operator.post("/accelerators/new/", {"name": "Our-Card", "usable_bytes": "8 GiB"})
    assert response.headers["Location"] == "/accelerators/Our-Card/"
    assert "Remove from the catalogue" in text_of(as_operator.get("/accelerators/Our-Card/"))
    refused = as_operator.post("/accelerators/Our-Card/remove/", {"typed_name": "our-card"})
    assert "Type Our-Card to confirm" in text_of(refused, 400)
    as_operator.post("/accelerators/Our-Card/remove/", {"typed_name": "Our-Card"})
    assert not CatalogueAccelerator.objects.exists()


def test_administrators_enter_prices_and_nothing_typed_is_lost(as_admin: Client) -> None:
    bad = {**PRICE, "usd_per_hour": "-2", "source": "a <b>"}
    html = text_of(as_admin.post("/accelerators/H100/prices/", bad), 400)
    assert "0 or more" in html and 'value="-2"' in html and "a &lt;b&gt;" in html
    assert 'value="2026-11-01"' in html and not AcceleratorPrice.objects.exists()
    both = text_of(as_admin.post("/accelerators/H100/prices/", {**bad, "source": ""}), 400)
    assert "id_usd_per_hour_error" in both and "id_source_error" in both
    for field, value in (("from_date", "1999-01-01"), ("from_date", "soon"), ("source", " ")):
        text_of(as_admin.post("/accelerators/H100/prices/", {**PRICE, field: value}), 400)
    response = as_admin.post("/accelerators/H100/prices/", PRICE)
    assert response.headers["Location"] == "/accelerators/H100/"
    stored = AcceleratorPrice.objects.get()
    assert (str(stored.usd_per_hour), stored.author_name) == ("2.180000", "admin-person")
    assert Event.objects.get(kind="accelerator.price_added").source == "page"
    assert as_admin.post("/accelerators/nothing/prices/", PRICE).status_code == 404


def test_money_takes_an_administrator_and_the_rest_an_operator(as_operator: Client, viewer: User) -> None:
    html = text_of(as_operator.get("/accelerators/H20/"))
    assert "Administrators can enter one" in html and "usd_per_hour" not in html
    assert as_operator.post("/accelerators/H100/prices/", PRICE).status_code == 403
    as_operator.force_login(viewer)
    for address in ("new/", "H100/edit/", "H100/supply/", "H100/reset/", "H100/remove/", "H100/prices/"):
        assert as_operator.post(f"/accelerators/{address}", {}).status_code == 403, address
    assert not CatalogueAccelerator.objects.exists() and not AcceleratorPrice.objects.exists()
    assert "Add accelerator" not in text_of(as_operator.get("/accelerators/"))
