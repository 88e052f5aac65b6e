"""Limits of keys and deployments, enforced before the engine is touched. Part of the gateway.

All replicas share them through Redis: one script call admits a request under its key's and its deployment's
limits or under neither (serving/limit_store.py). Never more requests in any 60 s than the limit, never one
refused below it; tokens are counted when a request has ended, so they overshoot by what is in flight. While
Redis is away this replica's own memory decides, and Redis is told of it afterwards. Budgets are compared with
what the console last wrote. Who has no limits costs no question. Measured: docs/decisions/0005-limits.md.
"""

import asyncio
import logging
import time
import uuid
from collections import deque
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal, InvalidOperation
from typing import Any

from serving import limit_store as store
from serving.cluster.limit_link import Link, LinkBroken, packed
from serving.cluster.limit_memory import Memory
from serving.cluster.limit_values import BUDGET_DAY, BUDGET_MONTH, Limits, Refusal

log = logging.getLogger("ray.serve")
LEASE_US = store.LEASE_S * 1_000_000
RENEW_EVERY_S = store.LEASE_S / 3
NOTES_AT_ONCE = 500
CALLS_AT_ONCE = 20
US = 1_000_000
Told = deque[tuple[float, str, tuple[Limits, ...]]]


class Limiter:
    """Admits requests of one gateway replica."""

    def __init__(self, *, redis_url: str | None) -> None:
        self._link = Link(redis_url, hello=self._hello, beat=self._beat)
        self._memory = Memory()
        self._born = b""
        self._calls: dict[tuple[Limits, ...], bytes] = {}
        self._spent = Spent()
        # Redis may not have heard that these ended, or were refused after all: it is told on reconnecting.
        self._ended: Told = deque()
        self._withdrawn: Told = deque()
        self._renewed_at = 0.0

    def start(self) -> None:
        """Begins to talk to Redis; needs a running event loop."""
        self._link.start()

    async def close(self) -> None:
        """Lets go of Redis."""
        await self._link.close()

    def state(self) -> dict[str, Any]:
        """What an operator wants to know: whether the limits are shared, and since when not."""
        shared = self._link.state == "ok"
        return {
            "redis": self._link.state,
            "hold": "shared" if shared else "per replica",
            "for_s": round(time.monotonic() - self._link.since, 1),
            "scopes": len(self._memory.windows),
        }

    async def admit(self, request_id: str, limits: tuple[Limits, ...]) -> Refusal | None:
        """Counts a request under all its limits and gives None, or under none and gives the one reached.

        What was admitted must be finished.
        """
        refused = await self._over_budget(limits)
        counted = tuple(one for one in limits if one.is_counted)
        if refused is not None or not counted:
            return refused
        answer = await self._ask(request_id, counted)
        now = time.monotonic()
        if type(answer) is list:
            what, place, wait_us = answer
            refused = Refusal(what, counted[place], wait_us / US)
            self._memory.note_refusal(refused, now)
            return refused
        if answer != store.ADMITTED:
            refused = self._memory.refusal(counted, now)
            if refused is not None:
                # Redis may have taken it before it broke off.
                self._withdrawn.append((now, request_id, counted))
                return refused
        self._memory.admit(request_id, counted, now)
        return None

    def finish(self, request_id: str, limits: tuple[Limits, ...], *, tokens: int) -> None:
        """A request has ended; `tokens` of prompt and answer together. Never waits, never raises."""
        counted = tuple(one for one in limits if one.is_counted)
        if not counted:
            return
        now = time.monotonic()
        self._memory.finish(request_id, counted, tokens, now)
        notes: list[str | int] = []
        for place, one in enumerate(counted):
            if one.requests_in_flight:
                notes += ("x", place, request_id, 0, 0)
                self._ended.append((now, request_id, (one,)))
            if tokens and one.tokens_per_minute:
                notes += ("t", place, request_id, tokens, 0)
        if notes:
            self._link.tell(_note([one.scope for one in counted], notes))

    async def _ask(self, request_id: str, limits: tuple[Limits, ...]) -> Any:
        """Redis's answer, None while it is away."""
        for _ in range(2):
            if not await self._link.settled():
                return None
            head, name = self._calls.get(limits) or self._call(limits), request_id.encode()
            answer = await self._link.put(b"%b$%d\r\n%b\r\n" % (head, len(name), name))
            if answer != store.BORN_ANEW:
                return answer
            self._link.renew()
        return None

    def _call(self, limits: tuple[Limits, ...]) -> bytes:
        """The script call up to the request's id, its last argument: the same for every request."""
        keys = [store.BORN, *(key for one in limits for key in store.keys_of(one.scope))]
        figures: list[str | bytes | int] = [self._born]
        for one in limits:
            figures += (one.requests_per_minute, one.tokens_per_minute, one.requests_in_flight)
        whole = packed("EVALSHA", store.ADMIT_SHA, len(keys), *keys, *figures, LEASE_US, "")
        head = self._calls[limits] = whole.removesuffix(b"$0\r\n\r\n")
        return head

    async def _hello(self) -> None:
        """A new connection: the scripts, whose data this is, and what this replica has admitted lately."""
        link, mine = self._link, uuid.uuid4().hex
        answers = await asyncio.gather(
            link.put(packed("SCRIPT", "LOAD", store.ADMIT)),
            link.put(packed("SCRIPT", "LOAD", store.NOTE)),
            link.put(packed("SET", store.BORN, mine, "NX")),
            link.put(packed("GET", store.BORN)),
            link.put(packed("HGETALL", store.SPENT)),
        )
        if answers[3] is None:
            raise LinkBroken("no answer")
        self._born = bytes(answers[3])
        self._calls.clear()
        self._spent.take(answers[4])
        await self._tell_again(time.monotonic())

    async def _tell_again(self, now: float) -> None:
        self._trim(now)
        told = []
        for scope, window in self._memory.windows.items():
            notes: list[tuple[str | int, ...]]
            notes = [(what, 0, name, value, round(age * US)) for what, name, value, age in window.notes(now)]
            told += _notes([scope], notes)
        for what, those in (("x", self._ended), ("w", self._withdrawn)):
            for _, request_id, limits in those:
                notes = [(what, place, request_id, 0, 0) for place in range(len(limits))]
                told += _notes([one.scope for one in limits], notes)
        for start in range(0, len(told), CALLS_AT_ONCE):
            calls = told[start : start + CALLS_AT_ONCE]
            await asyncio.gather(*(self._link.put(call) for call in calls))

    async def _beat(self) -> None:
        """Every second: is it still the same Redis, what has been spent, and who is still in flight."""
        now = time.monotonic()
        self._trim(now)
        if now - self._renewed_at >= RENEW_EVERY_S:
            self._renewed_at = now
            for scope, window in self._memory.windows.items():
                notes = [("f", 0, name, 0, 0) for name in window.running]
                for command in _notes([scope], notes):
                    self._link.tell(command)
        born, spent = await asyncio.gather(
            self._link.put(packed("GET", store.BORN)), self._link.put(packed("HGETALL", store.SPENT))
        )
        if born != self._born:
            raise LinkBroken("Redis has lost its data")
        self._spent.take(spent)

    def _trim(self, now: float) -> None:
        self._memory.forget(now)
        for those, kept_s in ((self._ended, store.LEASE_S), (self._withdrawn, store.WINDOW_S)):
            while those and those[0][0] <= now - kept_s:
                those.popleft()

    async def _over_budget(self, limits: Iterable[Limits]) -> Refusal | None:
        for one in limits:
            if one.has_budget:
                # Right after a start nothing has been read yet; a replica must not be generous for that.
                await self._link.settled()
                refused = self._spent.refusal(one, datetime.now(UTC))
                if refused is not None:
                    return refused
        return None


