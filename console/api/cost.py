"""/cost and /deployments/NAME/cost: what was paid for, by whom it was used, and what was idle. Reads only."""

from __future__ import annotations

import time
from datetime import UTC, date, datetime
from typing import Annotated, Any, Literal

from django.http import HttpRequest, HttpResponse
from ninja import Query, Router, Schema
from pydantic import Field

from console import cost_csv, cost_report
from console.actions.deployments import find_deployment
from console.api.errors import invalid
from console.api.outputs import Money
from console.api.routing import operation
from console.api.security import caller_of
from console.cost_report import By, Days, Line, Report
from console.models import Deployment

router = Router(tags=["cost"])
of_deployment = Router(tags=["cost"])
MOST_DAYS = 400
FIRST_YEAR, LAST_YEAR = 2000, 2200

From = Annotated[
    date | None, Query(alias="from", description="first day, UTC; the first of this month without it")
]
To = Annotated[date | None, Query(description="last day, UTC, itself included; today without it")]
ByWhat = Annotated[By, Query(description="conversation: your own conversations in the playground")]
Format = Annotated[Literal["json", "csv"], Query()]


class IdleOut(Schema):
    """Paid and used by no request, by cause."""

    kept_warm: Money = Field(description="kept by the policy's fewest replicas")
    scale_down_delay: Money = Field(description="above the fewest, until the delay or idle time is over")
    starting: Money = Field(description="from the claim of accelerators until it took requests")
    draining: Money = Field(description="told to stop, until its end")


class CostLineOut(Schema):
    """One line: total_usd = request_usd + idle_usd + not_shared_out_usd."""

    name: str
    id: int | None = Field(description="number of the deployment, key or conversation")
    is_deleted: bool = Field(description="a deployment that is gone; its costs stay")
    requests: int
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    total_usd: Money
    request_usd: Money
    idle_usd: Money
    idle: IdleOut
    not_shared_out_usd: Money = Field(description="of the last minutes: not known yet who used it")
    usd_per_million_output_tokens: Money | None = Field(description="idle time included")
    usd_per_million_output_tokens_at_80_percent_load: Money | None = Field(
        description="if requests had filled 80 % of the paid time, at the speed they had"
    )
    api_usd: Money | None = Field(description="the same tokens at the deployment's API price")
    api_difference_usd: Money | None = Field(description="shared out cost less api_usd")


class CostOut(Schema):
    """Costs of whole days."""

    from_: date = Field(validation_alias="from", serialization_alias="from")
    to: date
    by: str
    shared_until: float | None = Field(description="epoch seconds up to which costs are shared out")
    items: list[CostLineOut]
    total: CostLineOut


@operation(router, "GET", "", role="viewer", answer=CostOut, by_alias=True, as_csv=True)
def get_cost(
    request: HttpRequest,
    from_: From = None,
    to: To = None,
    by: ByWhat = "deployment",
    format: Format = "json",
) -> Any:
    """What all deployments cost in these days.

    Lines add up to replica-seconds × price exactly; idle time has its own line where it belongs to nobody.
    """
    return _answer(request, from_=from_, to=to, by=by, wanted=format)


@operation(of_deployment, "GET", "/{name}/cost", role="viewer", answer=CostOut, by_alias=True, as_csv=True)
def get_deployment_cost(
    request: HttpRequest,
    name: str,
    from_: From = None,
    to: To = None,
    by: ByWhat = "day",
    format: Format = "json",
) -> Any:
    """What one deployment cost in these days."""
    deployment = find_deployment(name)
    return _answer(request, from_=from_, to=to, by=by, wanted=format, deployment=deployment)


def _answer(
    request: HttpRequest,
    *,
    from_: date | None,
    to: date | None,
    by: By,
    wanted: str,
    deployment: Deployment | None = None,
) -> Any:
    now = time.time()
    days = _days(from_, to, now)
    found = cost_report.report(by, days, now=now, deployment=deployment, user=caller_of(request).user)
    if wanted == "csv":
        response = HttpResponse(cost_csv.as_csv(found), content_type="text/csv; charset=utf-8")
        response["Content-Disposition"] = f'attachment; filename="{cost_csv.file_name(found)}"'
        return response
    return _report_out(found)


def _days(first: date | None, last: date | None, now: float) -> Days:
    today = datetime.fromtimestamp(now, UTC).date()
    last = last or max(today, first or today)
    first = first or last.replace(day=1)
    for name, day in (("from", first), ("to", last)):
        if not FIRST_YEAR <= day.year <= LAST_YEAR:
            raise invalid(f"Give a day between {FIRST_YEAR} and {LAST_YEAR}.", field=name)
    if last < first:
        raise invalid(f"{last} is before {first}: the last day is before the first one.", field="to")
    if (last - first).days >= MOST_DAYS:
        raise invalid(f"That is more than {MOST_DAYS} days; ask for less at a time.", field="from")
    return Days(first, last)


def _report_out(report: Report) -> dict[str, Any]:
    return {
        "from": report.days.first,
        "to": report.days.last,
        "by": report.by,
        "shared_until": report.shared_until,
        "items": [_line_out(line) for line in report.lines],
        "total": _line_out(report.total),
    }


def _line_out(line: Line) -> dict[str, Any]:
    return {
        "name": line.name,
        "id": line.id,
        "is_deleted": line.is_deleted,
        "requests": line.requests,
        "prompt_tokens": line.prompt_tokens,
        "cached_tokens": line.cached_tokens,
        "completion_tokens": line.completion_tokens,
        "total_usd": line.total_usd,
        "request_usd": line.request_usd,
        "idle_usd": line.idle_total_usd,
        "idle": line.idle_usd,
        "not_shared_out_usd": line.waiting_usd,
        "usd_per_million_output_tokens": line.usd_per_million,
        "usd_per_million_output_tokens_at_80_percent_load": line.usd_per_million_at_good_load,
        "api_usd": line.api_usd,
        "api_difference_usd": line.api_difference_usd,
    }
