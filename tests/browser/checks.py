"""What every page must pass: nothing overflows, and axe finds no violation of WCAG 2.2 A and AA."""

from __future__ import annotations

from typing import Any

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page

WCAG = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"]

OVERFLOWING = """() => {
  const width = document.documentElement.clientWidth;
  const found = [];
  if (document.documentElement.scrollWidth > width) {
    found.push(`page ${document.documentElement.scrollWidth} > ${width}`);
  }
  const boxes = '.card, .kpi, td, .btn, .att, .st, .row, .ph, .banner, .top, dd, .field';
  for (const box of document.querySelectorAll(boxes)) {
    if (box.closest('.scroll, .snap, .tabs') || getComputedStyle(box).overflowX !== 'visible') continue;
    if (box.clientWidth && box.scrollWidth > box.clientWidth + 1) {
      const words = (box.textContent || '').trim().slice(0, 40);
      found.push(`${box.className || box.tagName}: ${words} ${box.scrollWidth} > ${box.clientWidth}`);
    }
  }
  return found;
}"""


def overflowing(page: Page) -> list[str]:
    """Boxes whose content is wider than they are, in words."""
    return list(page.evaluate(OVERFLOWING))


def violations(page: Page) -> list[str]:
    """axe's findings, in words."""
    answer: dict[str, Any] = Axe().run(page, options={"runOnly": WCAG}).response
    return [
        f"{rule['id']}: {', '.join(' '.join(node['target']) for node in rule['nodes'][:3])}"
        for rule in answer["violations"]
    ]
