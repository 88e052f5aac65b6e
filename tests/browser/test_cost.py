"""The cost page in Chromium: accessible, nothing overflows, its chart drawn in the page's colours."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from playwright.sync_api import Page

from tests.browser.checks import overflowing, violations
from tests.browser.conftest import Console

OpenPage = Callable[..., Page]


@pytest.fixture(scope="module", autouse=True)
def month(console: Console) -> None:
    """A month of costs, written once."""
    console.manage("-m", "tests.browser.month")


@pytest.mark.parametrize("width", [1440, 390])
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_it_is_accessible_and_nothing_overflows(open_page: OpenPage, theme: str, width: int) -> None:
    page = open_page("/cost/", theme=theme, width=width)
    page.wait_for_selector("#cost-chart .barlayer .point")
    assert overflowing(page) + violations(page) == []
    page.goto("/cost/?month=2020-02")
    page.wait_for_selector("text=Nothing was paid for in February 2020")
    assert overflowing(page) + violations(page) == []


def test_the_chart_follows_the_theme_and_has_a_table(open_page: OpenPage) -> None:
    page = open_page("/cost/")
    bar = page.wait_for_selector("#cost-chart .barlayer .point path")
    assert bar is not None
    light = bar.evaluate("path => getComputedStyle(path).fill")
    page.click(".nav [data-theme-toggle]")
    page.wait_for_function(
        "before => getComputedStyle(document.querySelector('#cost-chart .point path')).fill !== before",
        arg=light,
    )
    page.click("text=View as table")
    assert page.locator("[aria-label='Spend by day'] tbody tr").count() >= 1


def test_a_csv_is_saved_with_its_days_in_the_name(open_page: OpenPage) -> None:
    page = open_page("/cost/")
    page.click("summary:has-text('CSV')")
    with page.expect_download() as saved:
        page.click("text=By API key >> visible=true")
    assert saved.value.suggested_filename.startswith("cost-by-key-")
