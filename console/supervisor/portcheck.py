"""Before anything starts: which of our ports are taken, by whom, and which variable changes them."""

import errno
import socket
from collections.abc import Iterable
from dataclasses import dataclass

import psutil

from console.ports import PORTS, port
from console.supervisor.identity import command_of


@dataclass(frozen=True)
class PortConflict:
    """A port that cannot be listened on, and why."""

    name: str
    number: int
    reason: str

    def __str__(self) -> str:
        entry = PORTS[self.name]
        return f"port {self.number} ({entry.purpose}) {self.reason}; {entry.variable} changes it"


def conflicts(names: Iterable[str], *, host: str = "127.0.0.1") -> list[PortConflict]:
    """Every one of the named ports that cannot be had on `host`, or that two of our parts would share."""
    found = []
    seen: dict[int, str] = {}
    for name in names:
        number = port(name)
        if number in seen:
            reason = f"is also that of {PORTS[seen[number]].purpose} ({PORTS[seen[number]].variable})"
            found.append(PortConflict(name, number, reason))
            continue
        seen[number] = name
        reason = _why_not(host, number)
        if reason:
            found.append(PortConflict(name, number, reason))
    return found


def holder_of(number: int) -> str:
    """Who uses a TCP port: 'pid 4711 (python -m http.server)', or that it cannot be seen."""
    for connection in psutil.net_connections(kind="tcp"):
        if connection.laddr and connection.laddr.port == number and connection.pid:
            return f"pid {connection.pid} ({command_of(connection.pid)[:80]})"
    return "a process of another user"


def _why_not(host: str, number: int) -> str:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        # As servers do: connections of a copy that has just stopped are no obstacle.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, number))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                return f"is taken by {holder_of(number)}"
            return f"cannot be used on {host}: {error.strerror}"
    return ""
