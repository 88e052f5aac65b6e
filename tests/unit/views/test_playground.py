"""The playground's pages: which deployments are offered and why not, one's own chats, the history switch."""

from __future__ import annotations

import json
import re
import time
from decimal import Decimal
from typing import Any

import pytest
from django.test import Client

from console import conversations
from console.chat_request import ChatRequest
from console.firstrun import DEMO_FOLDER
from console.models import (
    ChatMessage,
    Conversation,
    CostAccounting,
    Deployment,
    DeploymentStatus,
    RegisteredModel,
    RequestRecord,
    Revision,
    User,
)
from tests.unit.conftest import make_user

pytestmark = pytest.mark.django_db


@pytest.fixture
def operator(db: None) -> User:
    return make_user("operator")


@pytest.fixture
def viewer(db: None) -> User:
    return make_user("viewer")


def text_of(response: Any) -> str:
    return str(response.content.decode()).replace("\u00a0", " ")


def data_of(response: Any) -> dict[str, Any]:
    found = re.search(r'id="chat-data">(.*?)</script>', response.content.decode(), re.S)
    assert found is not None
    data: dict[str, Any] = json.loads(found[1])
    return data


def make_deployment(name: str, *, source: str = "/models/x", **status: Any) -> Deployment:
    model = RegisteredModel.objects.get_or_create(
        name=f"model-of-{name}", defaults={"source_kind": "folder", "source": source}
    )[0]
    now = time.time()
    deployment = Deployment.objects.create(
        name=name, model=model, requested_at=now - 60, price_per_accelerator_hour_usd=Decimal("2.50")
    )
    engine = {"tensor_parallel_size": 2, "pipeline_parallel_size": 1, "max_model_len": 4096}
    deployment.current_revision = Revision.objects.create(deployment=deployment, number=1, engine=engine)
    deployment.save()
    seen = {"generation": 1, "observed_at": now, "queued_at": now - 60, "placing_at": now - 59}
    ready = {"loading_at": now - 50, "warming_at": now - 20, "ready_at": now - 18, "replicas_running": 1}
    DeploymentStatus.objects.create(deployment=deployment, **{**seen, **(status or ready)})
    return deployment


def make_chat(user: User, title: str = "My chat") -> Conversation:
    chat = Conversation.objects.create(user=user, title=title, deployment_name="demo", settings={"seed": 4})
    ChatMessage.objects.create(conversation=chat, role="user", content="What is <TTFT>?")
    stats = {"request_id": "request-1", "tokens_counted": True, "completion_tokens": 3, "prompt_tokens": None}
    ChatMessage.objects.create(conversation=chat, role="assistant", content="A time.", stats=stats)
    ChatMessage.objects.create(conversation=chat, role="assistant", content="A **time**.", stats={})
    return chat


@pytest.fixture
def as_viewer(client: Client, viewer: User) -> Client:
    client.force_login(viewer)
    return client


def test_without_a_deployment_the_page_says_what_to_do(as_viewer: Client) -> None:
    assert "Nothing to chat with yet" in text_of(as_viewer.get("/playground/"))


def test_a_ready_deployment_is_offered_with_its_price_and_chosen(as_viewer: Client) -> None:
    make_deployment("demo")
    response = as_viewer.get("/playground/")
    assert data_of(response)["deployment"] == "demo"
    assert "$5.00/h per replica" in text_of(response) and 'data-context="4096"' in text_of(response)


def test_others_are_shown_with_their_state_and_why_they_cannot_be_used(as_viewer: Client) -> None:
    now = time.time()
    make_deployment("broken", failed_at=now, failure={"cause": "CUDA out of memory."})
    make_deployment("starting", loading_at=now)
    response = as_viewer.get("/playground/")
    text = text_of(response)
    assert "CUDA out of memory." in text and "Loading" in text and text.count("data-unusable") >= 2
    assert data_of(response)["deployment"] is None


