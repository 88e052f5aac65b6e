"""The standard surface on a real engine: tools, schemas, log probabilities, adapters and aliases, as the
official client, LangChain and curl use them."""

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import httpx
import openai
import pytest
from langchain_openai import ChatOpenAI
from pydantic import BaseModel

from serving.adapter import lora_arguments
from serving.spec import AdapterSource, EngineSpec
from tests.cluster.local_cluster import LocalCluster
from tests.cluster.tiny_adapter import RANK, make_tiny_adapter

pytestmark = pytest.mark.cluster
MESSAGES: list[Any] = [{"role": "user", "content": "What is a token?"}]
SCHEMA = {
    "type": "object",
    "properties": {"word": {"type": "string", "enum": ["yes", "no"]}, "sure": {"type": "boolean"}},
    "required": ["word", "sure"],
    "additionalProperties": False,
}
TOOL: Any = {
    "type": "function",
    "function": {"name": "answer", "description": "Gives the answer.", "parameters": SCHEMA},
}
FORCED: Any = {"type": "function", "function": {"name": "answer"}}
FORMAT: Any = {"type": "json_schema", "json_schema": {"name": "answer", "schema": SCHEMA, "strict": True}}


@pytest.fixture(scope="module")
def surface(cluster: LocalCluster) -> Iterator[LocalCluster]:
    """The cluster with `tools` (the demo model with tool calls and two adapters), one stopped and one failed
    deployment, and aliases over them."""
    base = Path(cluster.model_source)
    made = {
        name: make_tiny_adapter(cluster.folder / name, base=base, seed=seed)
        for seed, name in enumerate(("first", "second"))
    }
    engine = EngineSpec(
        model="demo",
        model_source=str(base),
        max_model_len=512,
        adapters={name: AdapterSource(source=str(folder), rank=RANK) for name, folder in made.items()},
    )
    kwargs = {
        "kv_cache_memory_bytes": 64 << 20,
        "max_num_seqs": 16,
        "enable_auto_tool_choice": True,
        # A parser that leaves the form of a required call to the JSON schema: others have a grammar
        # of their own, hermes too, which knows no switch for white space.
        "tool_call_parser": "granite",
        # A toy model would otherwise fill its answer with the white space that JSON allows between words.
        "structured_outputs_config": {"backend": "xgrammar", "disable_any_whitespace": True},
        **lora_arguments(engine, deployment="tools", given={}),
    }
    cluster.add_model("tools", args={"engine_kwargs": kwargs})
    cluster.table["tools"]["adapters"] = ["first", "second"]
    for name, state in (("halted", "stopped"), ("broken", "failed")):
        cluster.table[name] = {**cluster.table["demo"], "app": f"model-{name}", "state": state}
    cluster.aliases = {
        "both": _alias(["demo", "tools"]),
        "spared": _alias(["halted"], ["broken", "tools"]),
        "nowhere": _alias(["halted"], ["broken"]),
    }
    cluster.put()
    cluster.wait_running("model-tools", "gateway")
    yield cluster
    cluster.remove_model("tools")
    for name in ("halted", "broken"):
        cluster.table.pop(name)
    cluster.aliases = {}
    cluster.put()
    for folder in made.values():
        shutil.rmtree(folder)


def _alias(targets: list[str], fallback: list[str] | None = None) -> dict[str, Any]:
    shares = [{"deployment": name, "weight": 1} for name in targets]
    return {"targets": shares, "fallback": fallback or [], "created": 1_700_000_000}


@pytest.fixture
def client(surface: LocalCluster) -> openai.OpenAI:
    return openai.OpenAI(base_url=surface.gateway_url + "/v1", api_key=surface.key, max_retries=0)


@pytest.fixture
def http(surface: LocalCluster) -> Iterator[httpx.Client]:
    with surface.http() as http:
        yield http


# --- what passes through ------------------------------------------------------------------------------------


