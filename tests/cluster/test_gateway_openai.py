"""The gateway as the official client sees it, on a real engine."""

import json
import re
import time

import httpx
import openai
import pytest

from tests.cluster.events import open_stream
from tests.cluster.local_cluster import LocalCluster

pytestmark = pytest.mark.cluster
MESSAGES = [{"role": "user", "content": "What is a token?"}]
INTERNALS = re.compile(r"Traceback|site-packages|/tmp/|ray::|actor|pydantic|vllm|File \"", re.IGNORECASE)


@pytest.fixture
def client(cluster: LocalCluster) -> openai.OpenAI:
    return openai.OpenAI(base_url=cluster.gateway_url + "/v1", api_key=cluster.key, max_retries=0)


def test_lists_and_retrieves_models(client: openai.OpenAI) -> None:
    assert "demo" in [model.id for model in client.models.list()]
    assert client.models.retrieve("demo").owned_by == "raydeck"


def test_answers_a_chat_with_its_usage(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model="demo", messages=MESSAGES, max_tokens=12, seed=7)
    assert answer.model == "demo"
    assert answer.choices[0].message.role == "assistant"
    assert answer.usage is not None
    assert 1 <= answer.usage.completion_tokens <= 12


def test_the_same_seed_gives_the_same_answer(client: openai.OpenAI) -> None:
    texts = [
        client.chat.completions.create(
            model="demo", messages=MESSAGES, max_tokens=16, seed=3, temperature=1.0
        )
        .choices[0]
        .message.content
        for _ in range(2)
    ]
    assert texts[0] == texts[1]


def test_answers_a_completion(client: openai.OpenAI) -> None:
    answer = client.completions.create(model="demo", prompt="Ray is", max_tokens=6)
    assert answer.choices[0].finish_reason in ("length", "stop")


def test_streams_a_chat_without_usage_unless_asked(client: openai.OpenAI) -> None:
    chunks = list(client.chat.completions.create(model="demo", messages=MESSAGES, max_tokens=8, stream=True))
    assert chunks[-1].choices[0].finish_reason in ("length", "stop")
    assert all(chunk.usage is None for chunk in chunks)
    asked = client.chat.completions.create(
        model="demo", messages=MESSAGES, max_tokens=8, stream=True, stream_options={"include_usage": True}
    )
    last = list(asked)[-1]
    assert last.choices == []
    assert last.usage is not None
    assert last.usage.completion_tokens >= 1


def test_first_request_after_start_needs_under_a_second_to_its_first_token(cluster: LocalCluster) -> None:
    stream = open_stream(cluster.ports.gateway, key=cluster.key, model="demo", max_tokens=2)
    stream.read_events(1)
    stream.close()
    assert stream.pieces[-1][0] < 1.0


def test_chunks_arrive_one_by_one_as_they_are_made(cluster: LocalCluster) -> None:
    """A gateway that merges or holds back does so every time; a client that the machine lets wait for a
    while finds several chunks in its buffer. So one stream of a few has to show them coming singly."""
    seen = []
    for _ in range(6):
        singly, early = _how_chunks_came(cluster, tokens=120)
        seen.append((singly, early))
        if singly >= 0.8 and early > 0.2:
            return
    raise AssertionError(f"chunks never came singly and all along: {seen}")


def _how_chunks_came(cluster: LocalCluster, *, tokens: int) -> tuple[float, float]:
    """The share of chunks that came alone, and of those that came in the first half of the time."""
    stream = open_stream(
        cluster.ports.gateway, key=cluster.key, model="demo", max_tokens=tokens, ignore_eos=True
    )
    stream.read_to_end()
    assert "[DONE]" in stream.text
    assert stream.text.count("data: ") >= tokens * 0.8
    pieces = [(at, piece.count(b"data: ")) for at, piece in stream.pieces if b"data: " in piece]
    # The first piece may carry role and first token, the last the end; in between each comes alone.
    between = pieces[1:-1]
    if not between:
        return 0.0, 0.0
    halfway = pieces[0][0] + (pieces[-1][0] - pieces[0][0]) / 2
    early = sum(1 for at, _ in pieces if at < halfway) / len(pieces)
    return sum(1 for _, count in between if count == 1) / len(between), early


def test_a_usage_record_tells_what_the_client_saw(cluster: LocalCluster) -> None:
    before = time.time()
    with cluster.http() as http:
        body = {"model": "demo", "messages": MESSAGES, "max_tokens": 5, "stream": True}
        body["stream_options"] = {"include_usage": True}
        answer = http.post("/v1/chat/completions", json=body)
    usage = next(
        json.loads(line[6:])["usage"]
        for line in reversed(answer.text.splitlines())
        if line.startswith("data: {") and json.loads(line[6:]).get("usage")
    )
    record = cluster.usage_record(answer.headers["x-request-id"])
    assert (record["prompt_tokens"], record["completion_tokens"]) == (
        usage["prompt_tokens"],
        usage["completion_tokens"],
    )
    assert (record["outcome"], record["status"], record["stream"]) == ("ok", 200, True)
    assert (record["key_id"], record["deployment"], record["user"]) == (1, "demo", None)
    assert before - 1 <= record["started_at"] <= time.time()
    assert 0 <= record["queue_s"] + record["prefill_s"] <= record["ttft_s"] + 0.05
    assert record["ttft_s"] <= record["e2e_s"]
    assert record["replica"] == cluster.replicas("model-demo")[0]["replica_id"]


