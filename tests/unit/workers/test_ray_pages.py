"""Reading a cluster's metrics pages: what is away is said and never waited for."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator

import pytest

from serving.errors import RayUnavailable
from tests.unit.workers.fleet import page_text
from workers import ray_pages
from workers.ray_pages import RayPages


class Cluster:
    """Pages by target; an exception is raised, an event is waited for."""

    def __init__(self, pages: dict[str, str | Exception | threading.Event]) -> None:
        self.pages = pages
        self.lists = 0
        self.reads: list[str] = []
        self.away = False

    def get_metrics_targets(self) -> list[str]:
        self.lists += 1
        if self.away:
            raise RayUnavailable("Ray does not answer")
        return list(self.pages)

    def read_metrics(self, target: str) -> str:
        self.reads.append(target)
        page = self.pages.get(target, RayUnavailable(f"{target} is gone"))
        if isinstance(page, threading.Event):
            page.wait(5)
            return ""
        if isinstance(page, Exception):
            raise page
        return page


@pytest.fixture
def stuck() -> Iterator[threading.Event]:
    event = threading.Event()
    yield event
    event.set()


NODE = page_text("a", requests_running=1)


async def test_all_node_pages_are_read_and_the_others_are_left_alone_for_a_while():
    cluster = Cluster(
        {"n1": NODE, "n2": page_text("b", requests_running=2), "dashboard": "# HELP\nray_dashboard_x 1\n"}
    )
    pages = RayPages(cluster)
    for second in range(3):
        found = await pages.scrape(100.0 + second)
        assert set(found.pages) == {"n1", "n2"}
        assert found.pages["n2"].gauges == {"b": {"requests_running": 2.0}}
        assert found.error == ""
    assert cluster.reads.count("dashboard") == 1
    assert cluster.lists == 1
    await pages.scrape(100.0 + ray_pages.OTHER_PAGES_S)
    assert cluster.reads.count("dashboard") == 2
    pages.close()


async def test_a_node_page_whose_gauges_are_all_missing_is_still_a_node_page():
    cluster = Cluster({"n1": 'ray_grpc_server_req_new_total{Method="x"} 3\n'})
    pages = RayPages(cluster)
    for second in range(3):
        found = await pages.scrape(100.0 + second)
        assert (set(found.pages), found.error) == ({"n1"}, "")
    pages.close()


async def test_one_stuck_page_costs_its_patience_and_not_the_others(stuck, monkeypatch):
    monkeypatch.setattr(ray_pages, "PATIENCE_S", 0.3)
    pages = RayPages(Cluster({"n1": NODE, "stuck": stuck, "broken": RayUnavailable("no answer")}))
    started = time.monotonic()
    found = await pages.scrape(100.0)
    assert time.monotonic() - started < ray_pages.PATIENCE_S + 1
    assert set(found.pages) == {"n1"}
    assert set(found.missing) == {"stuck", "broken"}
    assert found.error == ""
    pages.close()


async def test_a_cluster_that_is_away_is_said_and_found_again():
    cluster = Cluster({"n1": NODE})
    cluster.away = True
    pages = RayPages(cluster)
    assert (await pages.scrape(100.0)).error == "Ray does not answer"
    assert (await pages.scrape(101.0)).error == "Ray does not answer"
    assert cluster.lists == 1
    cluster.away = False
    found = await pages.scrape(100.0 + ray_pages.RETRY_S)
    assert set(found.pages) == {"n1"}
    pages.close()


async def test_a_dashboard_that_is_away_does_not_stop_pages_that_answer():
    cluster = Cluster({"n1": NODE})
    pages = RayPages(cluster)
    await pages.scrape(100.0)
    cluster.away = True
    for second in range(1, 30):
        assert set((await pages.scrape(100.0 + second)).pages) == {"n1"}
    pages.close()


async def test_a_head_that_came_back_on_other_ports_is_found():
    cluster = Cluster({"n1": NODE})
    pages = RayPages(cluster)
    assert set((await pages.scrape(100.0)).pages) == {"n1"}
    cluster.pages = {"n9": NODE}
    assert (await pages.scrape(101.0)).error == "n1 is gone"
    now = 101.0 + ray_pages.RETRY_S
    async with asyncio.timeout(5):
        while set((await pages.scrape(now)).pages) != {"n9"}:
            await asyncio.sleep(0.01)
            now += 1.0
    assert pages.targets == {"n9"}
    pages.close()


async def test_a_cluster_without_pages_is_not_a_cluster_that_was_seen():
    pages = RayPages(Cluster({}))
    assert (await pages.scrape(100.0)).error == ray_pages.NO_PAGE
    pages.close()
