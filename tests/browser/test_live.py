"""Live pages: samples move numbers and charts, changes are fetched, a lost connection is said."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from playwright.sync_api import Page, WebSocketRoute, expect

from tests.browser.conftest import Console

OpenPage = Callable[..., Page]

TOPIC = "deployment:serving"


def sample(**values: Any) -> dict[str, Any]:
    point = {
        "t": int(time.time()),
        "ttft_p50_s": 0.3,
        "ttft_p95_s": 0.777,
        "tpot_p50_s": 0.01,
        "tpot_p95_s": 0.02,
        "e2e_p50_s": 1.0,
        "e2e_p95_s": 2.0,
        "running": 31,
        "waiting": 2,
        "tokens_per_s": 6650.0,
        "prompt_tokens_per_s": 900.0,
        "kv_usage": 0.5,
        "weights_bytes": 1 << 30,
        "kv_bytes": 1 << 30,
        "rest_bytes": 1 << 30,
        "replicas": 1,
        "cost_per_hour_usd": "0.05",
        "cost_usd": "1.25",
        "requests": 3,
        "failed": 0,
    }
    return {"t": "sample", "data": {**point, **values}}


def wait_for_live(page: Page) -> None:
    page.wait_for_selector("[data-live-state]:not([hidden]) >> text=Live")


def test_a_sample_moves_numbers_and_chart(console: Console, open_page: OpenPage) -> None:
    page = open_page("/deployments/serving/")
    wait_for_live(page)
    chart = page.locator("[data-chart=ttft]")
    expect(chart.locator(".scatterlayer").first).to_be_visible()
    before = chart.locator("svg .scatterlayer path.js-line").last.get_attribute("d")
    console.publish(TOPIC, sample())
    expect(page.locator("[data-live=ttft_p95_s]").first).to_have_text("777\u00a0ms")
    expect(page.locator("[data-live=running]").first).to_have_text("31")
    page.wait_for_function(
        """(before) => {
          const lines = document.querySelectorAll('[data-chart=ttft] .scatterlayer path.js-line');
          return lines[lines.length - 1].getAttribute('d') !== before;
        }""",
        arg=before,
    )


def test_a_missing_latency_keeps_the_last_one_and_a_missing_gauge_is_a_dash(
    console: Console, open_page: OpenPage
) -> None:
    page = open_page("/deployments/serving/")
    wait_for_live(page)
    console.publish(TOPIC, sample())
    expect(page.locator("[data-live=ttft_p95_s]").first).to_have_text("777\u00a0ms")
    console.publish(TOPIC, sample(ttft_p95_s=None, running=None))
    expect(page.locator("[data-live=running]").first).to_have_text("–")
    expect(page.locator("[data-live=ttft_p95_s]").first).to_have_text("777\u00a0ms")
    console.publish(TOPIC, sample(t=int(time.time()) + 61, ttft_p95_s=None))
    expect(page.locator("[data-live=ttft_p95_s]").first).to_have_text("–")


def test_live_updates_can_be_paused_and_resumed(console: Console, open_page: OpenPage) -> None:
    page = open_page("/deployments/serving/")
    wait_for_live(page)
    console.publish(TOPIC, sample(running=11))
    running = page.locator("[data-live=running]").first
    expect(running).to_have_text("11")
    page.click("[data-live-state]")
    expect(page.locator("[data-live-word]")).to_have_text("Paused")
    console.publish(TOPIC, sample(running=12))
    console.publish("cluster", {"t": "changed", "what": "status"})
    page.click("[data-live-state]")
    console.publish(TOPIC, sample(running=13))
    expect(running).to_have_text("13")


def test_gaps_in_the_history_stay_gaps(open_page: OpenPage) -> None:
    page = open_page("/deployments/serving/")
    page.wait_for_selector("[data-chart=requests] .scatterlayer path.js-line")
    # Ten minutes with a quiet minute in every four: each of the two lines is drawn in several runs.
    runs = page.locator("[data-chart=ttft] .scatterlayer .trace:last-child path.js-line")
    assert runs.count() >= 3


def test_a_change_is_fetched_without_a_reload_and_keeps_what_is_open(
    console: Console, open_page: OpenPage
) -> None:
    page = open_page("/deployments/loading/")
    wait_for_live(page)
    page.click("details.menu summary")
    console.manage(
        "-c",
        "import django; django.setup()\n"
        "import time\n"
        "from console.models import DeploymentStatus as S\n"
        "now = time.time()\n"
        "S.objects.filter(deployment__name='loading').update(warming_at=now - 2, ready_at=now,"
        " replicas_running=1, replicas_target=1)\n"
        "from console import live\n"
        "live.publish_changed(['deployment:loading'], 'status')\n",
    )
    expect(page.locator("#head .st")).to_have_text("Ready")
    expect(page.locator("#timeline .tl-ready")).to_have_class("tl-ready done")
    assert page.evaluate("document.querySelector('details.menu').open")


def test_a_deployment_deleted_by_somebody_else_is_said_not_pasted_in(
    console: Console, open_page: OpenPage
) -> None:
    page = open_page("/deployments/new/?model=tiny")
    page.fill("[name=name]", "short-lived")
    page.click("button:has-text('Deploy')")
    page.wait_for_url("**/deployments/short-lived/")
    wait_for_live(page)
    console.manage(
        "-c",
        "import django; django.setup()\n"
        "from console import actions\n"
        "from console.models import User\n"
        "ada = actions.Actor(User.objects.get(username='ada'))\n"
        "actions.delete_deployment(actor=ada, name='short-lived')\n",
    )
    expect(page.locator("main h1")).to_have_text("There is nothing at this address")
    assert page.locator("nav.nav").count() == 1


def test_a_lost_connection_is_said_and_caught_up(console: Console, open_page: OpenPage) -> None:
    page = open_page("/activity/")
    routes: list[WebSocketRoute] = []
    refused = {"on": False}

    def route(socket: WebSocketRoute) -> None:
        if refused["on"]:
            socket.close()
            return
        socket.connect_to_server()
        routes.append(socket)

    page.route_web_socket("**/ws/live/", route)
    page.goto("/deployments/serving/")
    wait_for_live(page)
    refused["on"] = True
    routes[-1].close()
    banner = page.locator("[data-live-banner]")
    expect(banner).to_be_visible()
    expect(banner).to_contain_text("Live updates paused")
    refused["on"] = False
    with page.expect_response("**/deployments/serving/points/**"):
        page.click("[data-live-reconnect]")
    expect(banner).to_be_hidden()


def test_a_chart_can_be_read_as_a_table(open_page: OpenPage) -> None:
    page = open_page("/deployments/serving/")
    page.wait_for_selector("[data-chart=ttft] .scatterlayer path.js-line")
    page.click("[data-table] >> nth=0")
    dialog = page.locator("#chart-table")
    expect(dialog).to_be_visible()
    assert dialog.locator("thead th").all_inner_texts() == ["Time", "p50", "p95", "p99"]
    assert dialog.locator("tbody tr").count() > 50
    page.keyboard.press("Escape")
    expect(dialog).to_be_hidden()
