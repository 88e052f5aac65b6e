"""The number formats of console/formats.py and the tags that use them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from django.template import Context, Template

from console import formats
from tests.unit.views.format_cases import CASES


@pytest.mark.parametrize(("name", "value", "text"), CASES)
def test_a_number_is_written_as_the_rules_say(name: str, value: Any, text: str) -> None:
    assert getattr(formats, name)(value).replace("\u00a0", " ") == text


def test_number_and_unit_are_never_torn_apart() -> None:
    for name, value, _ in CASES:
        shown = getattr(formats, name)(value)
        assert " " not in shown or name == "duration"


def test_context_lengths_are_in_binary_thousands() -> None:
    assert formats.context_tokens(16_384) == "16k"
    assert formats.context_tokens(1000) == "1,000"
    assert formats.context_tokens(None) == "–"


def render(source: str, **context: Any) -> str:
    return Template(source).render(Context(context))


def test_a_unit_is_muted_and_its_value_is_not() -> None:
    assert render("{{ 0.412|ms|muted_unit }}") == '412\u00a0<span class="dim">ms</span>'


def test_text_in_a_tag_is_escaped() -> None:
    assert "&lt;b&gt;" in render("{{ text|muted_unit }}", text="<b>")
    assert "&lt;b&gt;" in render('{% status "ready" text %}', text="<b>")
    block = render('{% json_block "points" value %}', value={"a": "</script><b>&"})
    assert "</script><b>" not in block
    assert "\\u003C/script\\u003E" in block


def test_an_unknown_status_is_shown_as_unknown_never_as_ready() -> None:
    shown = render('{% status "no-such-phase" %}')
    assert "Unknown" in shown
    assert "circle-check" not in shown


def test_a_gap_in_a_sparkline_stays_a_gap() -> None:
    drawn = render("{% spark values %}", values=[1.0, 2.0, None, 3.0, 1.0])
    assert drawn.count("M") == 2
    assert render("{% spark values %}", values=[None, 1.0]) == ""


def test_a_memory_bar_says_its_parts_in_words() -> None:
    drawn = render("{% membar 1073741824 2147483648 None %}")
    assert "weights 1.0\u00a0GiB, KV cache 2.0\u00a0GiB, rest –" in drawn
    assert "style=" not in drawn


def test_a_time_carries_the_whole_moment() -> None:
    moment = datetime(2026, 11, 22, 9, 5, tzinfo=UTC)
    assert 'datetime="2026-11-22T09:05:00+00:00"' in render("{{ moment|clock }}", moment=moment)
    assert render("{{ nothing|clock }}", nothing=None) == "–"
