"""The supervisor's own lines: concise on the terminal, in colour where it is one, and kept in a file."""

import sys
import time
from pathlib import Path
from typing import TextIO

COLOURS = {"good": "\033[32m", "bad": "\033[31m", "warn": "\033[33m", "plain": ""}


class Voice:
    """Says lines as `[up] …`. What is marked secret goes to the terminal only, never to the file."""

    def __init__(self, *, log: Path | None = None, stream: TextIO | None = None) -> None:
        self._log = log
        self._stream: TextIO | None = stream or sys.stdout

    def say(self, text: str, *, tone: str = "plain", secret: bool = False) -> None:
        """Print one line now; `tone` is good, bad, warn or plain."""
        line = f"[up] {text}"
        self._print(line, colour=COLOURS[tone])
        if self._log is not None and not secret:
            with self._log.open("a") as handle:
                handle.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {line}\n")

    def _print(self, line: str, *, colour: str) -> None:
        if self._stream is None:
            return
        try:
            coloured = colour and self._stream.isatty()
            print(f"{colour}{line}\033[0m" if coloured else line, file=self._stream, flush=True)
        except OSError:
            # The terminal is gone; stopping everything in order matters more than telling it.
            self._stream = None
