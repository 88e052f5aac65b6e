"""Usage records: what is read, what is refused, which latencies they tell."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.usage import BadRecord, UsageRecord, read_record
from tests.unit.workers.fleet import record, text_of


def test_a_record_of_the_gateway_is_read_whole():
    read = read_record(text_of(id="a1", user="ann", cached_tokens=None, error_class=None))
    assert (read.id, read.user, read.cached_tokens, read.error_class) == ("a1", "ann", None, "")
    assert read.finished_at == pytest.approx(1_000_000.24)
    assert read.answered
    assert not read.failed


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("id", ""),
        ("id", "x" * 41),
        ("id", 7),
        ("id", None),
        ("id", "a b"),
        ("outcome", "fine"),
        ("status", None),
        ("status", "200"),
        ("status", True),
        ("status", 1000),
        ("started_at", None),
        ("started_at", "now"),
        ("started_at", -1),
        ("started_at", 1e300),
        ("prompt_tokens", -1),
        ("prompt_tokens", 2**31),
        ("prompt_tokens", 1.5),
        ("completion_tokens", "12"),
        ("key_id", [1]),
        ("e2e_s", -0.1),
        ("ttft_s", "quick"),
        ("path", {"a": 1}),
    ],
)
def test_a_wrong_field_is_named_and_its_value_is_not_repeated(field, value):
    with pytest.raises(BadRecord, match=f"^{field}$"):
        read_record(text_of(**{field: value}))


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '"r"', "[" * 100_000, b"\xff\xfe"])
def test_what_is_no_record_is_refused(text):
    with pytest.raises(BadRecord):
        read_record(text)


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_numbers_that_are_none_are_refused(number):
    with pytest.raises(BadRecord, match="ttft_s"):
        read_record(json.dumps(record()).replace('"ttft_s": 0.05', f'"ttft_s": {number}'))


def test_a_callers_odd_model_name_does_not_cost_the_record():
    read = read_record(text_of(deployment="m\x00odel\ud800" * 100, outcome="refused", status=404))
    assert len(read.deployment) == 100
    assert "\x00" not in read.deployment
    read.deployment.encode()


@given(
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(),
        lambda c: st.lists(c) | st.dictionaries(st.text(), c),
    )
)
def test_any_json_is_either_read_or_refused(value):
    try:
        assert isinstance(read_record(json.dumps(value)), UsageRecord)
    except BadRecord:
        assert True


@pytest.mark.parametrize(
    ("values", "first_token_s", "per_token_s"),
    [
        ({}, 0.05, 0.01),
        ({"stream": False, "ttft_s": 0.24, "tpot_s": None}, 0.033, (0.24 - 0.033) / 19),
        ({"stream": False, "woke": True}, None, None),
        ({"stream": False, "queue_s": None}, None, None),
        ({"stream": False, "completion_tokens": 1}, 0.033, None),
    ],
)
def test_the_first_token_is_the_streams_or_the_engines(values, first_token_s, per_token_s):
    read = read_record(text_of(**values))
    assert read.first_token_s == (None if first_token_s is None else pytest.approx(first_token_s))
    assert read.per_token_s == (None if per_token_s is None else pytest.approx(per_token_s))


@pytest.mark.parametrize(
    ("outcome", "status", "failed", "answered"),
    [
        ("ok", 200, False, True),
        ("aborted", 499, False, True),
        ("error", 200, True, False),
        ("refused", 503, True, False),
        ("refused", 404, False, False),
    ],
)
def test_what_counts_as_failed_and_as_answered(outcome, status, failed, answered):
    read = read_record(text_of(outcome=outcome, status=status))
    assert (read.failed, read.answered) == (failed, answered)
