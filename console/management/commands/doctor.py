"""`python manage.py doctor`: ask every part and say what is wrong and what to do."""

import json
import os
import sys
import urllib.error
import urllib.request
from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand

from console import parts, paths, ports
from console.probes import TIMEOUT_S, PartState, probe_all
from console.supervisor.record import ChildrenRecord

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
        self._follow_the_running_copy()
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

    def _follow_the_running_copy(self) -> None:
        """Start over with the ports of the copy that runs on this data folder, where this shell's are others.

        The settings were read with this shell's; asking there would call every part of a well copy dead.
        """
        running = ChildrenRecord(paths.run_dir()).running_ports()
        other = {name: number for name, number in running.items() if number != ports.port(name)}
        if not other:
            return
        self.stderr.write(_said_of(other))
        given = {ports.PORTS[name].variable: str(number) for name, number in other.items()}
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], {**os.environ, **given})  # noqa: S606

    def _line(self, state: PartState) -> str:
        word = f"{state.state:<4}"
        if self.stdout.isatty():
            word = f"{COLOURS[state.state]}{word}\033[0m"
        line = f"{word}  {state.name:<10} {state.summary}"
        return f"{line}\n                 → {state.advice}" if state.advice else line


def _said_of(other: dict[str, int]) -> str:
    """That a copy runs elsewhere, where, and what to set in this shell."""
    where = ", ".join(f"{ports.PORTS[name].purpose} {number}" for name, number in list(other.items())[:2])
    offsets = {number - ports.PORTS[name].default for name, number in other.items()}
    if len(offsets) == 1:
        advice = f"RAYDECK_PORT_OFFSET={offsets.pop()}"
    else:
        advice = ", ".join(f"{ports.PORTS[name].variable}={number}" for name, number in other.items())
    return (
        f"A copy runs on {paths.data_dir()} with other ports than this shell's ({where}, …): those are asked."
        f" Set {advice} here, so that every command finds it."
    )


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
