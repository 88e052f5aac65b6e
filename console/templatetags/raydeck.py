"""Template tags and filters: number formats of console/formats.py, status pills, icons, small SVG drawings.

Every drawing is SVG with attributes, never an inline style, which the page's policy forbids. No queries here.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

from django import template
from django.conf import settings
from django.utils.html import escape, format_html
from django.utils.safestring import SafeString, mark_safe

from console import formats
from console.formats import MISSING, NO_BREAK, Number, duration, gib, percent

register = template.Library()

STATUS = {
    "ready": ("ok", "circle-check", "Ready"),
    "over_slo": ("warn", "triangle-alert", "Over SLO"),
    "failed": ("bad", "octagon-x", "Failed"),
    "loading": ("info", "loader-circle", "Loading"),
    "warming": ("info", "loader-circle", "Warming"),
    "placing": ("info", "loader-circle", "Placing"),
    "queued": ("", "clock", "Queued"),
    "asleep": ("", "moon", "Asleep"),
    "stopped": ("", "circle-stop", "Stopped"),
    "unknown": ("warn", "wifi-off", "Unknown"),
}
"""Status word -> (colour class, icon, label): the words of the API, plus unknown for stale observations."""

EVENT_ICONS = {
    "ok": ("circle-check", "ok"),
    "warn": ("triangle-alert", "warn"),
    "bad": ("octagon-x", "bad"),
    "info": ("info", "info"),
}


for _format in (
    formats.ms,
    formats.seconds,
    formats.duration,
    formats.gib,
    formats.usd,
    formats.rate,
    formats.tokens_per_second,
    formats.number,
    formats.capacity,
    formats.count,
    formats.context_tokens,
    formats.percent,
):
    register.filter(_format.__name__, _format)


@register.filter
def muted_unit(text: str) -> SafeString:
    """The same text with its unit in the muted colour."""
    value, gap, unit = str(text).rpartition(NO_BREAK)
    if not gap:
        return format_html("{}", text)
    return format_html('{}{}<span class="dim">{}</span>', value, gap, unit)


# --- time --------------------------------------------------------------------------------------------------


def _as_datetime(value: datetime | Number) -> datetime:
    return value if isinstance(value, datetime) else datetime.fromtimestamp(float(value), UTC)


@register.filter
def clock(value: datetime | Number | None) -> SafeString:
    """A <time> with the full ISO time in title; the browser rewrites its text to local 24 h time."""
    if value is None or value == "":
        return mark_safe(MISSING)
    moment = _as_datetime(value)
    iso = moment.isoformat(timespec="seconds")
    return format_html(
        '<time datetime="{}" title="{}" data-clock>{}</time>', iso, iso, moment.strftime("%-d %b %H:%M")
    )


@register.filter
def ago(value: datetime | Number | None, now: Number | None = None) -> str:
    """How long ago, as a duration without a word around it."""
    if value is None or value == "":
        return MISSING
    until = float(now) if now is not None else datetime.now(UTC).timestamp()
    return duration(max(0.0, until - _as_datetime(value).timestamp()))


@register.filter
def seconds_since(value: Number, now: Number) -> str:
    """Seconds from one epoch time to another, for a script that counts on."""
    return f"{max(0.0, float(now) - float(value)):.1f}"


# --- marks -------------------------------------------------------------------------------------------------


@lru_cache(maxsize=1)
def _sprite_text() -> str:
    return (Path(settings.BASE_DIR) / "static" / "icons.svg").read_text()


@register.simple_tag
def icon_sprite() -> SafeString:
    """The page's one sprite, from our own file static/icons.svg."""
    return mark_safe(_sprite_text())


@register.simple_tag
def icon(name: str, classes: str = "") -> SafeString:
    """A decorative icon of the sprite."""
    return format_html('<svg class="i {}" aria-hidden="true"><use href="#i-{}"/></svg>', classes, name)


@register.simple_tag
def status(phase: str, label: str = "", bare: bool = False) -> SafeString:
    """A status pill: icon shape and word carry the meaning, colour repeats it."""
    colour, name, word = STATUS.get(phase, STATUS["unknown"])
    spin = "spin" if name == "loader-circle" else ""
    return format_html(
        '<span class="st {} {}">{}{}</span>', colour, "bare" if bare else "", icon(name, spin), label or word
    )


@register.simple_tag
def event_icon(level: str) -> SafeString:
    """The icon of an event's level."""
    name, colour = EVENT_ICONS.get(level, EVENT_ICONS["info"])
    return icon(name, f"i-s {colour}")


