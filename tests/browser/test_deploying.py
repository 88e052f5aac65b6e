"""The operator's path through the form and the verbs, in the browser; no cluster behind it."""

from __future__ import annotations

from collections.abc import Callable

from playwright.sync_api import Page, expect

from tests.browser.checks import violations

OpenPage = Callable[..., Page]


def create(page: Page, name: str) -> None:
    page.goto("/deployments/new/?model=tiny")
    page.fill("[name=name]", name)
    page.click("button:has-text('Deploy')")
    page.wait_for_url(f"**/deployments/{name}/")


def test_the_plan_follows_the_form(open_page: OpenPage) -> None:
    page = open_page("/deployments/new/?model=tiny")
    plan = page.locator("#plan")
    expect(plan).to_contain_text("Fits")
    expect(plan).to_contain_text("KV cache holds")
    expect(plan).to_contain_text("there is room")
    page.fill("[name=tensor_parallel_size]", "3")
    expect(plan).to_contain_text("cannot be split over 3 ranks")
    page.fill("[name=tensor_parallel_size]", "2")
    page.fill("[name=price_per_accelerator_hour_usd]", "1.5")
    expect(plan).to_contain_text("$3.00/h")
    assert page.evaluate("document.activeElement.name") == "price_per_accelerator_hour_usd"


def test_the_plan_shown_is_of_what_was_typed_last_however_slow_the_network(open_page: OpenPage) -> None:
    page = open_page("/deployments/new/?model=tiny")
    network = page.context.new_cdp_session(page)
    slow = {"offline": False, "latency": 1200, "downloadThroughput": -1, "uploadThroughput": -1}
    network.send("Network.emulateNetworkConditions", slow)
    for context in ("512", "1024", "256"):
        page.locator("[name=max_model_len]").press_sequentially(context, delay=20)
        page.wait_for_timeout(300)  # as a person types: the next value while the last is on its way
        page.fill("[name=max_model_len]", "")
    page.fill("[name=max_model_len]", "128")
    expect(page.locator("#plan")).to_contain_text("at the full 128 context")


def test_a_chips_arithmetic_opens_under_the_pointer(open_page: OpenPage) -> None:
    page = open_page("/models/")
    page.locator(".chip summary").first.hover()
    expect(page.locator(".chip .arith").first).to_be_visible()


def test_the_idle_time_is_asked_for_only_where_it_acts(open_page: OpenPage) -> None:
    page = open_page("/deployments/new/?model=tiny")
    idle = page.locator("[name=idle_before_zero_s]")
    expect(idle).to_be_hidden()
    page.fill("[name=min_replicas]", "0")
    expect(idle).to_be_visible()


def test_a_mistake_is_named_focused_and_nothing_typed_is_lost(open_page: OpenPage) -> None:
    page = open_page("/deployments/new/?model=tiny")
    page.fill("[name=name]", "kept-name")
    page.fill("[name=engine_kwargs]", "{oops")
    page.click("button:has-text('Deploy')")
    summary = page.locator("[data-focus]")
    expect(summary).to_be_focused()
    expect(summary).to_contain_text("Further engine arguments: Line 1, column 2")
    expect(page.locator("[name=name]")).to_have_value("kept-name")
    assert not violations(page)


def test_deploy_stop_start_roll_back_delete(open_page: OpenPage) -> None:
    page = open_page("/")
    create(page, "from-the-page")
    expect(page.locator("#timeline")).to_contain_text("Queued")
    page.click("button:has-text('Stop')")
    question = page.locator("#confirm-dialog")
    expect(question).to_contain_text("HTTP 503")
    expect(page.locator("#confirm-no")).to_be_focused()
    page.click("#confirm-no")
    expect(question).to_be_hidden()
    page.click("button:has-text('Stop')")
    page.click("#confirm-yes")
    expect(page.locator("#head .st")).to_have_text("Stopped")
    page.click("button:has-text('Start')")
    expect(page.locator("#head .st")).to_have_text("Queued")

    page.goto("/deployments/from-the-page/edit/")
    page.fill("[name=max_model_len]", "512")
    expect(page.locator("#plan")).to_contain_text("New revision, replicas restart")
    page.click("button:has-text('Save')")
    page.wait_for_url("**/deployments/from-the-page/")
    page.click("button:has-text('Roll back')")
    page.click("#confirm-yes")
    expect(page.locator(".toasts")).to_contain_text("rolled back to revision 1")

    page.click("details.menu summary")
    page.click("text=Delete…")
    button = page.locator("#delete-dialog [data-needs-name]")
    expect(button).to_be_disabled()
    page.fill("#delete-dialog #typed_name", "from-the-page")
    button.click()
    page.wait_for_url("**/deployments/")
    expect(page.locator(".toasts")).to_contain_text("from-the-page is deleted")


def test_two_editors_the_second_is_told(open_page: OpenPage) -> None:
    first = open_page("/")
    create(first, "edited-twice")
    second = open_page("/deployments/edited-twice/edit/", person="ada")
    first.goto("/deployments/edited-twice/edit/")
    first.fill("[name=max_replicas]", "3")
    first.click("button:has-text('Save')")
    first.wait_for_url("**/deployments/edited-twice/")
    second.fill("[name=max_replicas]", "5")
    second.click("button:has-text('Save')")
    expect(second.locator("main")).to_contain_text("olga changed edited-twice while you were editing")
    expect(second.locator("[name=max_replicas]")).to_have_value("5")
    expect(second.locator("main")).to_contain_text("When you opened it")
    assert not violations(second)
    second.click("button:has-text('Save on version')")
    second.wait_for_url("**/deployments/edited-twice/")
    expect(second.locator("main")).to_contain_text("1 to 5")


def test_dialogs_are_accessible(open_page: OpenPage) -> None:
    page = open_page("/deployments/serving/")
    page.click("button:has-text('Stop')")
    expect(page.locator("#confirm-dialog")).to_be_visible()
    assert not violations(page)
    page.keyboard.press("Escape")
    page.click("details.menu summary")
    page.click("text=Delete…")
    assert not violations(page)


def test_a_viewer_sees_everything_and_can_change_nothing(open_page: OpenPage) -> None:
    page = open_page("/deployments/serving/", person="vera")
    expect(page.locator("h1")).to_have_text("serving")
    for words in ("Edit", "Stop", "Roll back"):
        expect(page.locator(f"main >> text={words}")).to_have_count(0)
