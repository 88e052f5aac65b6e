"""`python manage.py doctor`: ask every part and say what is wrong and what to do."""

import json
import sys
import urllib.error
import urllib.request
from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand

from console import parts
from console.probes import TIMEOUT_S, PartState, probe_all

COLOURS = {"ok": "\033[32m", "warn": "\033[33m", "fail": "\033[31m"}


class Command(BaseCommand):
    """Prints one line per part; the exit code is 1 when a part fails."""

    help = "Ask every part of this copy how it is; exit code 1 when something fails."
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Adds --json."""
        parser.add_argument("--json", action="store_true", help="print one JSON object")

    def handle(self, *args: Any, **options: Any) -> None:
        """Ask, print, and end with 0 or 1."""
        states = [_web(), *probe_all()]
        healthy = all(state.state != "fail" for state in states)
        if options["json"]:
            self.stdout.write(
                json.dumps({"healthy": healthy, "parts": [state.as_json() for state in states]}, indent=2)
            )
        else:
            for state in states:
                self.stdout.write(self._line(state))
        if not healthy:
            sys.exit(1)

    def _line(self, state: PartState) -> str:
        word = f"{state.state:<4}"
        if self.stdout.isatty():
            word = f"{COLOURS[state.state]}{word}\033[0m"
        line = f"{word}  {state.name:<10} {state.summary}"
        return f"{line}\n                 → {state.advice}" if state.advice else line


def _web() -> PartState:
    """Whether the console's own address answers."""
    address = f"{parts.local_web_url()}/healthz"
    try:
        with urllib.request.urlopen(address, timeout=TIMEOUT_S) as answer:
            if answer.status == 200:
                return PartState("web", "ok", f"{parts.local_web_url()} answers")
            return PartState("web", "fail", f"{address} answered {answer.status}", "See logs/web.log.")
    except urllib.error.HTTPError as error:
        said = f"{address} answered {error.code}"
        return PartState("web", "fail", said, "Another program may listen there, or see logs/web.log.")
    except OSError:
        return PartState(
            "web", "fail", f"{parts.local_web_url()} does not answer", "Start it with `make run`."
        )