@register.simple_tag
def spark(values: Iterable[Number | None], width: int = 84, height: int = 22, colour: int = 0) -> SafeString:
    """A sparkline; a missing value is a gap. `colour` is a palette index, 0 for the muted text colour."""
    points = list(values or [])
    known = [float(value) for value in points if value is not None]
    if len(known) < 3:
        return mark_safe("")
    top = max(known) or 1.0
    step = width / (len(points) - 1)
    path, drawing = [], False
    for index, value in enumerate(points):
        if value is None:
            drawing = False
            continue
        y = height - 2 - float(value) / top * (height - 4)
        path.append(f"{'L' if drawing else 'M'}{index * step:.1f} {y:.1f}")
        drawing = True
    return format_html(
        '<svg class="spark spark-{}" width="{}" height="{}" viewBox="0 0 {} {}" aria-hidden="true">'
        '<path d="{}"/></svg>',
        colour, width, height, width, height, "".join(path),
    )  # fmt: skip


def _rect(colour_class: str, x: float, width: float, height: int) -> str:
    return f'<rect class="{escape(colour_class)}" x="{x:.2f}" width="{width:.2f}" height="{height}"/>'


@register.simple_tag
def segment_bar(parts: Iterable[tuple[str, int, str]]) -> SafeString:
    """A bar of (colour class, amount, word) segments with its own text alternative."""
    shown = [(kind, amount, word) for kind, amount, word in parts if amount]
    total = sum(amount for _, amount, _ in shown)
    if not total:
        return mark_safe('<svg class="segbar" aria-hidden="true"></svg>')
    label = ", ".join(f"{amount} {word}" for _, amount, word in shown)
    gap, position, rects = 1.2, 0.0, []
    usable = 100 - gap * (len(shown) - 1)
    for kind, amount, _ in shown:
        share = usable * amount / total
        rects.append(
            f'<rect class="{escape(kind)}" x="{position:.2f}" width="{share:.2f}" height="6" rx="0.6"/>'
        )
        position += share + gap
    return format_html(
        '<svg class="segbar" viewBox="0 0 100 6" preserveAspectRatio="none" role="img" aria-label="{}">{}'
        "</svg>",
        label, mark_safe("".join(rects)),
    )  # fmt: skip


@register.simple_tag
def meter(share: Number | None, label: str = "") -> SafeString:
    """A thin bar filled to `share` (0 to 1)."""
    filled = 100 * min(1.0, max(0.0, float(share or 0)))
    return format_html(
        '<svg class="meter" viewBox="0 0 100 6" preserveAspectRatio="none" role="img" aria-label="{}">'
        '<rect class="track" width="100" height="6"/><rect class="fill" width="{}" height="6"/></svg>',
        label or percent(share), f"{filled:.2f}",
    )  # fmt: skip


@register.simple_tag
def membar(
    weights_bytes: Number | None,
    kv_bytes: Number | None,
    rest_bytes: Number | None,
    total_bytes: Number | None = None,
) -> SafeString:
    """Memory as parts (weights, KV cache, rest) of a total; always with numbers in its text alternative."""
    parts = [("w", weights_bytes, "weights"), ("k", kv_bytes, "KV cache"), ("o", rest_bytes, "rest")]
    used = sum(float(amount or 0) for _, amount, _ in parts)
    total = max(float(total_bytes or 0), used) or 1.0
    position, rects = 0.0, []
    for kind, amount, _ in parts:
        width = 100 * float(amount or 0) / total
        if width:
            rects.append(
                f'<rect class="{kind}" x="{position:.2f}" width="{max(0.0, width - 0.3):.2f}" height="10"/>'
            )
        position += width
    words = ", ".join(f"{word} {gib(amount)}" for _, amount, word in parts)
    label = f"{words}, of {gib(total_bytes)}" if total_bytes else words
    return format_html(
        '<svg class="membar" data-membar viewBox="0 0 100 10" preserveAspectRatio="none" role="img" '
        'aria-label="{}">'
        '<rect class="f" width="100" height="10"/>{}</svg>',
        label, mark_safe("".join(rects)),
    )  # fmt: skip


# --- data for scripts --------------------------------------------------------------------------------------

_SCRIPT_ESCAPES = {ord(">"): "\\u003E", ord("<"): "\\u003C", ord("&"): "\\u0026"}


@register.simple_tag
def json_block(element_id: str, value: Any) -> SafeString:
    """A JSON data block for scripts; text that is JSON already is passed through. Decimals become strings."""
    text = value if isinstance(value, str) else json.dumps(value, default=str, separators=(",", ":"))
    return format_html(
        '<script type="application/json" id="{}">{}</script>',
        element_id, mark_safe(text.translate(_SCRIPT_ESCAPES)),
    )  # fmt: skip


@register.filter
def pretty(value: Any) -> str:
    """Stored JSON as people read it."""
    return json.dumps(value, indent=2, ensure_ascii=False, default=str)


@register.filter
def get(mapping: dict[str, Any], key: str) -> Any:
    """Look a key up that is only known at run time; None when it is not there."""
    return mapping.get(key) if mapping else None
