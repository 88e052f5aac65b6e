"""Template tags of plans: verdict pills, a bar of memory parts, words for a topology's distinctions.

Drawings are SVG with attributes; the page's policy forbids inline styles. No queries here.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from django import template
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString, mark_safe

from console.formats import MINUS, NO_BREAK, gib, percent
from console.templatetags.raydeck import icon

if TYPE_CHECKING:
    from console.deployment_plan import BarPart

register = template.Library()

PILLS = {
    "fits": ("y", "check", "Fits"),
    "tight": ("t", "triangle-alert", "Tight"),
    "does_not_fit": ("b", "x", "Does not fit"),
    "refused": ("b", "x", "Refused"),
    "unknown": ("t", "circle-help", "Unknown"),
    "faulty_files": ("t", "triangle-alert", "Files are faulty"),
    "invalid": ("t", "triangle-alert", "Not valid"),
}
"""Verdict -> (colour class, icon, word); `incomplete` and `unread` have no pill."""

MARKS = {
    "best_latency": "Best for latency",
    "best_cost": "Best for cost",
    "smallest": "Smallest that fits",
}


@register.simple_tag
def plan_pill(verdict: str) -> SafeString:
    """The verdict as an icon and a word; colour repeats it."""
    if verdict not in PILLS:
        return mark_safe("")
    colour, name, word = PILLS[verdict]
    return format_html('<span class="fit {}">{}{}</span>', colour, icon(name), word)


@register.simple_tag
def mark_word(mark: str) -> str:
    """What distinguishes a topology, in words."""
    return MARKS.get(mark, mark)


@register.simple_tag
def swatch(kind: str) -> SafeString:
    """The colour of one part of a memory bar."""
    return format_html(
        '<svg class="sw8 membar-key" viewBox="0 0 8 8" aria-hidden="true">'
        '<rect class="{}" width="8" height="8" rx="2"/></svg>',
        kind,
    )


@register.simple_tag
def partbar(parts: Iterable[BarPart], limit_share: float | None = None) -> SafeString:
    """Memory by part, with a mark at the utilisation limit; its text alternative names every part."""
    shown = list(parts)
    if not shown:
        return mark_safe("")
    position, rects = 0.0, []
    for part in shown:
        rects.append((part.kind, f"{position:.2f}", f"{max(0.0, 100 * part.share - 0.3):.2f}"))
        position += 100 * part.share
    label = ", ".join(f"{part.label} {gib(part.size)} ({percent(part.share)})" for part in shown)
    if limit_share is not None:
        rects.append(("lim", f"{max(0.0, 100 * limit_share - 0.3):.2f}", "0.6"))
        label += f"; the utilisation limit is at {percent(limit_share)}"
    drawn = format_html_join("", '<rect class="{}" x="{}" width="{}" height="10"/>', rects)
    return format_html(
        '<svg class="membar tall" viewBox="0 0 100 10" preserveAspectRatio="none" role="img" '
        'aria-label="{}"><rect class="f" width="100" height="10"/>{}</svg>',
        label, drawn,
    )  # fmt: skip


@register.simple_tag
def signed_percent(share: float) -> str:
    """A difference as text: +1.2 %, −0.3 %, 0 %."""
    if abs(share) < 0.0005:
        return f"0{NO_BREAK}%"
    return f"{'+' if share > 0 else MINUS}{abs(share) * 100:.1f}{NO_BREAK}%"