def test_who_hangs_up_on_seeing_the_end_has_been_answered(cluster: LocalCluster) -> None:
    body = {"model": "demo", "prompt": "Hello", "max_tokens": 12, "stream": True, "ignore_eos": True}
    for _ in range(8):
        with cluster.http() as http, http.stream("POST", "/v1/completions", json=body) as answer:
            for line in answer.iter_lines():
                if line == "data: [DONE]":
                    break  # leaving the block closes the connection at once
        record = cluster.usage_record(answer.headers["x-request-id"])
        assert (record["outcome"], record["status"], record["completion_tokens"]) == ("ok", 200, 12)


def test_only_internal_keys_may_name_a_user(cluster: LocalCluster) -> None:
    body = {"model": "demo", "messages": MESSAGES, "max_tokens": 1}
    users = {}
    for key in (cluster.key, cluster.internal_key):
        with cluster.http(key) as http:
            answer = http.post("/v1/chat/completions", json=body, headers={"x-raydeck-user": "ann"})
        users[key] = cluster.usage_record(answer.headers["x-request-id"])["user"]
    assert users == {cluster.key: None, cluster.internal_key: "ann"}


def test_a_callers_own_request_id_is_not_taken_over(cluster: LocalCluster) -> None:
    with cluster.http() as http:
        answers = [http.get("/v1/models", headers={"x-request-id": "mine"}) for _ in range(2)]
    ids = [answer.headers.get_list("x-request-id") for answer in answers]
    assert all(len(found) == 1 for found in ids)
    assert "mine" not in ids[0]
    assert ids[0] != ids[1]


@pytest.mark.parametrize(
    ("body", "status", "param"),
    [
        (b"{", 400, None),
        (b"[]", 400, None),
        (b"\xff\xfe", 400, None),
        (b"[" * 100_000, 400, None),
        (b'{"messages": []}', 400, "model"),
        (b'{"model": 5}', 400, "model"),
        (b'{"model": "demo", "stream": "yes"}', 400, "stream"),
        (b'{"model": "demo"}', 400, "messages"),
        (b'{"model": "demo", "messages": "hello"}', 400, "messages"),
        (b'{"model": "demo", "messages": [{"role": "user"}], "stream": true}', None, None),
        (
            b'{"model": "demo", "messages": [{"role": "user", "content": "x"}], "max_tokens": -1}',
            400,
            "max_tokens",
        ),
        (
            b'{"model": "demo", "messages": [{"role": "user", "content": "x"}], "temperature": 99}',
            400,
            "temperature",
        ),
        (b'{"model": "nobody", "messages": []}', 404, "model"),
        (b'{"model": "../../etc", "messages": []}', 404, "model"),
    ],
)
def test_bad_bodies_get_openais_error_form(
    cluster: LocalCluster, body: bytes, status: int | None, param: str | None
) -> None:
    with cluster.http() as http:
        answer = http.post("/v1/chat/completions", content=body)
    if status is None:  # the engine's to decide, but never a failure
        assert answer.status_code < 500
        return
    assert answer.status_code == status
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["type"] == "invalid_request_error"
    assert error["param"] == param or param is None
    assert not INTERNALS.search(answer.text)


def test_a_prompt_beyond_the_context_is_refused_in_words(client: openai.OpenAI) -> None:
    for stream in (False, True):
        with pytest.raises(openai.BadRequestError, match="context length"):
            client.chat.completions.create(
                model="demo", messages=[{"role": "user", "content": "word " * 5000}], stream=stream
            )


def test_a_bad_key_is_refused_everywhere(cluster: LocalCluster) -> None:
    for key in ("rd-nobody", "x" * 600, "é"):
        with httpx.Client(base_url=cluster.gateway_url) as http:
            header = {"Authorization": f"Bearer {key}".encode()}
            for path in ("/v1/chat/completions", "/v1/completions"):
                assert http.post(path, content=b"{}", headers=header).status_code == 401
            answer = http.get("/v1/models", headers=header)
    assert answer.status_code == 401
    assert answer.json()["error"]["code"] == "invalid_api_key"
    assert httpx.get(cluster.gateway_url + "/v1/models").status_code == 401


def test_a_large_body_reaches_the_engine(cluster: LocalCluster) -> None:
    """Ten megabytes pass every hop and are refused for their length in tokens, by the engine."""
    body = {"model": "demo", "messages": [{"role": "user", "content": "a" * 10_000_000}]}
    with cluster.http() as http:
        answer = http.post("/v1/chat/completions", json=body)
        too_long = http.post("/v1/chat/completions", content=b"x" * (17 << 20))
    assert answer.status_code == 400, answer.text[:300]
    assert too_long.status_code == 413


def test_unknown_addresses_and_methods(cluster: LocalCluster) -> None:
    with cluster.http() as http:
        assert http.get("/v1/nothing").json()["error"]["code"] == "unknown_url"
        assert http.get("/v1/chat/completions").status_code == 405
        assert http.get("/healthz").json()["status"] == "ok"
