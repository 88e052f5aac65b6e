"""Spend by day as a stacked bar chart: one trace per deployment, then idle time and what is not shared out.

Built with plotly.graph_objects and sent as JSON with its points; `meta.colour` names a colour of the page's
style, which static/js/costchart.js puts in.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date

import plotly.graph_objects as go

from console.cost_report import Line
from serving.cost import in_usd

STACKED = 5
"""Deployments drawn on their own; more is not told apart."""
COLOURS = 6
OTHERS_COLOUR, IDLE_COLOUR, WAITING_COLOUR = "m-over", "border-2", "m-free"


@dataclass(frozen=True)
class Bar:
    """One colour of the stack: trillionths of a dollar by day."""

    name: str
    colour: str
    units: list[int]


def bars(
    days: Sequence[date],
    ledger: Mapping[tuple[date, int], Line],
    *,
    deployments: Sequence[Line],
    waiting: Mapping[date, int],
) -> list[Bar]:
    """The stack, bottom first. `deployments` come dearest first; the sum is all that was spent."""
    shown, others = deployments[:STACKED], deployments[STACKED:]
    palette = colours(deployments)
    stack = [
        Bar(line.name, palette[line.id or 0], [_requests(ledger, day, [line]) for day in days])
        for line in shown
    ]
    stack.append(Bar("others", OTHERS_COLOUR, [_requests(ledger, day, others) for day in days]))
    idle = [
        sum(line.idle_total_units for (at, _), line in ledger.items() if at == day) for day in days
    ]  # fmt: skip
    stack.append(Bar("idle", IDLE_COLOUR, idle))
    stack.append(Bar("not shared out yet", WAITING_COLOUR, [waiting.get(day, 0) for day in days]))
    return [bar for bar in stack if any(bar.units)]


def colours(deployments: Sequence[Line]) -> dict[int, str]:
    """By deployment id, the colour of those that are drawn on their own: its own one, or the next free one
    where two have the same."""
    taken: list[int] = []
    for line in deployments[:STACKED]:
        free = [number for number in range(1, COLOURS + 1) if number not in taken]
        taken.append(line.colour if line.colour in free else free[0])
    return {line.id or 0: f"c{number}" for line, number in zip(deployments, taken, strict=False)}


def figure_json(days: Sequence[date], stack: Sequence[Bar]) -> str:
    """The figure as JSON text."""
    figure = go.Figure(
        [
            go.Bar(
                name=bar.name,
                x=[day.isoformat() for day in days],
                y=[float(in_usd(units)) for units in bar.units],
                hovertemplate="%{y:$,.2f}",
                meta={"colour": bar.colour},
            )
            for bar in stack
        ]
    )
    figure.update_layout(template=go.layout.Template(), barmode="stack", bargap=0.28)
    figure.update_yaxes(tickformat="$,.2~f", rangemode="tozero")
    return str(figure.to_json())


def _requests(ledger: Mapping[tuple[date, int], Line], day: date, lines: Sequence[Line]) -> int:
    found = (ledger.get((day, line.id or 0)) for line in lines)
    return sum(line.request_units for line in found if line is not None)
