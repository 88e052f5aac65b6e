"""The cost of whole days (UTC) by deployment, key, person, day or conversation, from the ledger. Reads only.

A report adds up: its lines are what requests cost, what was idle by cause, and what is not shared out yet;
together they are the replica-seconds × price of console/costs.py. Idle time belongs to deployments and days;
in reports by key, person and conversation it stands in a line of its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any, Literal

from django.db.models import F, QuerySet, Sum

from console import spending
from console.models import ApiKey, ChatMessage, CostEntry, Deployment, RequestRecord, User
from console.spending import REQUEST
from serving.cost import UNITS_PER_USD, in_usd
from serving.idle import IDLE_CAUSES

By = Literal["deployment", "key", "day", "conversation", "user"]
MILLION = 1_000_000
GOOD_LOAD = Decimal("0.8")
"""The share of its paid time in which a replica of a well used deployment has a request."""
PRICE_PLACES = Decimal("0.000001")
IDLE_NAME, ELSEWHERE = "(idle)", "(no kept conversation)"
COUNTS = ("requests", "prompt_tokens", "cached_tokens", "completion_tokens")
IDS_AT_ONCE = 500


@dataclass(frozen=True)
class Days:
    """Whole days, both included."""

    first: date
    last: date

    @property
    def start(self) -> float:
        """Epoch seconds of the beginning."""
        return _midnight(self.first)

    @property
    def end(self) -> float:
        """Epoch seconds of the end of the last day."""
        return _midnight(self.last + timedelta(days=1))


@dataclass
class Line:
    """One line of a report: trillionths of a dollar, requests and tokens."""

    name: str
    id: int | None = None
    requests: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    request_units: int = 0
    idle_units: dict[str, int] = field(default_factory=lambda: dict.fromkeys(IDLE_CAUSES, 0))
    waiting_units: int = 0
    api_prices: tuple[Decimal, Decimal] | None = None
    colour: int = 0
    is_deleted: bool = False

    @property
    def idle_total_units(self) -> int:
        """Paid and used by no request."""
        return sum(self.idle_units.values())

    @property
    def shared_units(self) -> int:
        """What the ledger has of it."""
        return self.request_units + self.idle_total_units

    @property
    def total_units(self) -> int:
        """All it cost, what is not shared out yet included."""
        return self.shared_units + self.waiting_units

    @property
    def total_usd(self) -> Decimal:
        """All it cost."""
        return in_usd(self.total_units)

    @property
    def request_usd(self) -> Decimal:
        """Paid by requests."""
        return in_usd(self.request_units)

    @property
    def idle_total_usd(self) -> Decimal:
        """Paid and used by no request."""
        return in_usd(self.idle_total_units)

    @property
    def idle_usd(self) -> dict[str, Decimal]:
        """The same by cause."""
        return {cause: in_usd(units) for cause, units in self.idle_units.items()}

    @property
    def waiting_usd(self) -> Decimal:
        """Not shared out yet."""
        return in_usd(self.waiting_units)

    @property
    def busy_share(self) -> float | None:
        """How much of the paid time had a request in it, by its cost, 0 to 1."""
        return self.request_units / self.shared_units if self.shared_units else None

    @property
    def usd_per_million(self) -> Decimal | None:
        """Dollars per 1M output tokens, idle time included."""
        return self._per_million(in_usd(self.shared_units))

    @property
    def usd_per_million_at_good_load(self) -> Decimal | None:
        """The same if requests had filled 80 % of the paid time, at the speed they had."""
        return self._per_million(self.request_usd / GOOD_LOAD)

    @property
    def api_usd(self) -> Decimal | None:
        """What the same tokens would have cost at the API price the operator typed in."""
        if self.api_prices is None:
            return None
        given, made = self.api_prices
        return (self.prompt_tokens * given + self.completion_tokens * made) / MILLION

    @property
    def api_usd_per_million(self) -> Decimal | None:
        """That per 1M output tokens."""
        return None if self.api_usd is None else self._per_million(self.api_usd)

    @property
    def api_difference_usd(self) -> Decimal | None:
        """What was paid here, as far as it is shared out, less what the API would have cost."""
        return None if self.api_usd is None else in_usd(self.shared_units) - self.api_usd

    def _per_million(self, usd: Decimal) -> Decimal | None:
        if not self.completion_tokens:
            return None
        return (usd * MILLION / self.completion_tokens).quantize(PRICE_PLACES)


@dataclass(frozen=True)
class Report:
    """Lines, the dearest first (days in order), and their sum."""

    days: Days
    by: By
    lines: list[Line]
    total: Line
    shared_until: int | None


def month_of(day: date, *, today: date) -> Days:
    """The month of a day, up to today where that is in it."""
    first = day.replace(day=1)
    last = (first + timedelta(days=32)).replace(day=1) - timedelta(days=1)
    return Days(first, max(first, min(last, today)))


def report(
    by: By, days: Days, *, now: float, deployment: Deployment | None = None, user: User | None = None
) -> Report:
    """The report of these days, of one deployment or of all. `user`: whose conversations, where asked by
    conversation; other people's are nobody's business and stand together in one line."""
    rows = spending.entries(start=days.start, end=days.end)
    waiting = spending.not_shared_out(start=days.start, end=min(days.end, now))
    if deployment is not None:
        rows = rows.filter(deployment_id=deployment.pk)
        waiting = {pk: units for pk, units in waiting.items() if pk == deployment.pk}
    if by == "deployment":
        lines = _by_deployment(rows, waiting)
    elif by == "day":
        lines = _by_day(rows, days, now=now, deployment=deployment)
    else:
        lines = _requests_by(by, rows, days, user)
        lines += _idle_line(rows, waiting)
    return Report(days, by, lines, _sum(lines), spending.shared_until())


def by_day_and_deployment(days: Days) -> dict[tuple[date, int], Line]:
    """What the ledger has of each day and deployment, for the chart. One query."""
    rows = spending.entries(start=days.start, end=days.end)
    found: dict[tuple[date, int], Line] = {}
    for row in _summed(rows.annotate(day=F("at") - F("at") % 86_400), "day", "deployment_id"):
        key = (_day_of(row["day"]), row["deployment_id"])
        _add(found.setdefault(key, Line(key[0].isoformat())), row)
    return found


def _by_deployment(rows: QuerySet[CostEntry], waiting: Mapping[int, int]) -> list[Line]:
    known = {row.pk: row for row in Deployment.objects.all()}
    lines: dict[int, Line] = {}
    for row in _summed(rows, "deployment_id", "deployment_name"):
        pk = row["deployment_id"]
        _add(lines.setdefault(pk, _deployment_line(pk, row["deployment_name"], known.get(pk))), row)
    for pk, units in waiting.items():
        line = lines.setdefault(pk, _deployment_line(pk, f"deployment {pk}", known.get(pk)))
        line.waiting_units += units
    return _dearest_first(lines.values())


def _deployment_line(pk: int, name: str, deployment: Deployment | None) -> Line:
    if deployment is None:
        return Line(name, id=pk, is_deleted=True)
    line = Line(deployment.name, id=pk, colour=deployment.colour)
    given = deployment.api_input_usd_per_million_tokens
    made = deployment.api_output_usd_per_million_tokens
    return line if given is None or made is None else replace(line, api_prices=(given, made))


def _by_day(
    rows: QuerySet[CostEntry], days: Days, *, now: float, deployment: Deployment | None
) -> list[Line]:
    lines: dict[date, Line] = {}
    for row in _summed(rows.annotate(day=F("at") - F("at") % 86_400), "day"):
        day = _day_of(row["day"])
        _add(lines.setdefault(day, Line(day.isoformat())), row)
    # Nothing but the newest days can hold what is not shared out yet; each is asked for on its own.
    day = max(days.first, _day_of(spending.shared_until() or days.start))
    while day <= days.last and _midnight(day) < now:
        waiting = spending.not_shared_out(
            start=_midnight(day), end=min(now, _midnight(day + timedelta(days=1)))
        )
        units = sum(waiting.values()) if deployment is None else waiting.get(deployment.pk, 0)
        if units:
            lines.setdefault(day, Line(day.isoformat())).waiting_units += units
        day += timedelta(days=1)
    return [lines[day] for day in sorted(lines)]


def _requests_by(by: By, rows: QuerySet[CostEntry], days: Days, user: User | None) -> list[Line]:
    requests = rows.filter(kind=REQUEST)
    if by == "conversation":
        return _by_conversation(requests, days, user)
    column = "key_id" if by == "key" else "user_name"
    names = dict(ApiKey.objects.values_list("pk", "name")) if by == "key" else {}
    lines: dict[Any, Line] = {}
    for row in _summed(requests, column):
        value = row[column]
        if by == "key":
            line = Line(names.get(value, "(no key)" if not value else f"key {value}"), id=value or None)
        else:
            line = Line(value or "(nobody named)")
        _add(lines.setdefault(value, line), row)
    return _dearest_first(lines.values())


def _by_conversation(requests: QuerySet[CostEntry], days: Days, user: User | None) -> list[Line]:
    """The person's own conversations: what their answers have cost. The rest of all requests is one line, by
    subtraction, so that an answer given around midnight makes no difference to the sum."""
    messages = ChatMessage.objects.filter(
        conversation__user=user,
        role="assistant",
        created_at__gte=datetime.fromtimestamp(days.start, UTC),
        created_at__lt=datetime.fromtimestamp(days.end, UTC),
    )
    asked = messages.values_list("stats__request_id", "conversation_id", "conversation__title")
    owners = {str(request_id): (pk, title) for request_id, pk, title in asked if request_id}
    lines: dict[int, Line] = {}
    for record in _records(list(owners)):
        pk, title = owners[record.pk]
        line = lines.setdefault(pk, Line(title, id=pk))
        line.requests += 1
        line.request_units += record.cost_units or 0
        for name in COUNTS[1:]:
            setattr(line, name, getattr(line, name) + (getattr(record, name) or 0))
    rest = Line(ELSEWHERE)
    for row in _summed(requests):
        _add(rest, row)
    for line in lines.values():
        rest.request_units -= line.request_units
        for name in COUNTS:
            setattr(rest, name, max(0, getattr(rest, name) - getattr(line, name)))
    return [*_dearest_first(lines.values()), rest]


def _records(ids: list[str]) -> Iterable[RequestRecord]:
    for start in range(0, len(ids), IDS_AT_ONCE):
        yield from RequestRecord.objects.filter(
            pk__in=ids[start : start + IDS_AT_ONCE], cost_units__isnull=False
        )


def _idle_line(rows: QuerySet[CostEntry], waiting: Mapping[int, int]) -> list[Line]:
    line = Line(IDLE_NAME, waiting_units=sum(waiting.values()))
    for row in _summed(rows.exclude(kind=REQUEST)):
        _add(line, row)
    return [line] if line.total_units else []


def _summed(rows: QuerySet[CostEntry], *columns: str) -> Iterable[dict[str, Any]]:
    """Sums by kind and the columns. One query."""
    sums = {f"sum_{name}": Sum(name) for name in ("whole_usd", "rest_units", *COUNTS)}
    return rows.values("kind", *columns).order_by().annotate(**sums)


def _add(line: Line, row: Mapping[str, Any]) -> None:
    units = row["sum_whole_usd"] * UNITS_PER_USD + row["sum_rest_units"]
    if row["kind"] == REQUEST:
        line.request_units += units
    else:
        line.idle_units[row["kind"]] = line.idle_units.get(row["kind"], 0) + units
    for name in COUNTS:
        setattr(line, name, getattr(line, name) + row[f"sum_{name}"])


def _sum(lines: Iterable[Line]) -> Line:
    total = Line("total")
    for line in lines:
        total.request_units += line.request_units
        total.waiting_units += line.waiting_units
        for cause, units in line.idle_units.items():
            total.idle_units[cause] = total.idle_units.get(cause, 0) + units
        for name in COUNTS:
            setattr(total, name, getattr(total, name) + getattr(line, name))
    return total


def _dearest_first(lines: Iterable[Line]) -> list[Line]:
    return sorted(lines, key=lambda line: (-line.total_units, line.name))


def _midnight(day: date) -> float:
    return datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp()


def _day_of(at: float) -> date:
    return datetime.fromtimestamp(at, UTC).date()
