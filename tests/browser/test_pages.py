"""Every page of overview and deployments, light and dark, wide and on a phone."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from playwright.sync_api import Page

from tests.browser.checks import overflowing, violations
from tests.browser.fleet import FLEET, LONG_ALIAS, LONG_NAME
from tests.unit.views.format_cases import CASES

OpenPage = Callable[..., Page]

PATHS = [
    "/",
    "/?range=6h",
    "/deployments/",
    "/deployments/new/?model=tiny",
    "/activity/",
    "/alerts/",
    "/deployments/serving/slo/",
    "/requests/",
    "/requests/?speed=over&over_s=soon",
    "/requests/serving/",
    "/routing/",
    "/routing/new/",
    f"/routing/{LONG_ALIAS}/edit/",
    f"/routing/{LONG_ALIAS}/delete/",
    "/models/tiny/",
    *(f"/deployments/{name}/" for name in FLEET),
    *(f"/deployments/serving/{tab}/" for tab in ("metrics", "events", "logs", "revisions", "config", "edit")),
    "/deployments/serving/revisions/2/",
    "/deployments/serving/delete/",
    f"/deployments/{LONG_NAME}/edit/",
]


@pytest.mark.parametrize("width", [1440, 390])
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_every_page_is_accessible_and_nothing_overflows(open_page: OpenPage, theme: str, width: int) -> None:
    page = open_page("/", theme=theme, width=width)
    found = []
    for path in PATHS:
        page.goto(path)
        page.wait_for_selector("body[data-ready]")
        found += [f"{path}: overflow {box}" for box in overflowing(page)]
        found += [f"{path}: {rule}" for rule in violations(page)]
    assert not found


@pytest.mark.parametrize("width", [1440, 390])
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_the_webhook_page_is_accessible_too(open_page: OpenPage, theme: str, width: int) -> None:
    page = open_page("/settings/alerts/", person="ada", theme=theme, width=width)
    assert overflowing(page) + violations(page) == []


def test_an_objective_is_drawn_across_its_chart(open_page: OpenPage) -> None:
    page = open_page("/deployments/serving/")
    page.wait_for_selector("[data-chart=ttft] .js-plotly-plot, [data-chart=ttft].js-plotly-plot")
    drawn = page.evaluate(
        """() => {
          const plot = document.querySelector('[data-chart=ttft]');
          const range = plot._fullLayout.yaxis.range;
          const [line] = plot.layout.shapes;
          return [line.y0, range[1] > line.y0, plot.layout.annotations[0].text];
        }"""
    )
    assert drawn == [0.24, True, "SLO 240\u00a0ms"]


def test_the_theme_is_chosen_kept_and_set_before_the_page_is_drawn(open_page: OpenPage) -> None:
    page = open_page("/deployments/", theme="light")
    assert page.evaluate("document.documentElement.dataset.theme") == "light"
    page.click(".nav [data-theme-toggle]")
    page.goto("/activity/")
    assert page.evaluate("document.documentElement.dataset.theme") == "dark"


def test_keyboard_reaches_the_content_past_the_navigation(open_page: OpenPage) -> None:
    page = open_page("/deployments/")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"


def test_a_phone_has_every_section_at_hand(open_page: OpenPage) -> None:
    page = open_page("/", width=390)
    assert page.locator(".tabbar a").count() >= 4
    page.click(".tabbar button")
    page.wait_for_selector("#more:popover-open")
    page.click("#more >> text=Activity")
    page.wait_for_url("**/activity/")


def test_pages_say_what_they_know_without_javascript(
    console: object, chromium: object, logged_in: Callable[[str], object]
) -> None:
    context = chromium.new_context(  # type: ignore[attr-defined]
        storage_state=logged_in("olga"),
        java_script_enabled=False,
        base_url=console.url,  # type: ignore[attr-defined]
    )
    page = context.new_page()
    page.goto("/deployments/broken/")
    assert "no tensor model.embed_tokens.weight" in page.inner_text("main")
    page.click("text=Edit")
    page.fill("[name=max_replicas]", "3")
    page.click("button:has-text('Save')")
    page.wait_for_url("**/deployments/broken/")
    assert "1 to 3" in page.inner_text("main")
    context.close()


def test_numbers_are_written_the_same_in_the_browser(open_page: OpenPage) -> None:
    page = open_page("/deployments/")
    shown = page.evaluate(
        """async (cases) => {
          const { formats } = await import('/static/js/fmt.js');
          return cases.map(([name, value]) => formats[name](value));
        }""",
        [[name, value] for name, value, _ in CASES],
    )
    wrong = [
        (name, value, text, was)
        for (name, value, text), was in zip(CASES, shown, strict=True)
        if was.replace("\u00a0", " ") != text
    ]
    assert not wrong
