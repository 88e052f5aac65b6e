"""The accelerator catalogue in Chromium: every page wide and on a phone, and the work without a mouse."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator

import pytest
from playwright.sync_api import Page

from tests.browser.checks import overflowing, violations
from tests.browser.conftest import Console
from tests.browser.fleet import NODE

OpenPage = Callable[..., Page]

LONG_TYPE = "Accelerator-whose-name-is-as-long-as-names-may-be-at-all-60x"
NODES = [
    NODE,
    {**NODE, "name": "rack-4", "accelerators": {"A100": 8}, "accelerators_claimed": {"A100": 3}},
    {**NODE, "name": "lost", "alive": False, "accelerators": {"A100": 8}},
    {**NODE, "name": "a-node-with-a-very-long-name.example.internal", "accelerators": {LONG_TYPE: 1}},
]
SEED = """
import django, json, sys
django.setup()
from console.models import AcceleratorPrice, CatalogueAccelerator, ClusterStatus, User
from datetime import date, timedelta
nodes = json.loads(sys.stdin.read())
ClusterStatus.objects.filter(pk=1).update(nodes=nodes)
AcceleratorPrice.objects.all().delete()
CatalogueAccelerator.objects.all().delete()
if len(nodes) > 1:
    CatalogueAccelerator.objects.create(
        name="A100", variant="A100-SXM4-40GB", supply="owned", version=2, tflops_16bit=300.5,
        source="measured here " * 20, note="rack 4",
    )
    CatalogueAccelerator.objects.create(name="Our-Card", usable_bytes=24 << 30, supply="rented")
    ada = User.objects.get(username="ada")
    for usd, day in (
        ("1.10", date(2026, 1, 1)), ("1.2", date(2026, 1, 1)), ("1.345678", date(2026, 6, 1)),
        ("99999.999999", date.today() + timedelta(days=90)),
    ):
        AcceleratorPrice.objects.create(
            accelerator_type="A100", usd_per_hour=usd, from_date=day, source="contract 7 " * 20,
            author=ada, author_name="ada",
        )
"""
PATHS = [
    "/accelerators/",
    "/accelerators/?q=zebra",
    "/accelerators/new/",
    "/accelerators/A100/",
    "/accelerators/A100/edit/",
    "/accelerators/Our-Card/",
    f"/accelerators/{LONG_TYPE}/",
    f"/accelerators/{LONG_TYPE}/edit/",
    "/accelerators/L40S/",
    "/accelerators/Intel-GAUDI/",
]


@pytest.fixture(scope="module", autouse=True)
def _catalogue(console: Console) -> Iterator[None]:
    """Nodes with accelerators, prices of every kind and a type of one's own; gone afterwards."""
    console.manage("-c", SEED, stdin=json.dumps(NODES))
    yield
    console.manage("-c", SEED, stdin=json.dumps([NODE]))


@pytest.mark.parametrize("width", [1440, 390])
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_every_page_is_accessible_and_nothing_overflows(open_page: OpenPage, theme: str, width: int) -> None:
    page = open_page("/", person="ada", theme=theme, width=width)
    found = []
    for path in PATHS:
        page.goto(path)
        page.wait_for_selector("body[data-ready]")
        found += [f"{path}: overflow {box}" for box in overflowing(page)]
        found += [f"{path}: {rule}" for rule in violations(page)]
    assert not found


def test_a_refused_price_keeps_what_was_typed_and_passes_the_same_checks(open_page: OpenPage) -> None:
    page = open_page("/accelerators/L4/", person="ada", width=390)
    page.fill("[name=usd_per_hour]", "-3")
    page.fill("[name=source]", "a price page")
    page.click("button:has-text('Add price')")
    page.wait_for_selector("[role=alert]")
    assert page.input_value("[name=usd_per_hour]") == "-3"
    assert page.input_value("[name=source]") == "a price page"
    assert "0 or more" in page.inner_text("#id_usd_per_hour_error")
    assert not violations(page) and not overflowing(page)


def test_the_keyboard_alone_enters_a_price(open_page: OpenPage) -> None:
    page = open_page("/accelerators/L40S/", person="ada")
    page.focus("[name=usd_per_hour]")
    page.keyboard.type("1.23")
    for _ in range(20):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.name") == "source":
            break
    page.keyboard.type("contract 9")
    page.keyboard.press("Enter")
    page.wait_for_selector("text=Holds")
    assert page.locator(".acc-price .v").inner_text() == "$1.23/h"
    assert "contract 9" in page.inner_text("[aria-label='Prices entered here']")


def test_the_navigation_leads_there_wide_and_on_a_phone(open_page: OpenPage) -> None:
    page = open_page("/", person="vera")
    page.click(".nav >> text=Accelerators")
    page.wait_for_url("**/accelerators/")
    assert page.locator(".nav [aria-current=page]").inner_text() == "Accelerators"
    phone = open_page("/", person="vera", width=390)
    phone.click(".tabbar button")
    phone.click("#more >> text=Accelerators")
    phone.wait_for_url("**/accelerators/")
    assert phone.locator("[name=usd_per_hour]").count() == 0
