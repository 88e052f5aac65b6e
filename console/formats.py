"""The number formats of the console; static/js/fmt.js mirrors them in the browser, tests compare the two.

Functions take base units (seconds, bytes, US dollars, a share from 0 to 1) and give text with a no-break
space between number and unit. A missing value is an en dash; 0 is shown only where 0 was measured. No Django.
"""

from __future__ import annotations

import math
from decimal import Decimal
from typing import Any

NO_BREAK = "\u00a0"
MISSING = "–"
MINUS = "−"
GIB = 1 << 30
Number = int | float | Decimal


def _fixed(value: Number, decimals: int) -> str:
    text = f"{abs(value):,.{decimals}f}"
    negative = value < 0 and float(text.replace(",", "")) != 0
    return f"{MINUS}{text}" if negative else text


def _is_missing(value: Any) -> bool:
    return value is None or value == "" or (isinstance(value, float) and not math.isfinite(value))


def ms(seconds: Number | None) -> str:
    """A latency in seconds: 9.10 ms, 21.4 ms, 1,240 ms, 14.2 s."""
    if seconds is None or _is_missing(seconds):
        return MISSING
    value = float(seconds) * 1000
    if value < 9.995:
        return f"{_fixed(value, 2)}{NO_BREAK}ms"
    if value < 99.95:
        return f"{_fixed(value, 1)}{NO_BREAK}ms"
    if value < 9999.5:
        return f"{_fixed(value, 0)}{NO_BREAK}ms"
    return f"{_fixed(value / 1000, 1)}{NO_BREAK}s"


def seconds(value: Number | None) -> str:
    """An end-to-end latency, always in seconds: 0.84 s, 4.1 s, 14.2 s."""
    if value is None or _is_missing(value):
        return MISSING
    return f"{_fixed(float(value), 2 if float(value) < 0.995 else 1)}{NO_BREAK}s"


def duration(value: Number | None) -> str:
    """A span in seconds as its two largest parts: 2 min 24 s, 5 h 17 min, 11 min."""
    if value is None or _is_missing(value):
        return MISSING
    whole = max(0, round(float(value)))
    if whole < 1:
        return f"<{NO_BREAK}1{NO_BREAK}s" if float(value) > 0 else f"0{NO_BREAK}s"
    parts = []
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min"), (1, "s")):
        amount, whole = divmod(whole, size)
        parts.append((amount, unit))
    first = next(index for index, (amount, _) in enumerate(parts) if amount)
    shown = [f"{amount}{NO_BREAK}{unit}" for amount, unit in parts[first : first + 2] if amount]
    return " ".join(shown)


def gib(size_bytes: Number | None) -> str:
    """Bytes as MiB below 1 GiB's tenth, GiB with one decimal, TiB with two: 61 MiB, 32.9 GiB, 1.85 TiB."""
    if size_bytes is None or _is_missing(size_bytes):
        return MISSING
    value = float(size_bytes) / GIB
    if value >= 1024:
        return f"{_fixed(value / 1024, 2)}{NO_BREAK}TiB"
    if value >= 0.1 or value == 0:
        return f"{_fixed(value, 1) if value else '0'}{NO_BREAK}GiB"
    mib = value * 1024
    if mib >= 10:
        return f"{_fixed(mib, 0)}{NO_BREAK}MiB"
    if mib >= 0.1:
        return f"{_fixed(mib, 1)}{NO_BREAK}MiB"
    return f"{_fixed(mib * 1024, 1)}{NO_BREAK}KiB"


def usd(amount: Number | str | None) -> str:
    """US dollars: $0.00012 below a cent, $19.92 below a thousand, $29,514 above."""
    if amount is None or _is_missing(amount):
        return MISSING
    value = Decimal(str(amount))
    sign = MINUS if value < 0 else ""
    value = abs(value)
    if value == 0:
        return "$0.00"
    if value < Decimal("0.01"):
        return f"{sign}${value:.5f}" if value >= Decimal("0.000005") else f"<{NO_BREAK}$0.00001"
    return f"{sign}${value:,.0f}" if value >= 1000 else f"{sign}${value:,.2f}"


def rate(amount_per_hour: Number | str | None) -> str:
    """US dollars per hour: $19.92/h."""
    if amount_per_hour is None or _is_missing(amount_per_hour):
        return MISSING
    return f"{usd(amount_per_hour)}/h"


def tokens_per_second(value: Number | None) -> str:
    """Throughput: 6,650 tok/s, 4.2 tok/s."""
    if value is None or _is_missing(value):
        return MISSING
    return f"{_fixed(float(value), 0 if float(value) >= 10 or value == 0 else 1)}{NO_BREAK}tok/s"


def number(value: Number | None) -> str:
    """A number with thousands commas: whole from 10 on, one decimal below where it has one."""
    if value is None or _is_missing(value):
        return MISSING
    amount = float(value)
    is_whole = abs(amount) >= 10 or amount == round(amount)
    return _fixed(amount, 0 if is_whole else 1)


def capacity(value: Number | None) -> str:
    """How many fit, never rounded up: one decimal below 100, whole above."""
    if value is None or _is_missing(value):
        return MISSING
    amount = float(value)
    if amount >= 100 or amount == round(amount):
        return _fixed(math.floor(amount), 0)
    return _fixed(math.floor(amount * 10) / 10, 1)


def count(value: Number | None) -> str:
    """A large count with at most three digits: 126, 12.4k, 461k, 2.16 B."""
    if value is None or _is_missing(value):
        return MISSING
    amount = float(value)
    steps: tuple[tuple[float, str], ...] = ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k"))
    for size, unit in steps:
        if abs(amount) >= size * 0.9995 and (unit != "k" or abs(amount) >= 10_000):
            scaled = amount / size
            decimals = 2 if scaled < 10 else 1 if scaled < 100 else 0
            gap = "" if unit == "k" else NO_BREAK
            return f"{_fixed(scaled, decimals)}{gap}{unit}"
    return _fixed(amount, 0)


def context_tokens(value: int | None) -> str:
    """A context length in binary thousands: 512, 16k, 128k."""
    if value is None or _is_missing(value):
        return MISSING
    if value >= 1024 and value % 1024 == 0:
        return f"{value // 1024:,}k"
    return f"{value:,}"


def percent(share: Number | None) -> str:
    """A share from 0 to 1: 97%, 1.6%."""
    if share is None or _is_missing(share):
        return MISSING
    value = float(share) * 100
    return f"{_fixed(value, 1 if 0 < abs(value) < 9.95 else 0)}%"