def test_a_sleeping_deployment_can_be_chosen_and_says_that_it_wakes(as_viewer: Client) -> None:
    now = time.time()
    deployment = make_deployment("sleepy", asleep_at=now, ready_at=now - 18)
    Deployment.objects.filter(pk=deployment.pk).update(min_replicas=0, idle_before_zero_s=60)
    response = as_viewer.get("/playground/choices/")
    assert "The first message wakes it" in text_of(response) and "disabled" not in text_of(response)


def test_a_model_that_makes_no_text_is_not_offered(as_viewer: Client) -> None:
    make_deployment("words", ready_at=time.time(), replicas_running=1)
    RegisteredModel.objects.filter(name="model-of-words").update(facts={"architecture": "BertModel"})
    assert "words" not in text_of(as_viewer.get("/playground/choices/"))


def test_the_address_names_the_deployment(as_viewer: Client) -> None:
    make_deployment("alpha")
    make_deployment("beta")
    assert data_of(as_viewer.get("/playground/?a=beta"))["deployment"] == "beta"
    assert data_of(as_viewer.get("/playground/?a=gone"))["deployment"] == "alpha"


def test_suggested_questions_come_with_the_demo_model_only(as_viewer: Client) -> None:
    make_deployment("toy", source=str(DEMO_FOLDER))
    make_deployment("other")
    text = text_of(as_viewer.get("/playground/"))
    assert 'data-suggestions="toy"' in text and 'data-suggestions="other"' not in text


def test_a_kept_chat_opens_with_its_answers_and_settings(as_viewer: Client, viewer: User) -> None:
    chat = make_chat(viewer)
    response = as_viewer.get(f"/playground/{chat.pk}/")
    data = data_of(response)
    assert "What is &lt;TTFT&gt;?" in text_of(response)
    assert data["settings"] == {"seed": 4} and data["conversation_id"] == chat.pk
    (replies,) = data["replies"].values()
    assert [reply["text"] for reply in replies] == ["A time.", "A **time**."]


def test_the_engines_figures_join_a_kept_reply(as_viewer: Client, viewer: User) -> None:
    chat = make_chat(viewer)
    RequestRecord.objects.create(
        id="request-1", user_name=viewer.username, deployment_name="demo", path="/", started_at=0, status=499,
        outcome="aborted", queue_s=0.01, prefill_s=0.02, prompt_tokens=12, completion_tokens=5,
    )  # fmt: skip
    (replies,) = data_of(as_viewer.get(f"/playground/{chat.pk}/"))["replies"].values()
    stats = replies[0]["stats"]
    assert stats["engine_ttft_s"] == pytest.approx(0.03)
    assert (stats["completion_tokens"], stats["prompt_tokens"], stats["tokens_counted"]) == (5, 12, False)
    assert as_viewer.get("/playground/requests/request-1/").json()["known"] is True


def test_what_a_reply_has_cost_is_said_once_its_time_is_shared_out(as_viewer: Client, viewer: User) -> None:
    RequestRecord.objects.create(
        id="request-1", user_name=viewer.username, deployment_name="demo", path="/", started_at=1000,
        finished_at=1010, status=200, outcome="ok", cost_units=1_234_567,
    )  # fmt: skip
    address = "/playground/requests/request-1/"
    assert as_viewer.get(address).json()["allocated_usd"] is None
    CostAccounting.objects.create(pk=1, until=1009)
    assert as_viewer.get(address).json()["allocated_usd"] is None
    CostAccounting.objects.update(until=1010)
    assert as_viewer.get(address).json()["allocated_usd"] == "0.000001234567"
    (replies,) = data_of(as_viewer.get(f"/playground/{make_chat(viewer).pk}/"))["replies"].values()
    assert replies[0]["stats"]["allocated_usd"] == "0.000001234567"


def test_other_peoples_requests_are_unknown(as_viewer: Client, operator: User) -> None:
    RequestRecord.objects.create(
        id="request-9", user_name=operator.username, deployment_name="demo", path="/", started_at=0,
        status=200, outcome="ok",
    )  # fmt: skip
    assert as_viewer.get("/playground/requests/request-9/").json() == {"known": False}


