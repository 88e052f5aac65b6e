"""Hostile requests against the gateway's application: 5,000 bodies and odd keys, with a limited key.

Whatever comes in, the answer is a 4xx in OpenAI's form or the engine's, never a 5xx, and it holds nothing of
us: no path, class, actor, address or traceback. The engine behind is one that answers anything.
"""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from serving.cluster import completions
from serving.cluster.requests import MAX_BODY_BYTES
from tests.unit.serving.gateway_app import Answer, App

LEAK = re.compile(
    rb"Traceback|File \"|/serving/|/site-packages|/home/|/root/|/tmp/|\.py\b"
    rb"|[Aa]ctor\b|0x[0-9a-f]{6,}|object at |ray\.serve"
)
EXAMPLES = 5_000
PATHS = st.sampled_from(("/v1/chat/completions", "/v1/completions"))
TEXT = st.text(max_size=20)
LEAF = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | TEXT
    | st.sampled_from(("demo", "", "\x00", "\ud800"))
)
VALUE = st.recursive(
    LEAF, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4), max_leaves=12
)
MESSAGES = st.lists(st.fixed_dictionaries({"role": TEXT, "content": VALUE}), max_size=4)
FIELDS = st.fixed_dictionaries(
    {},
    optional={
        "model": st.just("demo") | VALUE,
        "stream": st.booleans() | VALUE,
        "messages": MESSAGES | VALUE,
        "prompt": VALUE,
        "max_tokens": VALUE,
        "temperature": VALUE,
        "stream_options": VALUE,
        "tools": VALUE,
        "unknown_field": VALUE,
    },
)  # fmt: skip


@st.composite
def bodies(draw: st.DrawFn) -> bytes:
    """A body as a caller who means harm, or knows no better, might send it."""
    kind = draw(st.integers(0, 9))
    if kind == 0:
        return draw(st.binary(max_size=200))
    raw = json.dumps(draw(FIELDS)).encode()
    if kind == 1:  # cut off
        return raw[: draw(st.integers(0, len(raw)))]
    if kind == 2:  # broken UTF-8 in the middle
        at = draw(st.integers(0, len(raw)))
        return raw[:at] + draw(st.sampled_from((b"\xff", b"\xc3", b"\xed\xa0\x80", b"\x00"))) + raw[at:]
    if kind == 3:  # nested
        depth = draw(st.sampled_from((10, 1_000, 100_000)))
        opening, closing = draw(st.sampled_from(((b"[", b"]"), (b'{"a":', b"}"))))
        return opening * depth + b"1" + closing * draw(st.sampled_from((0, depth)))
    if kind == 4:
        return draw(
            st.sampled_from((b"", b"null", b"[]", b'"demo"', b"NaN", b"1e999", b"{" * 50, b'{"model":1e400}'))
        )
    return raw


KEYS = st.one_of(
    st.just("rd-one"),
    st.just("rd-limited"),
    st.none(),
    st.text(min_size=1, max_size=30),
    st.sampled_from(("rd-one ", "rd-one\r\nx: y", "\x00", "a" * 5_000, "'; DROP TABLE", "rd-öne")),
)


@pytest.fixture
def app(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> App:
    monkeypatch.setattr(completions, "replicas_known", lambda handle: 1)
    made = App(tmp_path)
    made.configure(
        keys={"rd-one": {}, "rd-limited": {"limits": {"requests_per_minute": 3, "requests_in_flight": 2}}},
        models={"demo": {}, "stopped": {"state": "stopped"}},
    )
    return made


def check(answer: Answer) -> None:
    """What must hold of every answer."""
    assert answer.status < 500, answer.body
    assert LEAK.search(answer.body) is None, answer.body
    for name, value in answer.headers.items():
        assert "\r" not in name + value and "\n" not in name + value
    if answer.status >= 400:
        assert answer.error["message"] and answer.headers["content-type"] == "application/json"
    if answer.status == 429:
        assert int(answer.headers["retry-after"]) >= 1


def test_five_thousand_hostile_bodies_see_no_5xx_and_no_leak(app: App) -> None:
    loop = asyncio.new_event_loop()

    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
    )
    @given(body=bodies(), key=KEYS, path=PATHS)
    def hostile(body: bytes, key: str | None, path: str) -> None:
        check(loop.run_until_complete(app.ask(body, key=key, path=path)))
        app.recorder._queue.clear()

    try:
        hostile()
    finally:
        loop.close()


BIG: list[tuple[str, Any, int]] = [
    ("1 MB of text", {"model": "demo", "messages": [{"role": "user", "content": "x" * 1_100_000}]}, 200),
    ("10,000 messages", {"model": "demo", "messages": [{"role": "user", "content": "hello"}] * 10_000}, 200),
    ("1 MB of a name", {"model": "m" * 1_100_000}, 404),
    ("a name in control characters", {"model": "\x00\x1b[31m\r\n\u202e" * 50}, 404),
    ("half a surrogate pair", {"model": "\ud800"}, 404),
    ("100,000 unknown fields", {"model": "demo", **{f"field_{n}": n for n in range(100_000)}}, 200),
    ("a number of 5,000 digits", b'{"model": "demo", "seed": ' + b"9" * 5_000 + b"}", 400),
    ("longer than the most", b" " * (MAX_BODY_BYTES + 1), 413),
]


@pytest.mark.parametrize(("body", "status"), [pytest.param(b, s, id=name) for name, b, s in BIG])
async def test_big_and_odd_bodies(app: App, body: Any, status: int) -> None:
    answer = await app.ask(body)
    check(answer)
    assert answer.status == status and len(answer.body) < 2_000


async def test_who_says_less_than_is_sent_is_refused_all_the_same(app: App) -> None:
    answer = await app.ask(b" " * (MAX_BODY_BYTES + 1), headers=((b"content-length", b"5"),))
    assert answer.status == 413
    check(answer)


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS"])
@pytest.mark.parametrize(
    "path", ["/v1/chat/completions", "/v1/models/%00", "/v1/../etc/passwd", "/\udcff", "/v1"]
)
async def test_odd_methods_and_addresses(app: App, method: str, path: str) -> None:
    check(await app.ask(method=method, path=path))
