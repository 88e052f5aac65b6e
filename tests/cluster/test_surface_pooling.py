"""Embeddings, scores and tokens through the gateway: models that make no text, on real engines."""

import base64
import math
import struct
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest

from tests.cluster.local_cluster import LocalCluster
from tests.cluster.tiny_model import EMBEDDING_SIZE, make_tiny_embedding_model, make_tiny_scoring_model

pytestmark = pytest.mark.cluster


@pytest.fixture(scope="module")
def pooling(cluster: LocalCluster) -> Iterator[LocalCluster]:
    """The cluster with the models `words` (embeddings) and `pairs` (scores) beside `demo`."""
    words = make_tiny_embedding_model(cluster.folder / "words")
    pairs = make_tiny_scoring_model(cluster.folder / "pairs")
    cluster.add_model("words", args={"model_source": str(words)})
    cluster.add_model("pairs", args={"model_source": str(pairs)})
    cluster.put()
    cluster.wait_running("model-words", "model-pairs")
    yield cluster
    cluster.remove_model("words")
    cluster.remove_model("pairs")
    cluster.put()


@pytest.fixture
def client(pooling: LocalCluster) -> openai.OpenAI:
    return openai.OpenAI(base_url=pooling.gateway_url + "/v1", api_key=pooling.key, max_retries=0)


@pytest.fixture
def http(pooling: LocalCluster) -> Iterator[httpx.Client]:
    with pooling.http() as http:
        yield http


def test_embeds_texts_for_the_official_client(client: openai.OpenAI) -> None:
    """The client asks for base64 by itself and decodes it."""
    answer = client.embeddings.create(model="words", input=["one text", "another"])
    assert answer.model == "words"
    assert [len(item.embedding) for item in answer.data] == [EMBEDDING_SIZE] * 2
    assert answer.data[0].embedding != answer.data[1].embedding
    assert answer.usage.prompt_tokens == len("one text") + len("another")


def test_base64_and_numbers_say_the_same(http: httpx.Client) -> None:
    found = {}
    for encoding in ("float", "base64"):
        body = {"model": "words", "input": "same", "encoding_format": encoding}
        found[encoding] = http.post("/v1/embeddings", json=body).json()["data"][0]["embedding"]
    decoded = struct.unpack(f"<{EMBEDDING_SIZE}f", base64.b64decode(found["base64"]))
    assert found["float"] == pytest.approx(decoded, rel=1e-5)
    assert math.isclose(sum(value * value for value in decoded), 1.0, rel_tol=1e-3)


def test_an_embedding_has_a_usage_record_with_its_prompt_tokens(
    pooling: LocalCluster, http: httpx.Client
) -> None:
    answer = http.post("/v1/embeddings", json={"model": "words", "input": ["abc", "defgh"], "stream": True})
    record = pooling.usage_record(answer.headers["x-request-id"])
    assert (record["prompt_tokens"], record["completion_tokens"]) == (8, 0)
    assert (record["outcome"], record["status"], record["stream"]) == ("ok", 200, False)
    assert (record["deployment"], record["path"]) == ("words", "/v1/embeddings")
    assert record["replica"] == pooling.replicas("model-words")[0]["replica_id"]


@pytest.mark.parametrize("model", ["words", "pairs"])
@pytest.mark.parametrize("path", ["/v1/score", "/score"])
def test_scores_pairs_of_texts(pooling: LocalCluster, http: httpx.Client, path: str, model: str) -> None:
    """A scoring model reads both texts at once; an embedding model compares its two embeddings."""
    body = {"model": model, "text_1": "a question", "text_2": ["an answer", "a question"]}
    answer = http.post(path, json=body)
    assert answer.status_code == 200, answer.text
    assert answer.json()["model"] == model
    scores = [item["score"] for item in answer.json()["data"]]
    assert len(scores) == 2 and scores[0] != scores[1]
    record = pooling.usage_record(answer.headers["x-request-id"])
    assert (record["path"], record["outcome"]) == ("/v1/score", "ok")
    assert record["prompt_tokens"] > 0


@pytest.mark.parametrize("model", ["demo", "words", "pairs"])
def test_tokens_there_and_back(http: httpx.Client, model: str) -> None:
    answer = http.post("/tokenize", json={"model": model, "prompt": "There and back"})
    assert answer.status_code == 200, answer.text
    tokens = answer.json()["tokens"]
    assert answer.json()["count"] == len(tokens) > 1
    back = http.post("/detokenize", json={"model": model, "tokens": tokens})
    assert back.json()["prompt"].endswith("There and back")


def test_a_chat_is_tokenized_with_its_template(http: httpx.Client) -> None:
    messages = [{"role": "user", "content": "Hello"}]
    chat = http.post("/tokenize", json={"model": "demo", "messages": messages}).json()
    plain = http.post("/tokenize", json={"model": "demo", "prompt": "Hello"}).json()
    assert chat["count"] > plain["count"]


@pytest.mark.parametrize(
    ("model", "path", "body", "task"),
    [
        ("demo", "/v1/embeddings", {"input": "x"}, "`generate`"),
        ("demo", "/v1/score", {"text_1": "x", "text_2": "y"}, "`generate`"),
        ("words", "/v1/chat/completions", {"messages": [{"role": "user", "content": "x"}]}, "`embed`"),
        ("words", "/v1/completions", {"prompt": "x", "stream": True}, "`embed`"),
        ("pairs", "/v1/embeddings", {"input": "x"}, "`score`"),
        ("pairs", "/v1/completions", {"prompt": "x"}, "`score`"),
    ],
)
def test_another_task_is_refused_in_words(
    pooling: LocalCluster, http: httpx.Client, model: str, path: str, body: dict[str, Any], task: str
) -> None:
    answer = http.post(path, json={"model": model, **body})
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert (error["code"], error["param"]) == ("task_not_supported", "model")
    assert task in error["message"] and "/tokenize" in error["message"]
    record = pooling.usage_record(answer.headers["x-request-id"])
    assert (record["outcome"], record["error_class"]) == ("refused", "task_not_supported")


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/v1/embeddings", {}, "input"),
        ("/v1/embeddings", {"input": {"a": 1}}, "input"),
        ("/v1/embeddings", {"input": "x", "encoding_format": "bytes"}, "encoding_format"),
        ("/v1/embeddings", {"input": "x" * 3000}, None),
        ("/v1/embeddings", {"input": "x", "dimensions": 7}, None),
        ("/v1/score", {"text_1": "x"}, "text_1"),
        ("/v1/score", {"text_1": ["x", "y"], "text_2": ["x", "y", "z"]}, None),
        ("/tokenize", {}, "prompt"),
        ("/detokenize", {"tokens": "abc"}, "tokens"),
        ("/detokenize", {"tokens": [-1]}, None),
        ("/detokenize", {"tokens": [10**12]}, None),
    ],
)
def test_bad_bodies_get_openais_error_form(
    http: httpx.Client, path: str, body: dict[str, Any], param: str | None
) -> None:
    answer = http.post(path, json={"model": "words", **body})
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert param is None or param in (error["param"] or "")
    assert "vllm" not in answer.text.lower() and "Traceback" not in answer.text
