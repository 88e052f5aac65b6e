"""The frame of every page: what it shows to whom, and that no page needs inline code."""

from __future__ import annotations

import re
import time
from collections.abc import Callable

import pytest
from django.test import Client
from django.urls import reverse

from console import shell
from console.models import ClusterStatus, Deployment, Event

Deploy = Callable[..., Deployment]

INLINE = re.compile(r"<[^>]+\s(?:style|on[a-z]+)\s*=|<style|<script(?![^>]*(?:src=|application/json))", re.I)


def paths(name: str) -> list[str]:
    """Every page of the console that this module's subjects serve, with one deployment's name filled in."""
    plain = ("overview", "deployments", "deployment-new", "activity", "part-tiles", "part-attention")
    plain += ("part-table", "part-setup", "part-cluster", "part-cluster-problem", "deployments-table")
    own = ("", "-metrics", "-events", "-revisions", "-config", "-edit", "-delete", "-logs")
    found = [reverse(url_name) for url_name in plain]
    found += [reverse(f"deployment{suffix}", args=[name]) for suffix in own]
    found += [reverse("deployment-revision", args=[name, 1]), "/deployments/nothing-here/", "/nothing-here/"]
    parts = ("head", "timeline", "replicas", "events_card", "revisions_card")
    return found + [reverse("deployment-part", args=[name, part]) for part in parts]


@pytest.mark.parametrize("phase", ["queued", "ready", "failed", "asleep"])
def test_no_page_has_inline_style_or_script(as_operator: Client, deploy: Deploy, phase: str) -> None:
    deploy("chat", phase)
    for path in paths("chat"):
        response = as_operator.get(path)
        assert response.status_code in (200, 404), path
        assert not INLINE.findall(response.content.decode()), path
        assert "'unsafe-inline'" not in response.headers["Content-Security-Policy"]


def test_strangers_are_sent_to_the_login_page(db: None) -> None:
    for path in paths("chat")[:-8]:
        response = Client().get(path)
        if "nothing-here" not in path:
            assert response.status_code == 302, path
            assert response.headers["Location"].startswith("/login/"), path


def test_only_pages_that_exist_are_offered(as_viewer: Client) -> None:
    page = as_viewer.get("/deployments/").content.decode()
    nav = page[page.index("<nav") : page.index("</nav>")]
    links = re.findall(r'class="it" href="([^"]+)"', nav)
    assert {"/", "/deployments/", "/models/", "/activity/"} <= set(links)
    for link in links:
        assert as_viewer.get(link).status_code == 200, link


def test_the_present_section_is_marked_and_counted(as_viewer: Client, deploy: Deploy) -> None:
    deploy("chat")
    page = as_viewer.get("/deployments/").content.decode()
    assert re.search(r'href="/deployments/" aria-current="page".*?<span class="cnt">1</span>', page, re.S)


def test_a_viewer_is_offered_no_action(as_viewer: Client, deploy: Deploy) -> None:
    deploy("chat", "ready")
    page = as_viewer.get("/deployments/chat/").content.decode()
    for word in ("/action/", "Edit", "Delete", "New deployment"):
        assert word not in page, word


@pytest.mark.parametrize(
    ("changes", "state", "words"),
    [
        ({}, "ok", "Ray 2.60.0 · 1 node"),
        ({"reachable": False, "error": "refused"}, "bad", "not reachable"),
        ({"observed_at": 1.0}, "warn", "last seen"),
        ({"rejected_digest": "x", "rejected_message": "bad route"}, "warn", "Ray 2.60.0"),
    ],
)
def test_the_cluster_box_tells_what_was_seen(
    cluster: ClusterStatus, changes: dict[str, object], state: str, words: str
) -> None:
    ClusterStatus.objects.update(**changes)
    summary = shell.cluster_summary(time.time())
    assert summary["state"] == state
    assert words in summary["detail"]
    assert bool(summary["problem"]) == (state != "ok")


def test_a_cluster_never_seen_is_not_called_well(db: None) -> None:
    assert shell.cluster_summary(time.time())["state"] == "warn"


def test_the_frame_costs_the_same_with_many_deployments(
    as_viewer: Client, deploy: Deploy, django_assert_max_num_queries: Callable[..., object]
) -> None:
    for number in range(3):
        deploy(f"chat-{number}")
    as_viewer.get("/activity/")
    with django_assert_max_num_queries(10):  # type: ignore[attr-defined]
        as_viewer.get("/activity/")


def test_activity_is_searched_and_escaped(as_viewer: Client, deploy: Deploy) -> None:
    deploy("chat")
    Event.objects.create(
        subject_kind="deployment", subject_name="other", kind="x", message="<script>alert(1)</script>"
    )
    assert b"<script>alert(1)" not in as_viewer.get("/activity/").content
    found = as_viewer.get("/activity/", {"q": "chat created"}).content.decode()
    assert "chat created" in found
    assert "other" not in found
    assert "Nothing was found" in as_viewer.get("/activity/", {"q": "no such thing"}).content.decode()