def test_a_forced_tool_call_has_arguments_of_its_schema(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model="tools", messages=MESSAGES, tools=[TOOL], tool_choice=FORCED, max_tokens=100
    )
    (call,) = answer.choices[0].message.tool_calls or []
    assert call.type == "function" and call.function.name == "answer"
    _check_schema(call.function.arguments)


def test_a_required_tool_call_comes_in_a_stream_too(client: openai.OpenAI) -> None:
    stream = client.chat.completions.create(
        model="tools", messages=MESSAGES, tools=[TOOL], tool_choice="required", max_tokens=200, stream=True
    )
    names: dict[int, str] = {}
    arguments: dict[int, str] = {}
    for chunk in stream:
        for call in chunk.choices[0].delta.tool_calls or []:
            assert call.function is not None
            names[call.index] = names.get(call.index) or call.function.name or ""
            arguments[call.index] = arguments.get(call.index, "") + (call.function.arguments or "")
    # It may call more than once, and the last call may be cut off by max_tokens.
    assert set(names.values()) == {"answer"}
    _check_schema(arguments[0])


def test_a_tool_may_be_left_alone_and_its_answer_given_back(client: openai.OpenAI) -> None:
    left = client.chat.completions.create(
        model="tools", messages=MESSAGES, tools=[TOOL], tool_choice="auto", max_tokens=8
    )
    assert left.choices[0].finish_reason in ("length", "stop", "tool_calls")
    call = {"id": "call-1", "type": "function", "function": {"name": "answer", "arguments": "{}"}}
    told: list[Any] = [
        *MESSAGES,
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call-1", "content": "yes"},
    ]
    after = client.chat.completions.create(model="tools", messages=told, tools=[TOOL], max_tokens=8)
    assert after.choices[0].message.role == "assistant"


def test_auto_without_a_parser_is_refused_in_words(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="auto"):
        client.chat.completions.create(
            model="demo", messages=MESSAGES, tools=[TOOL], tool_choice="auto", max_tokens=8
        )


@pytest.mark.parametrize("stream", [False, True])
def test_a_json_schema_is_kept_to(client: openai.OpenAI, stream: bool) -> None:
    answer = client.chat.completions.create(
        model="tools", messages=MESSAGES, response_format=FORMAT, max_tokens=100, stream=stream
    )
    _check_schema(_text(answer))


def test_one_of_some_choices_is_kept_to(client: openai.OpenAI) -> None:
    answer = client.completions.create(
        model="demo",
        prompt="A token is",
        max_tokens=20,
        extra_body={"structured_outputs": {"choice": ["blue", "green"]}},
    )
    assert answer.choices[0].text in ("blue", "green")


def test_a_schema_that_is_none_is_refused(client: openai.OpenAI) -> None:
    broken: Any = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "no-such-type"}}}
    with pytest.raises(openai.BadRequestError):
        client.chat.completions.create(model="demo", messages=MESSAGES, response_format=broken)


@pytest.mark.parametrize("stream", [False, True])
def test_log_probabilities_of_a_chat(client: openai.OpenAI, stream: bool) -> None:
    answer: Any = client.chat.completions.create(
        model="demo", messages=MESSAGES, logprobs=True, top_logprobs=3, max_tokens=4, stream=stream
    )
    choices = [chunk.choices[0] for chunk in answer] if stream else answer.choices
    tokens = [token for choice in choices if choice.logprobs for token in choice.logprobs.content]
    assert 1 <= len(tokens) <= 4
    assert all(token.logprob <= 0 and len(token.top_logprobs) == 3 for token in tokens)


def test_log_probabilities_of_a_completion(client: openai.OpenAI) -> None:
    answer = client.completions.create(model="demo", prompt="Ray is", logprobs=2, max_tokens=4)
    found = answer.choices[0].logprobs
    assert found is not None and found.token_logprobs and found.top_logprobs


