"""What may stand in the accelerator catalogue: each value checked, with a refusal that says what to do.

Pure but for the shipped catalogue's names: no queries here.
"""

from __future__ import annotations

import math
import re
from datetime import date, timedelta
from decimal import Decimal, InvalidOperation
from typing import Any

from console.models import Supply
from serving.accelerators import GIB, NAME, NAME_HELP, find, variant_names
from serving.errors import InvalidSpec

NUMBERS: dict[str, float] = {
    "memory_bandwidth_gb_per_s": 1e6,
    "tflops_16bit": 1e6,
    "tflops_fp8": 1e6,
    "tflops_fp4": 1e6,
    "intra_node_gb_per_s": 1e6,
    "inter_node_gb_per_s": 1e6,
}
"""Column -> largest value taken."""
TEXTS = {"vendor": 40, "variant": 60, "note": 500, "source": 300}
"""Column -> longest text taken."""
SPECIFICATION = (
    "vendor", "variant", "usable_bytes", *NUMBERS, "compute_capability", "accelerators_per_node", "source",
)  # fmt: skip
"""What `reset_accelerator` clears."""
EDITABLE = (*SPECIFICATION, "supply", "note")
LEAST_BYTES, MOST_BYTES = GIB, 1 << 44
MOST_PER_NODE = 1024
CAPABILITY = re.compile(r"^\d{1,2}\.\d$")
HIGHEST_PRICE_USD = Decimal(100_000)
FIRST_DAY = date(2000, 1, 1)
FURTHEST_AHEAD = timedelta(days=3660)


def checked_name(name: str) -> str:
    """A name for a new type; raises InvalidSpec."""
    name = name.strip()
    if not NAME.fullmatch(name):
        raise InvalidSpec(f"Use {NAME_HELP}.", field="name")
    if name.lower() == "cpu":
        raise InvalidSpec("“CPU” stands for serving without accelerators; choose another name.", field="name")
    if name.lower() == "new":
        raise InvalidSpec("“new” is an address of the console's own; choose another name.", field="name")
    return name


def checked_values(name: str, values: dict[str, Any]) -> dict[str, Any]:
    """Columns of EDITABLE as they are stored; None or empty text is no value. Raises InvalidSpec."""
    return {column: _checked_value(name, column, value) for column, value in values.items()}


def _checked_value(name: str, column: str, value: Any) -> Any:
    if column in NUMBERS:
        return None if value is None else _checked_number(column, value, NUMBERS[column])
    if column == "usable_bytes":
        return None if value is None else _checked_bytes(value)
    if column == "accelerators_per_node":
        return None if value is None else _checked_count(value)
    text = "" if value is None else str(value).strip()
    if column == "supply":
        if text not in Supply.values:
            raise InvalidSpec("Choose owned, rented or neither.", field="supply")
        return text
    if column == "compute_capability":
        if text and not CAPABILITY.fullmatch(text):
            raise InvalidSpec("A compute capability looks like 9.0.", field="compute_capability")
        return text
    text = _one_line(column, text)
    return _checked_variant(name, text) if column == "variant" else text


def _checked_number(column: str, value: Any, most: float) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        raise InvalidSpec("Give a number.", field=column) from None
    if not math.isfinite(number) or number <= 0:
        raise InvalidSpec("Give a number above 0, or nothing where it is not known.", field=column)
    if number > most:
        raise InvalidSpec(f"That is more than {most:,.0f}: check the unit.", field=column)
    return number


def _checked_bytes(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise InvalidSpec("Give the memory in whole bytes.", field="usable_bytes")
    if not LEAST_BYTES <= value <= MOST_BYTES:
        raise InvalidSpec(
            "The memory of one accelerator is at least 1 GiB and at most 16 TiB.", field="usable_bytes"
        )
    return value


def _checked_count(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= MOST_PER_NODE:
        raise InvalidSpec(f"Give a whole number from 1 to {MOST_PER_NODE:,}.", field="accelerators_per_node")
    return value


def _one_line(column: str, value: Any) -> str:
    text = " ".join(str(value).split())
    if len(text) > TEXTS[column]:
        raise InvalidSpec(f"Keep it under {TEXTS[column]} characters.", field=column)
    if not text.isprintable():
        raise InvalidSpec("Write one line of plain text.", field=column)
    return text


def _checked_variant(name: str, text: str) -> str:
    """One of the shipped variants where there are some; any name for a type of one's own."""
    names = variant_names(name)
    if not text or not names:
        return text
    known = find(name, text)
    if known is None:
        raise InvalidSpec(f"Choose one of {', '.join(names)}.", field="variant")
    return known.variant


def checked_price(value: Decimal | float | str) -> Decimal:
    """US dollars per hour with at most six decimals; raises InvalidSpec."""
    try:
        usd = Decimal(str(value))
    except InvalidOperation:
        raise InvalidSpec(
            "Give the price as a number of US dollars, such as 2.18.", field="usd_per_hour"
        ) from None
    if not usd.is_finite() or usd < 0:
        raise InvalidSpec("A price is 0 or more US dollars per hour.", field="usd_per_hour")
    if usd > HIGHEST_PRICE_USD:
        raise InvalidSpec(f"That is more than ${HIGHEST_PRICE_USD:,} per hour.", field="usd_per_hour")
    exact = usd.quantize(Decimal("0.000001"))
    if exact != usd:
        raise InvalidSpec("Give at most six decimals.", field="usd_per_hour")
    return abs(exact)  # minus nought is nought


def checked_source(text: str) -> str:
    """Where a price is from; raises InvalidSpec."""
    source = _one_line("source", text)
    if not source:
        raise InvalidSpec(
            "Say where the price is from, such as the contract or the price page.", field="source"
        )
    return source


def check_day(day: date, today: date) -> None:
    """Raises InvalidSpec for a day that no price can be from."""
    if day < FIRST_DAY:
        raise InvalidSpec("The day lies before 2000.", field="from_date")
    if day > today + FURTHEST_AHEAD:
        raise InvalidSpec("The day lies more than ten years ahead.", field="from_date")


def is_number(column: str) -> bool:
    """Whether a column holds a number, so that no value is null and not empty text."""
    return column in NUMBERS or column in ("usable_bytes", "accelerators_per_node")
