"""Files of others are what they were when they were published, and the two halves of Plotly fit together."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

from django.conf import settings
from plotly.offline import get_plotlyjs_version

STATIC = Path(settings.BASE_DIR) / "static"


def listed() -> dict[str, str]:
    """Path under static/ -> SHA-256, from VENDORED.txt."""
    rows = [line.split(" | ") for line in (STATIC / "vendor" / "VENDORED.txt").read_text().splitlines()[3:]]
    return {row[3]: row[4] for row in rows}


def test_every_vendored_file_has_the_hash_it_was_published_with() -> None:
    for name, expected in listed().items():
        assert hashlib.sha256((STATIC / name).read_bytes()).hexdigest() == expected, name


def test_no_vendored_file_is_unlisted() -> None:
    folders = (STATIC / "vendor", STATIC / "fonts")
    files = {
        str(path.relative_to(STATIC)) for folder in folders for path in folder.rglob("*") if path.is_file()
    }
    assert files - {"vendor/VENDORED.txt"} <= listed().keys()


def test_figures_made_in_python_are_drawn_by_the_same_plotly() -> None:
    banner = (STATIC / "vendor" / f"plotly-basic-{get_plotlyjs_version()}.min.js").read_text()[:400]
    assert f"v{get_plotlyjs_version()}" in banner


def test_pages_use_only_icons_that_the_sprite_has() -> None:
    known = set(re.findall(r'id="i-([a-z0-9-]+)"', (STATIC / "icons.svg").read_text()))
    templates = (Path(settings.BASE_DIR) / "templates").rglob("*.html")
    used = {name for path in templates for name in re.findall(r'{% icon "([a-z0-9-]+)"', path.read_text())}
    assert used <= known
    from console.shell import MAIN, MANAGE
    from console.templatetags.raydeck import EVENT_ICONS, STATUS

    others = {row[4] for row in (*MAIN, *MANAGE)} | {row[1] for row in STATUS.values()}
    assert others | {row[0] for row in EVENT_ICONS.values()} <= known
