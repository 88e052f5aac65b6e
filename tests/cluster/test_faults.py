"""Kill -9 of every part of the running product, one at a time, while chats stream.

After each: the console says what is down, everything converges by itself, and the ledger holds every answered
request exactly once. One copy of the product serves all tests of this file.
"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from tests.product import Product

pytestmark = pytest.mark.cluster

BACK_DEADLINE_S = 60.0
NOTICED_WITHIN_S = 20.0
"""A replica without an engine ends after a second; Serve and the reconciler look every few seconds."""
PHASES = ("queued", "placing", "loading", "warming", "ready", "asleep", "failed")


class Chats:
    """Two callers chatting one after another for as long as the block lasts; every answer is kept."""

    def __init__(self, product: Product) -> None:
        self.product = product
        self.sent = 0
        self.recorded_before = len(product.recorded())
        self.answered: list[tuple[float, str]] = []
        self.failed: list[str] = []
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._chat, daemon=True) for _ in range(2)]

    def __enter__(self) -> Chats:
        for thread in self._threads:
            thread.start()
        self.product.copy.until(lambda: len(self.answered) >= 3)
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(timeout=90)

    def _chat(self) -> None:
        while not self._stop.is_set():
            self.sent += 1
            try:
                status, identity, well = self.product.ask()
            except httpx.HTTPError as error:
                self.failed.append(type(error).__name__)
                self._stop.wait(0.2)
                continue
            if well:
                self.answered.append((time.time(), identity))
            else:
                self.failed.append(str(status))
                self._stop.wait(0.2)


@pytest.fixture(scope="module")
def product() -> Iterator[Product]:
    folder = Path(tempfile.mkdtemp(prefix="rdft-", dir="/tmp"))
    running: Product | None = None
    try:
        running = Product(folder)
        running.deploy()
        yield running
    finally:
        if running is not None:
            running.api.close()
            running.copy.close()
        shutil.rmtree(folder, ignore_errors=True)
        folder.with_suffix(".out").unlink(missing_ok=True)


@pytest.fixture(autouse=True)
def _converged(product: Product) -> None:
    product.wait_ready()


def check_ledger(product: Product, chats: Chats, *, lost_after: float | None = None) -> None:
    """Every answered request is in the ledger once. A gateway that was killed at `lost_after` may lose what
    was in its hands within that second, and nothing else."""
    wanted = {
        identity
        for at, identity in chats.answered
        if lost_after is None or not lost_after - 1.0 <= at <= lost_after + 1.0
    }
    assert wanted, "nothing was answered, so nothing was shown"
    product.copy.until(lambda: wanted <= set(product.recorded()), deadline_s=BACK_DEADLINE_S)
    # A request that were recorded under two ids would show here: there cannot be more rows than were sent
    # (smoke requests after a restart carry the console's own key).
    rows = len(product.recorded()) - chats.recorded_before
    assert rows <= chats.sent + smokes(product), "the ledger has more than was sent"
    check_samples(product)


def smokes(product: Product) -> int:
    """Requests of the console itself in the ledger."""
    query = (
        "select count(*) from console_requestrecord join console_apikey on console_apikey.id = key_id"
        " where kind = 'internal'"
    )
    return int(product.query(query)[0][0])


def check_samples(product: Product) -> None:
    """No interval was written twice, and the charts count no request that the ledger does not have."""
    twice = "select count(*) from console_sample group by deployment_id, resolution_s, at having count(*) > 1"
    assert product.query(twice) == []
    counted = product.query(
        "select coalesce(sum(requests_ok + requests_failed), 0) from console_sample where resolution_s = 1"
    )
    assert int(counted[0][0]) <= len(product.recorded())


def check_one_definition(product: Product, revisions: int) -> None:
    """No deployment, revision or creation event was lost or doubled."""
    assert product.query("select count(*) from console_deployment") == [(1,)]
    assert product.query("select count(*) from console_revision") == [(revisions,)]
    created = product.query("select count(*) from console_event where kind = 'deployment.created'")
    assert created == [(1,)]
    phases = [
        kind
        for (kind,) in product.query("select kind from console_event order by id")
        if kind in {f"deployment.{word}" for word in PHASES} | {"cluster.reachable", "cluster.unreachable"}
    ]
    of_cluster = [kind for kind in phases if kind.startswith("cluster.")]
    of_deployment = [kind for kind in phases if kind.startswith("deployment.")]
    for told in (of_cluster, of_deployment):
        assert all(one != other for one, other in zip(told, told[1:], strict=False)), told


def kill_part(product: Product, name: str) -> psutil.Process:
    before = product.copy.part(name)
    before.kill()
    return before


def back(product: Product, name: str, before: psutil.Process) -> None:
    product.copy.until(lambda: product.copy.part(name) != before, deadline_s=BACK_DEADLINE_S)
    assert f"{name} was killed by SIGKILL" in product.copy.said()


@pytest.mark.parametrize("name", ["web", "worker", "collector", "redis"])
def test_chats_go_on_while_a_part_of_the_console_is_killed(product: Product, name: str) -> None:
    with Chats(product) as chats:
        before = kill_part(product, name)
        answered = len(chats.answered)
        back(product, name, before)
        product.copy.until(lambda: len(chats.answered) > answered + 3)
    assert chats.failed == [], "a part of the console is not in the way of a request"
    product.copy.until(lambda: product.copy.get("/readyz") == 200, deadline_s=BACK_DEADLINE_S)
    check_ledger(product, chats)
    check_one_definition(product, revisions=1)


def test_the_serve_controller_may_die_and_requests_go_on(product: Product) -> None:
    with Chats(product) as chats:
        controller = one(product, lambda words: "ray::ServeController" in words)
        answered = len(chats.answered)
        controller.kill()
        product.copy.until(lambda: len(chats.answered) > answered + 3)
        product.copy.until(
            lambda: (
                one_or_none(product, lambda words: "ray::ServeController" in words) not in (None, controller)
            ),
            deadline_s=BACK_DEADLINE_S,
        )
    product.wait_ready()
    product.copy.until(product.answers, deadline_s=BACK_DEADLINE_S)
    check_ledger(product, chats)
    check_one_definition(product, revisions=1)


def test_a_dead_engine_is_said_and_comes_back_by_itself(product: Product) -> None:
    before = int(product.query("select coalesce(max(id), 0) from console_event")[0][0])
    with Chats(product) as chats:
        engine = one(product, lambda words: "VLLM::EngineCore" in words)
        engine.kill()
        killed_at = time.time()
        product.copy.until(
            lambda: product.deployment().get("phase") not in (None, "ready"), deadline_s=BACK_DEADLINE_S
        )
        unnoticed_s = time.time() - killed_at
        product.wait_ready()
        back_s = time.time() - killed_at
        answered = len(chats.answered)
        product.copy.until(lambda: len(chats.answered) > answered, deadline_s=BACK_DEADLINE_S)
    print(f"not ready after {unnoticed_s:.1f} s, ready again after {back_s:.1f} s, failed: {chats.failed}")
    assert unnoticed_s < NOTICED_WITHIN_S
    assert "500" not in chats.failed, "a dead engine is 503 with the time to come back"
    assert product.deployment()["ready_in_s"] < back_s + 5
    said = "select level, message from console_event where id > ? and kind = ? order by id"
    (died,) = product.query(said, before, "deployment.engine_died")
    assert died[0] == "bad" and "engine process died" in died[1]
    (placing,) = product.query(said, before, "deployment.placing")
    assert "sent to Ray" not in placing[1], "nothing was sent"
    check_ledger(product, chats)
    check_one_definition(product, revisions=1)


def test_a_killed_ray_head_is_said_restarted_and_given_everything_again(product: Product) -> None:
    with Chats(product) as chats:
        killed_at = time.time()
        before = kill_part(product, "ray")
        product.copy.until(
            lambda: product.deployment().get("phase") not in (None, "ready"), deadline_s=BACK_DEADLINE_S
        )
        back(product, "ray", before)
        product.wait_ready()
        product.copy.until(product.answers, deadline_s=BACK_DEADLINE_S)
    check_ledger(product, chats, lost_after=killed_at)
    check_one_definition(product, revisions=1)
    kinds = [kind for (kind,) in product.query("select kind from console_event order by id")]
    assert "cluster.unreachable" in kinds and "cluster.reachable" in kinds


def one(product: Product, wanted: Callable[[str], bool]) -> psutil.Process:
    """The process of this copy whose title says what it is."""
    return product.copy.until(lambda: one_or_none(product, wanted))


def one_or_none(product: Product, wanted: Callable[[str], bool]) -> psutil.Process | None:
    for process in product.copy.processes():
        with contextlib.suppress(psutil.Error):
            if wanted(" ".join(process.cmdline())) and process.status() != psutil.STATUS_ZOMBIE:
                return process
    return None