def test_other_peoples_chats_do_not_exist(as_viewer: Client, operator: User) -> None:
    chat = make_chat(operator, "secret plans")
    assert as_viewer.get(f"/playground/{chat.pk}/").status_code == 404
    assert as_viewer.post(f"/playground/{chat.pk}/delete/").status_code == 404
    assert "secret plans" not in text_of(as_viewer.get("/playground/"))
    assert "secret plans" not in text_of(as_viewer.get("/playground/conversations/"))
    assert Conversation.objects.exists()


def test_a_chat_is_deleted_with_all_it_holds(as_viewer: Client, viewer: User) -> None:
    chat = make_chat(viewer)
    assert as_viewer.get(f"/playground/{chat.pk}/delete/").status_code == 405
    assert as_viewer.post(f"/playground/{chat.pk}/delete/").headers["Location"] == "/playground/"
    assert not Conversation.objects.exists() and not ChatMessage.objects.exists()


def test_history_is_switched_off_and_on_and_the_page_says_which(as_viewer: Client, viewer: User) -> None:
    assert data_of(as_viewer.get("/playground/"))["keeps_history"] is True
    assert as_viewer.post("/playground/history/", {"keep": "0"}).status_code == 302
    viewer.refresh_from_db()
    assert viewer.keep_chat_history is False
    assert data_of(as_viewer.get("/playground/"))["keeps_history"] is False
    as_viewer.post("/playground/history/", {"keep": "1"}, headers={"accept": "application/json"})
    viewer.refresh_from_db()
    assert viewer.keep_chat_history is True
    assert as_viewer.post("/playground/history/", {"keep": "maybe"}).status_code == 400


def test_an_installation_without_history_offers_no_switch(as_viewer: Client, settings: Any) -> None:
    settings.CHAT_HISTORY = False
    text = text_of(as_viewer.get("/playground/"))
    assert "not stored on this server" in text and 'role="switch"' not in text
    assert as_viewer.post("/playground/history/", {"keep": "1"}).status_code == 400


@pytest.mark.parametrize(
    "address", ["/playground/", "/playground/1/", "/playground/choices/", "/playground/conversations/"]
)
def test_nobody_chats_without_logging_in(client: Client, address: str) -> None:
    assert client.get(address).headers["Location"] == f"/login/?next={address}"


def test_the_page_takes_the_same_queries_for_many_deployments_and_chats(
    as_viewer: Client, viewer: User, django_assert_max_num_queries: Any
) -> None:
    for number in range(20):
        make_deployment(f"deployment-{number}")
        make_chat(viewer)
    with django_assert_max_num_queries(14):
        as_viewer.get("/playground/")


@pytest.mark.parametrize(
    ("text", "title"),
    [
        ("What is TTFT?", "What is TTFT?"),
        ("\n\n  First line  \nsecond", "First line"),
        ("word " * 30, "word word word word word word word word word word word word…"),
        ("x" * 80, "x" * 60 + "…"),
        ("   ", "New chat"),
    ],
)
def test_a_chat_is_named_by_its_first_message(text: str, title: str) -> None:
    assert conversations.title_of(text) == title


def test_a_chat_deleted_meanwhile_is_begun_anew_with_what_the_page_shows(viewer: User) -> None:
    turns = [
        {"role": "user", "content": "first"},
        {"role": "assistant", "content": "answer"},
        {"role": "user", "content": "second"},
    ]
    request = ChatRequest.model_validate({"deployment": "demo", "messages": turns, "conversation_id": 999})
    chat = conversations.begin_turn(user=viewer, request=request)
    assert chat is not None
    assert list(chat.messages.values_list("content", flat=True)) == ["first", "answer", "second"]
    assert conversations.add_reply(conversation_id=999, content="x", state="complete", stats={}) is None
