"""The charts: which traces, units and words; no data and no colours.

A figure is built once with plotly.graph_objects and sent as JSON. Each trace names in `meta` the field of a
history point it draws and its role; static/js/charts.js fills in the points and takes the colours from the
page's style. Points are those of console/history.py, live samples have the same form.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import plotly.graph_objects as go

from console import formats

GIB = 1 << 30
KEPT_S = 60
"""How old a kept value may be; the same as the tables' figures (console.fleet) and static/js/live.js."""


@dataclass(frozen=True)
class Trace:
    """One line or area: a field of a point, drawn in a role with a palette colour."""

    field: str
    name: str
    role: str
    colour: str = "c1"
    hover: str = "%{y:.3s}"
    scale: float = 1.0
    topic: str = ""


@dataclass(frozen=True)
class Headline:
    """A current value in a chart's head. `keep` shows the last one of the last minute while none is measured:
    requests do not finish every second."""

    field: str
    format: str
    word: str
    keep: bool = False


@dataclass(frozen=True)
class Chart:
    """A chart card: figure, current values, and what it says while there is nothing to draw. `at_least` is a
    value the axis always reaches, so that a quiet count is not blown up; `top` fixes its end."""

    key: str
    title: str
    traces: tuple[Trace, ...]
    headlines: tuple[Headline, ...]
    tick: str
    suffix: str = ""
    hint: str = ""
    empty: str = "Starts with the first request"
    top: float | None = None
    at_least: float | None = None
    legend: bool = False


def _latency(key: str, title: str, hint: str, format_name: str) -> Chart:
    return Chart(
        key=key,
        title=title,
        hint=hint,
        traces=(
            Trace(f"{key}_p50_s", "p50", "p50", hover="%{y:.3s}s"),
            Trace(f"{key}_p95_s", "p95", "p95", hover="%{y:.3s}s"),
            Trace(f"{key}_p99_s", "p99", "p99", hover="%{y:.3s}s"),
        ),
        headlines=(
            Headline(f"{key}_p95_s", format_name, "p95", keep=True),
            Headline(f"{key}_p50_s", format_name, "p50", keep=True),
        ),
        tick="~s",
        suffix="s",
    )


CHARTS = {
    chart.key: chart
    for chart in (
        _latency(
            "ttft", "Time to first token", "TTFT: from the request to its first token, at the gateway", "ms"
        ),
        _latency("tpot", "Time per output token", "TPOT: between two tokens of one reply", "ms"),
        _latency("e2e", "End-to-end latency", "From the request to the end of its reply", "seconds"),
        _latency("queue", "Queue time", "Waiting in the engine before it began to read the prompt", "ms"),
        Chart(
            key="requests",
            title="Requests",
            hint="Running in the engine, and waiting for it",
            traces=(
                Trace("running", "running", "stack", "c1", "%{y:.0f}"),
                Trace("waiting", "waiting", "stack", "c2", "%{y:.0f}"),
            ),
            headlines=(Headline("running", "number", "running"), Headline("waiting", "number", "waiting")),
            tick="~g",
            at_least=4,
            empty="Starts when a replica runs",
            legend=True,
        ),
        Chart(
            key="tokens",
            title="Tokens",
            hint="Output tokens generated and prompt tokens read, per second",
            traces=(
                Trace("tokens_per_s", "output", "area", "c1", "%{y:,.0f} tok/s"),
                Trace("prompt_tokens_per_s", "prompt", "line", "c2", "%{y:,.0f} tok/s"),
            ),
            headlines=(Headline("tokens_per_s", "tokens_per_second", "output"),),
            tick="~s",
            at_least=10,
            empty="Starts when a replica runs",
            legend=True,
        ),
        Chart(
            key="kv",
            title="KV cache in use",
            hint="KV cache: the memory that holds what the engine has read of running requests",
            traces=(Trace("kv_usage", "in use", "area", "c3", "%{y:.1f}%", 100.0),),
            headlines=(Headline("kv_usage", "percent", "of the KV cache"),),
            tick="~g",
            suffix="%",
            empty="Starts when a replica runs",
            top=100,
        ),
        Chart(
            key="memory",
            title="Memory",
            hint="Weights, KV cache, and the rest of the engine's processes",
            traces=(
                Trace("weights_bytes", "weights", "stack", "m-weights", "%{y:.2f} GiB", 1 / GIB),
                Trace("kv_bytes", "KV cache", "stack", "m-kv", "%{y:.2f} GiB", 1 / GIB),
                Trace("rest_bytes", "rest", "stack", "m-over", "%{y:.2f} GiB", 1 / GIB),
            ),
            headlines=(Headline("weights_bytes+kv_bytes+rest_bytes", "gib", "in all"),),
            tick="~g",
            suffix="\u00a0GiB",
            empty="Starts when a replica runs",
            legend=True,
        ),
        Chart(
            key="replicas",
            title="Replicas",
            hint="Replicas that hold accelerators",
            traces=(Trace("replicas", "replicas", "step", "c6", "%{y:.0f}"),),
            headlines=(Headline("replicas", "number", "running"),),
            tick="~g",
            at_least=2,
            empty="Starts when a replica runs",
        ),
        Chart(
            key="cost",
            title="Running cost",
            hint="Accelerators held × their price",
            traces=(Trace("cost_per_hour_usd", "per hour", "step", "c3", "$%{y:,.2f}/h"),),
            headlines=(Headline("cost_per_hour_usd", "rate", ""), Headline("cost_usd", "usd", "so far")),
            tick="$,.2~r",
            empty="Starts when a replica runs",
        ),
    )
}


