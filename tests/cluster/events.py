"""Reads a streamed answer off the socket, with the time at which each piece arrived."""

import json
import socket
import time
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Stream:
    """An open streamed request. `pieces`: (seconds since the request, bytes) as the kernel gave them."""

    connection: socket.socket
    sent_at: float
    pieces: list[tuple[float, bytes]] = field(default_factory=list)

    @property
    def text(self) -> str:
        return b"".join(piece for _, piece in self.pieces).decode(errors="replace")

    @property
    def request_id(self) -> str:
        lines = [line for line in self.text.splitlines() if line.lower().startswith("x-request-id:")]
        assert len(lines) == 1, lines
        return lines[0].split(":", 1)[1].strip()

    def read_events(self, count: int) -> None:
        """Reads until `count` events are there or the stream has ended."""
        while self.text.count("data: ") < count and self.read():
            continue

    def read_to_end(self) -> None:
        while self.read():
            continue

    def read(self) -> bool:
        piece = self.connection.recv(65536)
        if piece:
            self.pieces.append((time.monotonic() - self.sent_at, piece))
        return bool(piece)

    def close(self) -> None:
        self.connection.close()


def open_stream(port: int, *, key: str, model: str, **fields: Any) -> Stream:
    """Sends a streamed chat request and returns at once."""
    body = {"model": model, "messages": [{"role": "user", "content": "Count."}], "stream": True, **fields}
    data = json.dumps(body).encode()
    lines = [
        "POST /v1/chat/completions HTTP/1.1",
        "Host: gateway",
        f"Authorization: Bearer {key}",
        "Content-Type: application/json",
        f"Content-Length: {len(data)}",
        "Connection: close",
    ]
    connection = socket.create_connection(("127.0.0.1", port), timeout=60)
    stream = Stream(connection, time.monotonic())
    connection.sendall("\r\n".join(lines).encode() + b"\r\n\r\n" + data)
    return stream
