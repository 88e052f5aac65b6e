"""Remembers which set-up steps are done, by a hash of what they depend on, so that a second run skips them.

A stamp is written only after its step has succeeded: whatever was interrupted is done again.
"""

import hashlib
from collections.abc import Iterable
from pathlib import Path


def digest_of(*, texts: Iterable[str], files: Iterable[Path]) -> str:
    """SHA-256 over the given texts and the files' names and contents; any change makes another digest."""
    total = hashlib.sha256()
    for text in texts:
        total.update(text.encode() + b"\0")
    for path in files:
        total.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return total.hexdigest()


def is_done(*, folder: Path, step: str, digest: str) -> bool:
    """Whether `step` last succeeded with exactly this digest."""
    stamp = folder / f"{step}.stamp"
    return stamp.is_file() and stamp.read_text().strip() == digest


def mark_done(*, folder: Path, step: str, digest: str) -> None:
    """Record that `step` succeeded."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{step}.stamp").write_text(digest + "\n")