def figure_json(chart: Chart) -> str:
    """The figure of a chart as JSON text, without points."""
    traces = [
        go.Scatter(
            x=[],
            y=[],
            name=trace.name,
            mode="lines",
            connectgaps=False,
            hovertemplate=trace.hover,
            meta={
                "field": trace.field,
                "role": trace.role,
                "colour": trace.colour,
                "scale": trace.scale,
                "topic": trace.topic,
            },
        )
        for trace in chart.traces
    ]
    figure = go.Figure(traces)
    figure.update_layout(template=go.layout.Template(), uirevision="keep")
    figure.update_yaxes(tickformat=chart.tick, ticksuffix=chart.suffix, rangemode="tozero")
    if chart.at_least is not None:
        figure.update_yaxes(autorangeoptions={"include": chart.at_least})
    if chart.top is not None:
        figure.update_yaxes(range=[0, chart.top])
    return str(figure.to_json())


@lru_cache(maxsize=32)
def _fixed_figure(key: str) -> str:
    return figure_json(CHARTS[key])


def tokens_by_deployment(rows: Sequence[tuple[str, int]]) -> Chart:
    """Output tokens stacked by deployment; `rows` are (name, palette colour), at most five and the rest."""
    return Chart(
        key="tokens_by",
        title="Output tokens by deployment",
        hint="Output tokens generated per second",
        traces=tuple(
            Trace("tokens_per_s", name, "stack", f"c{colour}", "%{y:,.0f} tok/s", topic=f"deployment:{name}")
            for name, colour in rows
        ),
        headlines=(Headline("tokens_per_s", "tokens_per_second", "in all"),),
        tick="~s",
        at_least=10,
        empty="Starts with the first request",
        legend=True,
    )


def figures_block(charts: Iterable[Chart]) -> str:
    """One JSON object: key of a chart -> its figure."""
    parts = []
    for chart in charts:
        text = _fixed_figure(chart.key) if chart.key in CHARTS else figure_json(chart)
        parts.append(f"{json.dumps(chart.key)}:{text}")
    return "{" + ",".join(parts) + "}"


def for_page(history: Mapping[str, Any], fields: Iterable[str] = ()) -> dict[str, Any]:
    """A history with its numbers cut to six digits, which halves the page; with `fields`, only those."""
    wanted = {"t", *fields}
    points = [
        {name: _short(value) for name, value in point.items() if not fields or name in wanted}
        for point in history["points"]
    ]
    return {**history, "points": points}


def _short(value: Any) -> Any:
    return float(f"{value:.6g}") if isinstance(value, float) else value


def card(
    chart: Chart, history: Mapping[str, Any], topic: str, *, slo_s: float | None = None
) -> dict[str, Any]:
    """What the template of a chart needs: current values as text, a sentence for its accessible name. `slo_s`
    is the threshold in seconds that is drawn across it."""
    points: list[dict[str, Any]] = history.get("points") or []
    heads = []
    for headline in chart.headlines:
        shown = _last_minute(points, history) if headline.keep else points[-1:]
        value = _latest(shown, headline.field)
        heads.append({"headline": headline, "text": getattr(formats, headline.format)(value)})
    drawn = {trace.field for trace in chart.traces if not trace.topic}
    has_points = any(point.get(field) is not None for point in points for field in drawn) if drawn else True
    words = ", ".join(f"{head['text']} {head['headline'].word}" for head in heads)
    return {
        "chart": chart,
        "topic": topic,
        "heads": heads,
        "sentence": f"{chart.title}: {words}" + (f", objective {formats.ms(slo_s)}" if slo_s else ""),
        "slo_s": slo_s,
        "slo_label": formats.ms(slo_s) if slo_s else "",
        "has_points": has_points,
    }


def _last_minute(
    points: Sequence[Mapping[str, Any]], history: Mapping[str, Any]
) -> Sequence[Mapping[str, Any]]:
    bucket_s, end = history["resolution_s"], history["to"]
    return [point for point in points if point["t"] + bucket_s > end - KEPT_S]


def _latest(points: Sequence[Mapping[str, Any]], field: str) -> Any:
    values = (_field(point, field) for point in reversed(points))
    return next((value for value in values if value is not None), None)


def _field(point: Mapping[str, Any], names: str) -> Any:
    """A field, or with "a+b" the sum of what was measured of both."""
    if "+" not in names:
        return point.get(names)
    known = [point[name] for name in names.split("+") if point.get(name) is not None]
    return sum(known) if known else None