class Spent:
    """Dollars spent today and this month (UTC) per scope, as the console last wrote them."""

    def __init__(self) -> None:
        self._day = self._month = ""
        self._usd: dict[str, Decimal] = {}

    def take(self, answer: Any) -> None:
        """Redis's HGETALL: names and values in turn. None (no answer) changes nothing."""
        if answer is None:
            return
        fields = dict(zip(map(_text, answer[::2]), map(_text, answer[1::2]), strict=False))
        self._day, self._month = fields.pop("day", ""), fields.pop("month", "")
        usd = {}
        for name, value in fields.items():
            try:
                usd[name] = Decimal(value)
            except InvalidOperation:
                log.warning("limits: spent amount cannot be read")
        self._usd = usd

    def refusal(self, limits: Limits, now: datetime) -> Refusal | None:
        """Whether the budget of the day or the month is used up; the month's is named first."""
        midnight = now.replace(hour=0, minute=0, second=0, microsecond=0)
        if self._reached(limits, "month", limits.budget_usd_per_month, now.strftime("%Y-%m"), self._month):
            first = (midnight.replace(day=1) + timedelta(days=32)).replace(day=1)
            return Refusal(BUDGET_MONTH, limits, (first - now).total_seconds())
        if self._reached(limits, "day", limits.budget_usd_per_day, now.strftime("%Y-%m-%d"), self._day):
            return Refusal(BUDGET_DAY, limits, (midnight + timedelta(days=1) - now).total_seconds())
        return None

    def _reached(self, limits: Limits, period: str, budget: Decimal | None, now: str, written: str) -> bool:
        # What was written in an earlier period says nothing of this one: it begins with nothing spent.
        if budget is None or (now != written and budget > 0):
            return False
        return self._usd.get(f"{limits.scope}:{period}", Decimal(0)) >= budget


def _notes(scopes: Sequence[str], notes: Sequence[tuple[str | int, ...]]) -> list[bytes]:
    """NOTE calls of bounded size."""
    return [
        _note(scopes, [value for note in notes[start : start + NOTES_AT_ONCE] for value in note])
        for start in range(0, len(notes), NOTES_AT_ONCE)
    ]


def _note(scopes: Sequence[str], values: Sequence[str | int]) -> bytes:
    keys = [key for scope in scopes for key in store.keys_of(scope)]
    return packed("EVALSHA", store.NOTE_SHA, len(keys), *keys, LEASE_US, *values)


def _text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
