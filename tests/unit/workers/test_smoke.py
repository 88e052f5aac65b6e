"""The smoke request fits the model's task, and the engine has the last word on which that is."""

import json
from typing import Any

import httpx
import pytest

from workers.smoke import smoke

REFUSAL = {"error": {"message": "This model makes embeddings.", "code": "task_not_supported"}}


@pytest.fixture
def gateway(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What it answers by path, and the paths that were asked."""
    found: dict[str, Any] = {"answers": {}, "asked": []}

    def post(url: str, **request: Any) -> httpx.Response:
        path = "/" + url.split("/", 3)[3]
        found["asked"].append(path)
        status, body = found["answers"].get(path, (400, REFUSAL))
        return httpx.Response(status, content=json.dumps(body))

    monkeypatch.setattr(httpx, "post", post)
    return found


@pytest.mark.parametrize(
    ("task", "path", "body"),
    [
        ("generate", "/v1/completions", {"choices": [1]}),
        ("embed", "/v1/embeddings", {"data": [1]}),
        ("score", "/v1/score", {"data": [1]}),
    ],
)
def test_each_task_is_asked_for_what_it_does(
    gateway: dict[str, Any], task: Any, path: str, body: dict[str, Any]
) -> None:
    gateway["answers"][path] = (200, body)
    assert smoke("words", task) == ""
    assert gateway["asked"] == [path]


def test_another_task_than_expected_is_found(gateway: dict[str, Any]) -> None:
    gateway["answers"]["/v1/embeddings"] = (200, {"data": [1]})
    assert smoke("words") == ""
    assert gateway["asked"] == ["/v1/completions", "/v1/embeddings"]


def test_any_other_refusal_is_the_answer(gateway: dict[str, Any]) -> None:
    gateway["answers"]["/v1/completions"] = (503, {"error": {"message": "starting", "code": "x"}})
    assert smoke("words") == "503: starting"
    assert gateway["asked"] == ["/v1/completions"]


def test_a_model_without_any_of_these_tasks_says_so(gateway: dict[str, Any]) -> None:
    assert "makes embeddings" in smoke("words")
    assert len(gateway["asked"]) == 3
