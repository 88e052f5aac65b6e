"""What the gateway reads from a request, and how it refuses what it cannot read."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.cluster.requests import Asked, BadRequest, bearer_key, headers_of, read_body

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@pytest.mark.parametrize(
    ("fields", "asked"),
    [
        ({"model": "demo"}, Asked("demo", stream=False)),
        ({"model": "demo", "stream": True, "anything": [1]}, Asked("demo", stream=True)),
        ({"model": "demo", "stream": None}, Asked("demo", stream=False)),
    ],
)
def test_reads_model_and_stream(fields: dict[str, Any], asked: Asked) -> None:
    assert read_body(json.dumps(fields).encode()) == asked


@pytest.mark.parametrize(
    ("body", "param"),
    [
        (b"", None),
        (b"{", None),
        (b"\xff\xfe\x00", None),
        (b"null", None),
        (b'"demo"', None),
        (b"[" * 200_000, None),
        (b"{}", "model"),
        (b'{"model": ""}', "model"),
        (b'{"model": ["demo"]}', "model"),
        (b'{"model": "demo", "stream": 1}', "stream"),
    ],
)
def test_names_the_field_that_cannot_be_read(body: bytes, param: str | None) -> None:
    with pytest.raises(BadRequest) as caught:
        read_body(body)
    assert caught.value.status == 400
    assert caught.value.param == param


@given(st.binary(max_size=300) | json_values.map(lambda value: json.dumps(value).encode()))
def test_any_body_is_read_or_refused(body: bytes) -> None:
    try:
        asked = read_body(body)
    except BadRequest as error:
        assert 400 <= error.status < 500
    else:
        assert asked.model == json.loads(body)["model"]


@pytest.mark.parametrize(
    ("header", "key"),
    [
        ("Bearer rd-abc", "rd-abc"),
        ("bearer   rd-abc ", "rd-abc"),
        ("Basic rd-abc", None),
        ("Bearer ", None),
        ("rd-abc", None),
        ("", None),
        ("Bearer " + "x" * 513, None),
    ],
)
def test_takes_the_key_from_the_bearer_header(header: str, key: str | None) -> None:
    assert bearer_key({"authorization": header}) == key


def test_header_names_are_compared_without_case() -> None:
    assert headers_of([(b"AUTHorization", b"Bearer k"), (b"X", b"\xe9")]) == {
        "authorization": "Bearer k",
        "x": "é",
    }
