"""Choosing where ranks lie, in the browser: what could be, groups over nodes, and what an update holds."""

from __future__ import annotations

from collections.abc import Callable

from playwright.sync_api import Page, expect

from tests.browser.checks import violations
from tests.browser.conftest import Console

OpenPage = Callable[..., Page]
PREPARE = """
import django; django.setup()
from console.models import ClusterStatus, RegisteredModel
from tests.browser.fleet import NODE
from tests.unit.planner.configs import LLAMA_8B
nodes = [{**NODE, "node_id": f"g{i}", "name": f"gpu-{i}", "accelerators": {"H100": 4}} for i in (1, 2)]
ClusterStatus.objects.update(nodes=[NODE, *nodes])
RegisteredModel.objects.get_or_create(name="llama", source_kind="hub", source="meta/llama",
    defaults={"config": LLAMA_8B, "facts": {"attention_heads": 32, "kv_heads": 8}})
RegisteredModel.objects.get_or_create(name="strange", source_kind="hub", source="a/strange",
    defaults={"config": {**LLAMA_8B, "model_type": "strange", "architectures": ["StrangeForCausalLM"]}})
"""
RESTORE = """
import django; django.setup()
from console.models import ClusterStatus, Deployment, RegisteredModel
from tests.browser.fleet import NODE
ClusterStatus.objects.update(nodes=[NODE])
RegisteredModel.objects.filter(name__in=["llama", "strange"]).delete()
"""


def test_a_group_over_nodes_is_asked_for_under_advanced(console: Console, open_page: OpenPage) -> None:
    console.manage("-c", PREPARE)
    try:
        page = open_page("/deployments/new/?model=llama")
        page.select_option("[name=accelerator_type]", "H100")
        page.fill("[name=max_model_len]", "8192")
        page.fill("[name=tensor_parallel_size]", "8")
        plan = page.locator("#plan")
        expect(plan).to_contain_text("no room")
        expect(page.locator("#topologies")).to_contain_text("The largest node has 4.")
        page.click("summary:has-text('Advanced')")
        page.check("[name=tp_may_span_nodes]")
        expect(plan).to_contain_text("there is room")
        expect(plan).to_contain_text("waits twice for the network")
        expect(page.locator("#topologies")).to_contain_text("Tensor parallel over 2 nodes")
        assert not violations(page)
        page.goto("/models/")
        unknown = page.locator(".fit.u", has_text="H100 unknown")
        expect(unknown).to_be_visible()
        assert not violations(page)
    finally:
        console.manage("-c", RESTORE)