@pytest.mark.parametrize("stream", [False, True])
def test_several_choices_of_one_prompt(surface: LocalCluster, http: httpx.Client, stream: bool) -> None:
    body = {"model": "demo", "messages": MESSAGES, "n": 3, "max_tokens": 5, "temperature": 1.0}
    answer = http.post("/v1/chat/completions", json={**body, "stream": stream, "ignore_eos": True})
    if stream:
        chunks = [json.loads(line[6:]) for line in answer.text.splitlines() if line.startswith("data: {")]
        seen = {choice["index"] for chunk in chunks for choice in chunk["choices"]}
    else:
        seen = {choice["index"] for choice in answer.json()["choices"]}
    assert seen == {0, 1, 2}
    assert surface.usage_record(answer.headers["x-request-id"])["completion_tokens"] == 15


def test_stop_and_seed(client: openai.OpenAI) -> None:
    texts = []
    for _ in range(2):
        answer = client.completions.create(
            model="demo", prompt="A token is", seed=5, temperature=1.0, max_tokens=30
        )
        texts.append(answer.choices[0].text)
    assert texts[0] == texts[1]
    word = texts[0].split()[1]
    cut = client.completions.create(
        model="demo", prompt="A token is", seed=5, temperature=1.0, max_tokens=30, stop=[word]
    )
    assert cut.choices[0].finish_reason == "stop"
    assert texts[0].startswith(cut.choices[0].text) and word not in cut.choices[0].text


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
def test_stream_options_give_usage_at_the_end(http: httpx.Client, path: str) -> None:
    asked: dict[str, Any] = {"prompt": "Ray is"} if path == "/v1/completions" else {"messages": MESSAGES}
    body = {"model": "demo", **asked, "max_tokens": 4, "stream": True}
    answer = http.post(path, json={**body, "stream_options": {"include_usage": True}})
    chunks = [json.loads(line[6:]) for line in answer.text.splitlines() if line.startswith("data: {")]
    assert chunks[-1]["choices"] == [] and chunks[-1]["usage"]["completion_tokens"] >= 1


# --- adapters -----------------------------------------------------------------------------------------------


def test_adapters_are_listed_under_their_deployment(client: openai.OpenAI) -> None:
    listed = [model.id for model in client.models.list()]
    assert {"tools", "tools:first", "tools:second", "both", "spared"} <= set(listed)
    assert not {"nowhere", "halted", "demo:first"} & set(listed)
    assert client.models.retrieve("tools:first").id == "tools:first"


@pytest.mark.parametrize("stream", [False, True])
def test_an_adapter_answers_otherwise_than_its_base(
    surface: LocalCluster, http: httpx.Client, stream: bool
) -> None:
    texts = {}
    for name in ("demo", "tools", "tools:first", "tools:second"):
        body = {"model": name, "prompt": "A token is", "temperature": 0, "max_tokens": 12}
        answer = http.post("/v1/completions", json={**body, "stream": stream, "ignore_eos": True})
        assert answer.status_code == 200, answer.text
        chunks = [json.loads(line[6:]) for line in answer.text.splitlines() if line.startswith("data: {")]
        parts = chunks if stream else [answer.json()]
        assert {part["model"] for part in parts} == {name}
        texts[name] = "".join(choice["text"] for part in parts for choice in part["choices"])
        record = surface.usage_record(answer.headers["x-request-id"])
        deployment, _, adapter = name.partition(":")
        assert (record["deployment"], record["adapter"]) == (deployment, adapter or None)
    assert texts["demo"] == texts["tools"]
    assert len({texts["tools"], texts["tools:first"], texts["tools:second"]}) == 3


def test_an_unknown_adapter_is_an_unknown_model(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="tools:third"):
        client.completions.create(model="tools:third", prompt="x")


# --- aliases ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [False, True])
def test_an_alias_shares_requests_and_answers_under_its_own_name(
    surface: LocalCluster, http: httpx.Client, stream: bool
) -> None:
    served = set()
    for _ in range(40):
        body = {"model": "both", "messages": MESSAGES, "max_tokens": 2, "stream": stream}
        answer = http.post("/v1/chat/completions", json=body)
        lines = [line[6:] for line in answer.text.splitlines() if line.startswith("data: {")]
        models = {json.loads(text)["model"] for text in lines or [answer.text]}
        assert models == {"both"}
        record = surface.usage_record(answer.headers["x-request-id"])
        assert (record["alias"], record["outcome"]) == ("both", "ok")
        served.add(record["deployment"])
        if served == {"demo", "tools"}:
            return
    raise AssertionError(f"of 40 requests all went to {served}")


