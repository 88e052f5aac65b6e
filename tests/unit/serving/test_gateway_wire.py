"""What passes between gateway and engine, and OpenAI's error form."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.cluster import openai_errors, wire


@given(st.dictionaries(st.text(), st.none() | st.integers() | st.text()), st.binary())
def test_a_frame_comes_back_as_it_went(meta: dict[str, object], body: bytes) -> None:
    assert wire.unpack(wire.pack(meta, body)) == (meta, body)


@pytest.mark.parametrize("frame", [b"", b"\x00\x00", b"\x00\x00\x00\x09{}"])
def test_a_cut_frame_is_noticed(frame: bytes) -> None:
    with pytest.raises(ValueError):
        wire.unpack(frame)


def test_items_of_a_stream_are_told_apart_by_their_first_byte() -> None:
    assert wire.closing({"status": 200})[0] == wire.META
    item = wire.refusal({"status": 400}, b"{}")
    assert item[0] == wire.REFUSAL
    assert wire.unpack(item[1:]) == ({"status": 400}, b"{}")
    assert b"data: x"[0] not in (wire.META, wire.REFUSAL)


def test_errors_have_openais_four_fields() -> None:
    error = json.loads(openai_errors.error_body("No “x”.", code="c", param="p"))["error"]
    assert error == {"message": "No “x”.", "type": "invalid_request_error", "param": "p", "code": "c"}


@pytest.mark.parametrize(
    ("event", "is_error"),
    [
        (openai_errors.error_event("stopped", code="engine_failed"), True),
        (b'data: {"error": {"message": "EngineCore"}}\n\n', True),
        (b'data: {"id": "1", "choices": [{"delta": {"content": "{\\"error\\""}}]}\n\n', False),
        (b"data: [DONE]\n\n", False),
    ],
)
def test_an_error_event_is_recognised_and_text_about_errors_is_not(event: bytes, is_error: bool) -> None:
    assert openai_errors.is_error_event(event) is is_error
