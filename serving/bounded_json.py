"""Reads JSON objects written by strangers, with a bound on bytes, memory and time.

Every failure is an `Unreadable` with one plain sentence; nothing else escapes. It must not be used for
files of our own making, which deserve a traceback when they are broken.
"""

import json
import os
import stat
from pathlib import Path
from typing import Any, NoReturn

BYTES_PER_BRACKET = 12
"""Honest files have fewer than one bracket in this many bytes; a file of nothing but `[],[],…` becomes
some twenty times its size in memory."""
BYTES_PER_QUOTE = 4


class Unreadable(Exception):
    """The file cannot be used; the message is a sentence without the file's name in front."""


def read_bytes(path: Path, *, limit_bytes: int) -> bytes:
    """The content of a regular file of at most `limit_bytes`."""
    try:
        # Without O_NONBLOCK, opening a named pipe would wait for ever for somebody to write into it.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except (OSError, ValueError) as error:
        raise Unreadable(f"cannot be opened: {_reason(error)}") from None
    status = os.fstat(descriptor)
    # Before fdopen, which raises for a folder.
    if not stat.S_ISREG(status.st_mode):
        os.close(descriptor)
        raise Unreadable("is a folder" if stat.S_ISDIR(status.st_mode) else "is not a regular file")
    with os.fdopen(descriptor, "rb") as handle:
        if status.st_size > limit_bytes:
            raise Unreadable(f"is {status.st_size:,} bytes, more than the {limit_bytes:,} that are read")
        try:
            return handle.read(limit_bytes)
        except OSError as error:
            raise Unreadable(f"cannot be read: {_reason(error)}") from None


def read_object(path: Path, *, limit_bytes: int) -> dict[str, Any]:
    """The JSON object in a file."""
    return parse_object(read_bytes(path, limit_bytes=limit_bytes))


def parse_object(raw: bytes) -> dict[str, Any]:
    """The JSON object in `raw` (UTF-8). NaN and Infinity are refused, as in the standard."""
    _refuse_bloat(raw)
    try:
        text = raw.decode("utf-8")
        value = json.loads(text, parse_constant=_refuse_constant)
    except UnicodeDecodeError as error:
        raise Unreadable(f"is not UTF-8 text (byte {error.start})") from None
    except json.JSONDecodeError as error:
        cut_off = error.pos >= len(text.rstrip()) or error.msg.startswith("Unterminated")
        raise Unreadable(
            f"is not valid JSON: {error.msg} (line {error.lineno}, column {error.colno})"
            + ("; the file seems to be cut off" if cut_off else "")
        ) from None
    except RecursionError:
        raise Unreadable("is nested too deeply") from None
    except ValueError:
        raise Unreadable("is not valid JSON: a number in it is too long") from None
    if not isinstance(value, dict):
        raise Unreadable(f"holds {_kind(value)} where a JSON object is expected")
    return value


def _refuse_bloat(raw: bytes) -> None:
    brackets = raw.count(b"[") + raw.count(b"{")
    quotes = raw.count(b'"')
    if brackets > 2000 + len(raw) // BYTES_PER_BRACKET or quotes > 8000 + len(raw) // BYTES_PER_QUOTE:
        raise Unreadable("has a structure far denser than any model's file")


def _refuse_constant(name: str) -> NoReturn:
    raise Unreadable(f"is not valid JSON: {name} is no number there")


def _kind(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true or false"
    if isinstance(value, (int, float)):
        return "a number"
    return "text" if isinstance(value, str) else "a list"


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    return "the name is not a valid path"
