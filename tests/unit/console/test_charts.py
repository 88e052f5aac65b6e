"""What a chart's head says: the newest value, and of latencies the last one of the last minute."""

from typing import Any

import pytest

from console import charts


def head_of(points: list[dict[str, Any]], *, bucket_s: int = 1) -> str:
    to = points[-1]["t"] + bucket_s
    history = {"points": points, "resolution_s": bucket_s, "from": points[0]["t"], "to": to}
    return str(charts.card(charts.CHARTS["tpot"], history, "deployment:demo")["heads"][0]["text"])


@pytest.mark.parametrize(("age_s", "text"), [(0, "140\u00a0ms"), (59, "140\u00a0ms"), (60, "–"), (700, "–")])
def test_a_latency_stands_for_a_minute_and_then_there_is_none_to_speak_of(age_s: int, text: str) -> None:
    points = [{"t": 1000 + second, "tpot_p95_s": None} for second in range(900)]
    points[-1 - age_s]["tpot_p95_s"] = 0.14
    assert head_of(points) == text


def test_a_long_bucket_counts_while_its_end_lies_in_the_last_minute() -> None:
    points = [{"t": 0, "tpot_p95_s": 0.14}, {"t": 300, "tpot_p95_s": 0.2}]
    assert head_of(points, bucket_s=300) == "200\u00a0ms"
    points[1]["tpot_p95_s"] = None
    assert head_of(points, bucket_s=300) == "–"
