"""Plan against actual in the browser: readable in both themes and widths, there as soon as it is written."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from playwright.sync_api import Page, expect

from tests.browser.checks import overflowing, violations
from tests.browser.conftest import Console

OpenPage = Callable[..., Page]

COMPARE = """
import django, time
django.setup()
from console.models import Deployment, PlanCheck, Revision
from serving.planner.measured import Measured
from tests.unit.planner.test_compare import AS_PLANNED, stored
from workers import plan_checks
from dataclasses import replace
GIB = 1 << 30
deployment = Deployment.objects.get(name="serving")
engine = {**deployment.current_revision.engine, "accelerator_type": "H100", "max_model_len": 8192}
off = replace(AS_PLANNED, kv_room_bytes=46 * GIB, kv_cache_bytes=46 * GIB,
              num_blocks=23_552, kv_cache_tokens=376_832,
              max_concurrency=46.0, activation_bytes=9 * GIB,
              process_bytes=3 * GIB, weight_load_seconds=4.2)
for number, seen in ((1, AS_PLANNED), (2, off)):
    Revision.objects.filter(deployment=deployment, number=number).update(plan=stored(), engine=engine)
    revision = Revision.objects.get(deployment=deployment, number=number)
    differences, cause = plan_checks.compared(revision, seen)
    PlanCheck.objects.update_or_create(revision=revision, defaults={
        "replica_id": "model-serving_engine_abcd1234", "measured": seen.to_json(),
        "differences": plan_checks.to_json(differences), "cause": cause, "measured_at": time.time()})
"""


def test_a_check_appears_when_the_worker_has_written_it_and_every_page_of_it_is_accessible(
    open_page: OpenPage, console: Console
) -> None:
    page = open_page("/deployments/serving/", width=1440)
    card = page.locator("#plan-check")
    expect(card).to_contain_text("Not measured yet")
    console.manage("-c", COMPARE)
    console.publish("deployment:serving", {"t": "changed", "what": "plan"})
    expect(card).to_contain_text("the activation peak took 6.00 GiB more than planned", timeout=10_000)
    expect(card.locator("tr", has_text="KV blocks")).to_contain_text("−12%")
    page.close()


@pytest.mark.parametrize("width", [1440, 390])
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_it_fits_and_is_accessible(open_page: OpenPage, console: Console, theme: str, width: int) -> None:
    console.manage("-c", COMPARE)
    page = open_page("/", theme=theme, width=width)
    found = []
    for path in (
        "/deployments/serving/",
        "/deployments/serving/revisions/",
        "/deployments/serving/revisions/1/",
    ):
        page.goto(path)
        page.wait_for_selector("body[data-ready]")
        found += [f"{path}: overflow {box}" for box in overflowing(page)]
        found += [f"{path}: {rule}" for rule in violations(page)]
    assert not found
