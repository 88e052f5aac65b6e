"""The limits of one key or deployment as the gateway reads them, and a refusal in words. Pure.

Definitions come through `user_config`, checked there by the console (serving/limits.py); what cannot be read
here raises, and its entry is left out of the table: a key without its limits must not pass.
"""

import math
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Any

from serving.limit_store import IN_FLIGHT, REQUESTS, TOKENS

BUDGET_DAY, BUDGET_MONTH = 4, 5
RATE_LIMITED = "rate_limit_exceeded"
OUT_OF_BUDGET = "insufficient_quota"


@dataclass(frozen=True)
class Limits:
    """What one scope may do; 0 and None are "without limit". `subject` is how callers know it."""

    scope: str
    subject: str
    requests_per_minute: int = 0
    tokens_per_minute: int = 0
    requests_in_flight: int = 0
    budget_usd_per_day: Decimal | None = None
    budget_usd_per_month: Decimal | None = None

    @property
    def is_counted(self) -> bool:
        """Whether a request has to be counted: budgets alone cost no question to Redis."""
        return bool(self.requests_per_minute or self.tokens_per_minute or self.requests_in_flight)

    @property
    def has_budget(self) -> bool:
        """Whether money is limited."""
        return self.budget_usd_per_day is not None or self.budget_usd_per_month is not None


@dataclass(frozen=True)
class Refusal:
    """One limit that is reached, and the seconds until a request may pass."""

    what: int
    limits: Limits
    wait_s: float

    @property
    def retry_after_s(self) -> int:
        """Whole seconds for Retry-After, never early."""
        return max(1, math.ceil(self.wait_s))

    @property
    def code(self) -> str:
        """OpenAI's code."""
        return OUT_OF_BUDGET if self.what in (BUDGET_DAY, BUDGET_MONTH) else RATE_LIMITED

    @property
    def type(self) -> str:
        """OpenAI's type: what has run out."""
        if self.code == OUT_OF_BUDGET:
            return OUT_OF_BUDGET
        return "tokens" if self.what == TOKENS else "requests"

    @property
    def message(self) -> str:
        """Words for callers: which limit of whom, and when to come back."""
        limits, wait = self.limits, self.retry_after_s
        if self.what == IN_FLIGHT:
            reached = f"{limits.requests_in_flight} requests in flight"
        elif self.what == REQUESTS:
            reached = f"{limits.requests_per_minute} requests per minute"
        elif self.what == TOKENS:
            reached = f"{limits.tokens_per_minute} tokens per minute"
        else:
            period = "day" if self.what == BUDGET_DAY else "month"
            return (
                f"The budget of {limits.subject} for this {period} is used up."
                f" The next {period} (UTC) begins in {wait} s."
            )
        return f"Rate limit reached for {limits.subject}: {reached}. Try again in {wait} s."


def read_limits(given: Any, *, scope: str, subject: str) -> Limits | None:
    """The limits in a table's entry; None where there are none. Raises ValueError or TypeError."""
    if given is None or given == {}:
        return None
    if not isinstance(given, dict):
        raise TypeError("limits must be a map")
    limits = Limits(
        scope,
        subject,
        requests_per_minute=_count(given, "requests_per_minute"),
        tokens_per_minute=_count(given, "tokens_per_minute"),
        requests_in_flight=_count(given, "requests_in_flight"),
        budget_usd_per_day=_money(given, "budget_usd_per_day"),
        budget_usd_per_month=_money(given, "budget_usd_per_month"),
    )
    return limits if limits.is_counted or limits.has_budget else None


def _count(given: dict[str, Any], name: str) -> int:
    value = given.get(name)
    if value is None:
        return 0
    if isinstance(value, bool) or int(value) < 1:
        raise ValueError(name)
    return int(value)


def _money(given: dict[str, Any], name: str) -> Decimal | None:
    value = given.get(name)
    if value is None:
        return None
    try:
        amount = Decimal(str(value))
    except InvalidOperation:
        raise ValueError(name) from None
    if not amount.is_finite() or amount < 0:
        raise ValueError(name)
    return amount