@pytest.mark.parametrize("path", ["/v1/completions", "/tokenize"])
def test_what_is_stopped_or_failed_is_passed_by(surface: LocalCluster, http: httpx.Client, path: str) -> None:
    answer = http.post(path, json={"model": "spared", "prompt": "Ray is", "max_tokens": 2})
    assert answer.status_code == 200
    record = surface.usage_record(answer.headers["x-request-id"])
    assert (record["alias"], record["deployment"], record["outcome"]) == ("spared", "tools", "ok")


def test_with_nothing_left_the_last_reason_is_given(surface: LocalCluster, http: httpx.Client) -> None:
    answer = http.post("/v1/completions", json={"model": "nowhere", "prompt": "x"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "model_failed")
    record = surface.usage_record(answer.headers["x-request-id"])
    assert (record["alias"], record["outcome"]) == ("nowhere", "refused")


# --- other clients ------------------------------------------------------------------------------------------


class Answer(BaseModel):
    """Gives the answer."""

    # A toy model never ends a free text: what it may say is bounded, as in SCHEMA.
    word: Literal["yes", "no"]
    sure: bool


def _langchain(surface: LocalCluster, **more: Any) -> ChatOpenAI:
    return ChatOpenAI(
        base_url=surface.gateway_url + "/v1",
        api_key=surface.key,  # type: ignore[arg-type]
        model="tools",
        max_retries=0,
        **more,
    )


def test_langchain_chats_streams_and_counts(surface: LocalCluster) -> None:
    model = _langchain(surface, max_tokens=8, stream_usage=True)
    whole = model.invoke("What is a token?")
    assert whole.usage_metadata is not None and whole.usage_metadata["output_tokens"] >= 1
    chunks = list(model.stream("What is a token?"))
    assert any(chunk.content for chunk in chunks)
    assert any(chunk.usage_metadata for chunk in chunks)


def test_langchain_binds_tools_and_schemas(surface: LocalCluster) -> None:
    model = _langchain(surface, max_tokens=200)
    called: Any = model.bind_tools([Answer], tool_choice="Answer").invoke("What is a token?")
    assert called.tool_calls[0]["name"] == "Answer" and set(called.tool_calls[0]["args"]) == {"word", "sure"}
    found = model.with_structured_output(SCHEMA | {"title": "answer"}, method="json_schema").invoke("Is it?")
    _check_schema(json.dumps(found))


def test_curl_gets_a_stream_and_an_error(surface: LocalCluster) -> None:
    url = f"{surface.gateway_url}/v1/chat/completions"
    body = {"model": "demo", "messages": MESSAGES, "max_tokens": 3, "stream": True}
    header = f"Authorization: Bearer {surface.key}"
    command = ["curl", "-sS", "-N", url, "-H", header, "-H", "Content-Type: application/json", "-d"]
    streamed = subprocess.run([*command, json.dumps(body)], capture_output=True, text=True, timeout=60)
    assert streamed.stdout.startswith("data: {") and streamed.stdout.rstrip().endswith("data: [DONE]")
    refused = subprocess.run(
        [*command, '{"model": "nobody"}', "-w", " %{http_code}"], capture_output=True, text=True, timeout=60
    )
    assert refused.stdout.endswith(" 404") and '"model_not_found"' in refused.stdout


def _text(answer: Any) -> str:
    if hasattr(answer, "choices"):
        return str(answer.choices[0].message.content)
    return "".join(chunk.choices[0].delta.content or "" for chunk in answer)


def _check_schema(text: str) -> None:
    found = json.loads(text)
    assert isinstance(found, dict) and set(found) == {"word", "sure"}
    assert found["word"] in ("yes", "no") and isinstance(found["sure"], bool)
