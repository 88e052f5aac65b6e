"""One log file per part, rotated by size while the part keeps writing to it.

The part writes straight into the file (no pipe through the supervisor that could block or be lost), so a
full file is copied aside and emptied; opened for appending, the next line starts at its beginning.
"""

import os
import shutil
from pathlib import Path
from typing import BinaryIO

LARGEST_LOG_BYTES = 10 * 1024 * 1024
KEPT_LOGS = 3


def open_log(folder: Path, part: str) -> BinaryIO:
    """The part's log, open for appending and readable by its owner alone."""
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder / f"{part}.log", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    return os.fdopen(descriptor, "ab")


def rotate_if_large(path: Path, *, largest_bytes: int = LARGEST_LOG_BYTES, kept: int = KEPT_LOGS) -> bool:
    """Move a log beyond `largest_bytes` to `.1` (older ones to `.2`, … up to `kept`); whether it did."""
    try:
        if path.stat().st_size <= largest_bytes:
            return False
    except FileNotFoundError:
        return False
    for number in range(kept - 1, 0, -1):
        older = path.with_name(f"{path.name}.{number}")
        if older.exists():
            older.replace(path.with_name(f"{path.name}.{number + 1}"))
    shutil.copy2(path, path.with_name(f"{path.name}.1"))
    os.truncate(path, 0)
    return True
