"""The pages of deployments: list, form, plan, verbs, revisions, config, logs."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from typing import Any

import pytest
from django.test import Client

from console import actions, logs
from console.models import ClusterStatus, Deployment, Event, RegisteredModel, Revision, User
from serving.errors import RayUnavailable
from tests.unit.views.conftest import NODE, observe

Deploy = Callable[..., Deployment]
Form = dict[str, str]


def error_of(page: str, field: str) -> str:
    found = re.search(rf'id="id_{field}_error">([^<]*)<', page)
    return found.group(1) if found else ""


# --- list ----------------------------------------------------------------------------------------------


def test_the_list_is_filtered_by_state_and_name(as_viewer: Client, deploy: Deploy) -> None:
    deploy("alpha", "failed")
    deploy("beta", "ready")
    problems = as_viewer.get("/deployments/parts/table/?status=problem").content.decode()
    assert "alpha" in problems
    assert "beta" not in problems
    assert "No deployment matches" in as_viewer.get("/deployments/?q=nothing").content.decode()


def test_an_empty_list_says_what_to_do(as_operator: Client) -> None:
    assert "Nothing is deployed yet" in as_operator.get("/deployments/").content.decode()


# --- creating ------------------------------------------------------------------------------------------


def test_the_form_creates_what_was_typed(
    as_operator: Client, cluster: ClusterStatus, form_values: Form
) -> None:
    response = as_operator.post("/deployments/new/", form_values)
    assert response.headers["Location"] == "/deployments/chat/"
    chat = Deployment.objects.get()
    assert chat.current_revision
    assert chat.current_revision.engine["kv_cache_memory_bytes"] == 64 << 20
    assert (chat.min_replicas, chat.max_replicas, chat.target_ongoing_requests) == (1, 2, 4.0)
    assert Event.objects.get(kind="deployment.created").source == "page"


def test_the_same_form_sent_twice_creates_once(
    as_operator: Client, cluster: ClusterStatus, form_values: Form
) -> None:
    form_values["max_model_len"] = ""  # filled in by the action; still the same submission
    assert as_operator.post("/deployments/new/", form_values).status_code == 302
    assert as_operator.post("/deployments/new/", form_values).status_code == 302
    assert Deployment.objects.count() == 1
    other = as_operator.post("/deployments/new/", {**form_values, "max_replicas": "3"})
    assert "already" in error_of(other.content.decode(), "name")


@pytest.mark.parametrize(
    ("field", "typed", "words"),
    [
        ("name", "Not A Name", "lower-case"),
        ("name", "", "required"),
        ("model", "unheard-of", "Select a valid choice"),
        ("tensor_parallel_size", "3", "attention heads"),
        ("tensor_parallel_size", "0", "greater than or equal to 1"),
        ("max_model_len", "many", "whole number"),
        ("max_model_len", "4096", "2,048"),
        ("kv_cache_memory_bytes", "a lot", "512 MiB"),
        ("engine_kwargs", '{"a": ', "Line 1, column"),
        ("engine_kwargs", "[1]", "JSON object"),
        ("engine_kwargs", '{"model": "x"}', "registry"),
        ("min_replicas", "5", "must not exceed"),
        ("idle_before_zero_s", "60", "min_replicas 0"),
        ("price_per_accelerator_hour_usd", "-1", "greater than or equal to 0"),
        ("target_ongoing_requests", "nan", "number"),
    ],
)
def test_bad_input_names_its_field_and_keeps_what_was_typed(
    as_operator: Client, cluster: ClusterStatus, form_values: Form, field: str, typed: str, words: str
) -> None:
    response = as_operator.post("/deployments/new/", {**form_values, field: typed})
    page = response.content.decode()
    assert response.status_code == 400
    assert words in error_of(page, field)
    assert f'href="#id_{field}"' in page  # the summary leads to the field
    assert 'value="64 MiB"' in page or field == "kv_cache_memory_bytes"
    assert not Deployment.objects.exists()


def test_what_cannot_be_placed_is_refused_with_the_arithmetic(
    as_operator: Client, cluster: ClusterStatus, form_values: Form
) -> None:
    response = as_operator.post("/deployments/new/", {**form_values, "tensor_parallel_size": "8"})
    assert response.status_code in (400, 409)
    page = response.content.decode()
    assert "8 CPU cores" in page
    assert f"{NODE['name']}: 4 CPU cores" in page
    assert not Deployment.objects.exists()


def test_a_viewer_may_not_create(as_viewer: Client, form_values: Form) -> None:
    response = as_viewer.post("/deployments/new/", form_values)
    assert response.status_code == 403
    assert "operator" in response.content.decode()
    assert not Deployment.objects.exists()


def test_a_copy_starts_from_the_other_one(as_operator: Client, deploy: Deploy) -> None:
    deploy("chat", max_replicas=3)
    page = as_operator.get("/deployments/new/?from=chat").content.decode()
    assert re.search(r'name="max_replicas" value="3"', page)
    assert re.search(r'name="name"[^>]*value=""|name="name"(?![^>]*value=)', page)


def test_the_plan_tells_claims_memory_and_money_without_writing(
    as_operator: Client, cluster: ClusterStatus, form_values: Form
) -> None:
    page = as_operator.post("/deployments/new/check/", form_values).content.decode()
    assert "Fits" in page and "there is room" in page
    assert "21.8k tokens" in page  # 170 blocks of 128 tokens in 64 MiB
    assert "$0.05/h to $0.10/h" in page
    assert "$72.00" in page  # 0.10 × 720 h
    refused = as_operator.post("/deployments/new/check/", {**form_values, "tensor_parallel_size": "8"})
    assert "no room" in refused.content.decode()
    assert "Choose a model" in as_operator.get("/deployments/new/check/").content.decode()
    assert not Deployment.objects.exists()


def test_the_plan_is_not_green_where_something_is_known_to_be_wrong(
    as_operator: Client, cluster: ClusterStatus, form_values: Form
) -> None:
    typed = {**form_values, "engine_kwargs": "{oops"}
    page = as_operator.post("/deployments/new/check/", typed).content.decode()
    assert "Not valid" in page and "Fits" not in page
    fault = {"level": "error", "field": "source", "message": "The folder /gone does not exist."}
    RegisteredModel.objects.filter(name=form_values["model"]).update(problems=[fault])
    page = as_operator.post("/deployments/new/check/", form_values).content.decode()
    assert "Files are faulty" in page and "/gone does not exist" in page and "Fits" not in page


# --- changing ------------------------------------------------------------------------------------------


def edit_values(form_values: Form, deployment: Deployment, **changes: str) -> Form:
    kept = {name: value for name, value in form_values.items() if name != "name"}
    return {**kept, "expected_version": str(deployment.version), **changes}


def test_an_edit_says_what_restarts_and_what_does_not(
    as_operator: Client, deploy: Deploy, form_values: Form
) -> None:
    chat = deploy("chat")
    typed = edit_values(form_values, chat, max_model_len="512", editing="chat")
    page = as_operator.post("/deployments/new/check/", typed).content.decode()
    assert "New revision, replicas restart" in page
    assert "2,048 tokens → 512 tokens" in page
    assert "In place, no restart" in page


def test_an_edit_of_the_engine_makes_a_revision(
    as_operator: Client, deploy: Deploy, form_values: Form
) -> None:
    chat = deploy("chat")
    assert as_operator.post("/deployments/chat/edit/", edit_values(form_values, chat)).status_code == 302
    assert Revision.objects.filter(deployment=chat).count() == 2


def test_the_second_of_two_editors_is_shown_both_versions_and_loses_nothing(
    as_operator: Client, people: dict[str, User], deploy: Deploy, form_values: Form
) -> None:
    chat = deploy("chat")
    opened = edit_values(form_values, chat, max_replicas="4", note="mine")
    actions.edit_deployment(
        actor=actions.Actor(people["admin"]), name="chat", expected_version=1, capacity={"max_replicas": 3}
    )
    response = as_operator.post("/deployments/chat/edit/", opened)
    page = response.content.decode()
    assert response.status_code == 409
    assert "admin-person" in page
    assert re.search(r"Most replicas.*?3.*?4", page, re.S)
    assert 'value="mine"' in page
    chat.refresh_from_db()
    assert chat.max_replicas == 3
    version = re.search(r'name="expected_version" value="(\d+)"', page)
    assert version
    again = as_operator.post("/deployments/chat/edit/", {**opened, "expected_version": version.group(1)})
    assert again.status_code == 302
    chat.refresh_from_db()
    assert chat.max_replicas == 4


# --- verbs ---------------------------------------------------------------------------------------------


def test_stop_and_start_are_asked_for_and_recorded(as_operator: Client, deploy: Deploy) -> None:
    chat = deploy("chat", "ready")
    assert as_operator.post("/deployments/chat/action/stop/").status_code == 302
    chat.refresh_from_db()
    assert chat.desired_state == "stopped"
    assert "Stopped. Callers get HTTP 503" in as_operator.get("/deployments/chat/").content.decode()
    as_operator.post("/deployments/chat/action/start/")
    chat.refresh_from_db()
    assert chat.desired_state == "running"


def test_a_verb_needs_post_and_the_role(as_operator: Client, as_viewer: Client, deploy: Deploy) -> None:
    deploy("chat", "ready")
    assert as_operator.get("/deployments/chat/action/stop/").status_code == 405
    assert as_viewer.post("/deployments/chat/action/stop/").status_code == 403
    assert as_operator.post("/deployments/chat/action/explode/").status_code == 404
    assert as_operator.post("/deployments/none/action/stop/").status_code == 404
    assert Deployment.objects.get().desired_state == "running"


def test_a_verb_needs_the_token_of_the_form(people: dict[str, User], deploy: Deploy) -> None:
    deploy("chat", "ready")
    strict = Client(enforce_csrf_checks=True)
    strict.force_login(people["operator"])
    assert strict.post("/deployments/chat/action/stop/").status_code == 403
    assert Deployment.objects.get().desired_state == "running"


def test_a_refused_verb_says_why_and_changes_nothing(as_operator: Client, deploy: Deploy) -> None:
    deploy("chat", "ready")
    response = as_operator.post("/deployments/chat/action/retry/")
    assert response.status_code == 400
    assert "has not failed" in response.content.decode()
    assert as_operator.post("/deployments/chat/action/rollback/", {"revision": "99"}).status_code == 400
    assert as_operator.post("/deployments/chat/action/rollback/", {"revision": "x"}).status_code == 400


def test_roll_back_is_offered_and_makes_a_revision(
    as_operator: Client, deploy: Deploy, form_values: Form
) -> None:
    chat = deploy("chat")
    as_operator.post("/deployments/chat/edit/", edit_values(form_values, chat))
    page = as_operator.get("/deployments/chat/").content.decode()
    assert 'aria-label="Roll back to revision 1"' in page
    chat.refresh_from_db()
    assert f'name="expected_version" value="{chat.version}"' in page
    back = {"revision": "1", "expected_version": str(chat.version)}
    assert as_operator.post("/deployments/chat/action/rollback/", back).status_code == 302
    chat.refresh_from_db()
    assert chat.current_revision
    assert chat.current_revision.number == 3
    assert chat.current_revision.rolled_back_from == 1


def test_a_roll_back_from_a_page_that_is_out_of_date_is_refused(
    as_operator: Client, deploy: Deploy, form_values: Form
) -> None:
    chat = deploy("chat")
    as_operator.post("/deployments/chat/edit/", edit_values(form_values, chat))
    chat.refresh_from_db()
    seen = chat.version
    edit = {**edit_values(form_values, chat), "max_model_len": "256"}
    assert as_operator.post("/deployments/chat/edit/", edit).status_code == 302
    back = {"revision": "1", "expected_version": str(seen)}
    refused = as_operator.post("/deployments/chat/action/rollback/", back)
    assert refused.status_code == 409
    assert "changed chat while you were" in refused.content.decode()
    assert as_operator.post("/deployments/chat/action/rollback/", {"revision": "1"}).status_code == 400
    assert chat.revisions.count() == 3


def test_deleting_takes_the_typed_name(as_operator: Client, deploy: Deploy) -> None:
    deploy("chat")
    refused = as_operator.post("/deployments/chat/action/delete/", {"typed_name": "cha"})
    assert refused.status_code == 400
    assert "it was not deleted" in refused.content.decode()
    assert as_operator.get("/deployments/chat/delete/").status_code == 200
    done = as_operator.post("/deployments/chat/action/delete/", {"typed_name": "chat"})
    assert done.headers["Location"] == "/deployments/"
    assert not Deployment.objects.exists()
    assert Event.objects.filter(kind="deployment.deleted").exists()


# --- the page ------------------------------------------------------------------------------------------


def test_the_timeline_counts_each_phase(as_viewer: Client, deploy: Deploy) -> None:
    deploy("chat", "ready")
    part = as_viewer.get("/deployments/chat/parts/timeline/").content.decode()
    assert re.search(r"tl-loading done.*?20\u00a0s", part, re.S)
    assert "Ready in" in part


def test_a_failure_shows_cause_advice_and_what_can_be_done(as_operator: Client, deploy: Deploy) -> None:
    deploy("chat", "failed")
    page = as_operator.get("/deployments/chat/").content.decode()
    for words in (
        "No such file: /srv/x",
        "Check the path.",
        "Try again",
        "Change it",
        "See the logs",
        "line 1",
    ):
        assert words in page, words


def test_an_old_observation_is_never_shown_as_ready(as_viewer: Client, deploy: Deploy) -> None:
    chat = deploy("chat")
    observe(chat, "ready", at=time.time() - 3600)
    head = as_viewer.get("/deployments/chat/parts/head/").content.decode()
    assert "Unknown" in head
    assert "circle-check" not in head


def test_revisions_are_compared_field_by_field(
    as_operator: Client, deploy: Deploy, form_values: Form
) -> None:
    chat = deploy("chat")
    as_operator.post("/deployments/chat/edit/", edit_values(form_values, chat))
    page = as_operator.get("/deployments/chat/revisions/2/").content.decode()
    assert re.search(r"Context length.*?2,048 tokens.*?1,024 tokens", page, re.S)
    assert "no earlier revision" in as_operator.get("/deployments/chat/revisions/1/").content.decode()
    assert as_operator.get("/deployments/chat/revisions/9/").status_code == 404
    assert as_operator.get("/deployments/chat/revisions/2/?compare=abc").status_code == 200


def test_the_config_hides_secrets(as_viewer: Client, deploy: Deploy, model: RegisteredModel) -> None:
    from console import secrets

    deploy("chat")
    model.hub_token_encrypted = secrets.encrypt("hf_verysecrettoken")
    model.source_kind = "hub"
    model.save()
    page = as_viewer.get("/deployments/chat/config/").content.decode()
    assert "model-chat" in page
    assert "hf_verysecrettoken" not in page


def test_logs_are_read_when_asked_and_an_outage_is_said(
    as_viewer: Client, deploy: Deploy, monkeypatch: pytest.MonkeyPatch
) -> None:
    deploy("chat")

    def written(**_: Any) -> logs.LogTail:
        return logs.LogTail("engine", "x.out", ["INFO fine", "ERROR <b>broken</b>"])

    monkeypatch.setattr(logs, "tail", written)
    page = as_viewer.get("/deployments/chat/logs/?source=engine").content.decode()
    assert 'data-l="E"' in page
    assert "ERROR &lt;b&gt;broken" in page
    download = as_viewer.get("/deployments/chat/logs/?download=1")
    assert download.headers["Content-Disposition"].startswith("attachment")

    def away(**_: Any) -> logs.LogTail:
        raise RayUnavailable("Ray did not answer")

    monkeypatch.setattr(logs, "tail", away)
    assert "Ray did not answer" in as_viewer.get("/deployments/chat/logs/lines/").content.decode()


def test_a_name_that_does_not_exist_is_a_page_that_says_so(as_viewer: Client) -> None:
    response = as_viewer.get("/deployments/nothing/")
    assert response.status_code == 404
    assert "no deployment called nothing" in response.content.decode()


def test_snippets_name_the_variable_of_a_key_and_never_a_key(as_viewer: Client, deploy: Deploy) -> None:
    deploy("chat")
    page = as_viewer.get("/deployments/chat/").content.decode()
    assert "RAYDECK_API_KEY" in page
    assert not re.search(r"\brd-[A-Za-z0-9_-]{43}", page)
