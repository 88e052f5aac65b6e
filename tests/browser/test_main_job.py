"""The whole of Raydeck by hand: a new copy, a real Ray, the real engine, Chromium.

Log in with the printed password, register the model, deploy it, watch the phases and a moving chart, chat,
stop an answer, edit, roll back, stop and delete. One test, because it is one story, told in order.
"""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from console.firstrun import DEMO_FOLDER
from tests.browser.conftest import Faults
from tests.product import Product

pytestmark = [pytest.mark.browser, pytest.mark.cluster]

READY_MS = 240_000
GONE_MS = 60_000


@pytest.fixture(scope="module")
def product() -> Iterator[Product]:
    folder = Path(tempfile.mkdtemp(prefix="rdmj-", dir="/tmp"))
    running = Product(folder)
    try:
        running.copy.until(lambda: running.api.get("cluster").json()["gateway_ready"])
        yield running
    finally:
        running.api.close()
        running.copy.close()
        shutil.rmtree(folder, ignore_errors=True)
        folder.with_suffix(".out").unlink(missing_ok=True)


def test_from_the_login_page_to_an_answer_and_back_to_nothing(product: Product, chromium: Browser) -> None:
    faults = Faults()
    context = chromium.new_context(
        base_url=f"http://127.0.0.1:{product.copy.port('web')}", viewport={"width": 1440, "height": 900}
    )
    context.set_default_timeout(20_000)
    page = context.new_page()
    faults.watch(page)
    log_in(page, product)
    register(page)
    deploy(page)
    watch_until_ready(page)
    chat(page)
    see_the_chart_move(page)
    stop_an_answer(page)
    edit_and_roll_back(page)
    stop_and_delete(page, product)
    context.close()
    assert not faults.found, faults.found


def log_in(page: Page, product: Product) -> None:
    password = re.findall(r"password: (\S+)", product.copy.said())[0]
    page.goto("/")
    page.fill("[name=username]", "admin")
    page.fill("[name=password]", "not the password")
    page.click("button:has-text('Log in')")
    expect(page.locator("main")).to_contain_text("password")
    page.fill("[name=username]", "admin")
    page.fill("[name=password]", password)
    page.click("button:has-text('Log in')")
    expect(page.locator("h1")).to_have_text("Serve your first model")


def register(page: Page) -> None:
    page.goto("/models/new/")
    page.fill("[name=name]", "second-demo")
    page.fill("[name=source]", str(DEMO_FOLDER))
    page.click("button:has-text('Register model')")
    page.wait_for_url("**/models/second-demo/")
    expect(page.locator("main")).to_contain_text("LlamaForCausalLM")


def deploy(page: Page) -> None:
    page.goto("/deployments/new/?model=second-demo")
    page.fill("[name=name]", "story")
    page.fill("[name=max_model_len]", "512")
    page.fill("[name=price_per_accelerator_hour_usd]", "1.20")
    expect(page.locator("#plan")).to_contain_text("$1.20/h")
    page.click("button:has-text('Deploy')")
    page.wait_for_url("**/deployments/story/")


def watch_until_ready(page: Page) -> None:
    """The page follows by itself: it is never reloaded here."""
    timeline = page.locator("#timeline")
    expect(timeline).to_contain_text("Loading")
    expect(page.locator("#head .st")).to_have_text("Ready", timeout=READY_MS)
    expect(timeline).to_contain_text("Ready in")


def chat(page: Page) -> None:
    page.goto("/playground/?a=story")
    page.fill("#message", "Who are you?")
    page.press("#message", "Enter")
    answer = page.locator("[data-answer]").last
    expect(answer.locator("[data-body]")).to_contain_text("toy")
    expect(page.locator("#send")).to_be_visible()
    figures = answer.locator("[data-meta]").inner_text().replace("\u00a0", " ")
    for word in ("TTFT", "TPOT", "tok/s", "$"):
        assert word in figures, figures
    page.reload()
    expect(page.locator("[data-body]").last).to_contain_text("toy")


def see_the_chart_move(page: Page) -> None:
    """Requests made now show as numbers and points on the page that is open."""
    page.goto("/deployments/story/")
    context = page.context
    other = context.new_page()
    other.goto("/playground/?a=story")
    tokens = page.locator("[data-live='tokens_per_s']").first
    other.fill("#message", "When should I use tensor parallelism?")
    other.press("#message", "Enter")
    page.bring_to_front()
    expect(tokens).to_have_text(re.compile(r"[1-9]"), timeout=15_000)
    other.close()


def stop_an_answer(page: Page) -> None:
    """Hot and long; yet the toy may end by itself in a tenth of a second: asked until one is stopped."""
    for _ in range(10):
        page.goto("/playground/?a=story")
        page.fill("#p-temperature", "2")
        page.fill("#p-max-tokens", "400")
        page.fill("#message", "What is the difference between TTFT and TPOT?")
        page.press("#message", "Enter")
        expect(page.locator("[data-body]").last).not_to_be_empty()
        page.keyboard.press("Escape")
        expect(page.locator("#send")).to_be_visible()
        if "stopped" in page.locator("[data-answer]").last.inner_text():
            return
    raise AssertionError("no answer of ten could be stopped")


def edit_and_roll_back(page: Page) -> None:
    page.goto("/deployments/story/edit/")
    page.fill("[name=max_num_seqs]", "16")
    expect(page.locator("#plan")).to_contain_text("New revision, replicas restart")
    page.click("button:has-text('Save')")
    page.wait_for_url("**/deployments/story/")
    expect(page.locator("#head .st")).not_to_have_text("Ready")
    page.click("button:has-text('Roll back')")
    page.click("#confirm-yes")
    expect(page.locator("#timeline")).to_contain_text("Revision 3")
    expect(page.locator("#head .st")).to_have_text("Ready", timeout=READY_MS)


def stop_and_delete(page: Page, product: Product) -> None:
    page.click("button:has-text('Stop')")
    page.click("#confirm-yes")
    expect(page.locator("#head .st")).to_have_text("Stopped")
    page.click("details.menu summary")
    page.click("text=Delete…")
    page.fill("#delete-dialog #typed_name", "story")
    page.click("#delete-dialog [data-needs-name]")
    page.wait_for_url("**/deployments/")
    product.copy.until(
        lambda: product.query("select count(*) from console_replica where ended_at is null") == [(0,)],
        deadline_s=GONE_MS / 1000,
    )
    assert product.query("select count(*) from console_requestrecord where outcome = 'aborted'") >= [(1,)]
