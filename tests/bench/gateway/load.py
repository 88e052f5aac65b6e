"""A load generator: one process, raw HTTP/1.1 over kept connections to loopback, bounded in count and time.

Written here because what is measured are chunk boundaries and moments of arrival, which client libraries
hide;
a client in Python that parses nothing more costs little beside the systems it asks.
"""

import asyncio
import json
import re
import statistics
import time
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from tests.bench.gateway import answers

STAMP = re.compile(rb'"content":\s?"(\d+\.\d+) "')
REQUEST_WITHIN_S = 60.0


@dataclass
class Target:
    """Where to ask: `url` of chat completions and the bearer key."""

    url: str
    key: str


@dataclass
class Outcome:
    """Times in seconds. `delays_s`: from the making of a piece to its arrival; `merged`: pieces that came in
    one HTTP chunk with an earlier one."""

    seconds: float = 0.0
    unary_s: list[float] = field(default_factory=list)
    ttft_s: list[float] = field(default_factory=list)
    delays_s: list[float] = field(default_factory=list)
    pieces: int = 0
    merged: int = 0
    failed: int = 0

    @property
    def requests(self) -> int:
        """Requests answered well."""
        return len(self.unary_s) + len(self.ttft_s)

    @property
    def per_s(self) -> float:
        """Requests per second."""
        return self.requests / self.seconds if self.seconds else 0.0


def quantile(values: list[float], q: float) -> float:
    """The q-quantile of measured values; not a number where nothing was measured."""
    if not values:
        return float("nan")
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(q * len(ordered)))]


def median(values: list[float]) -> float:
    """The median; not a number where nothing was measured."""
    return statistics.median(values) if values else float("nan")


async def closed_loop(target: Target, *, in_flight: int, stream: bool, for_s: float) -> Outcome:
    """`in_flight` callers, each asking again as soon as it is answered, for `for_s` seconds."""
    outcome = Outcome()
    began = time.perf_counter()
    await asyncio.gather(
        *(_caller(target, outcome, stream=stream, until=began + for_s) for _ in range(in_flight))
    )
    outcome.seconds = time.perf_counter() - began
    return outcome


async def open_loop(target: Target, *, per_s: float, for_s: float, stream: bool = False) -> Outcome:
    """Requests at fixed moments whatever the answers; latency counts from the moment that was planned."""
    outcome = Outcome()
    began = time.perf_counter()
    idle: list[Connection] = []
    tasks = []
    for number in range(int(per_s * for_s)):
        planned = began + number / per_s
        await asyncio.sleep(max(0.0, planned - time.perf_counter()))
        tasks.append(asyncio.create_task(_planned(target, outcome, idle, planned=planned, stream=stream)))
    await asyncio.gather(*tasks)
    outcome.seconds = time.perf_counter() - began
    for connection in idle:
        connection.close()
    return outcome


async def _caller(target: Target, outcome: Outcome, *, stream: bool, until: float) -> None:
    connection = await Connection.open(target)
    while time.perf_counter() < until:
        if not await _ask(connection, outcome, stream=stream, planned=time.perf_counter()):
            connection.close()
            connection = await Connection.open(target)
    connection.close()


async def _planned(
    target: Target, outcome: Outcome, idle: "list[Connection]", *, planned: float, stream: bool
) -> None:
    connection = idle.pop() if idle else await Connection.open(target)
    if await _ask(connection, outcome, stream=stream, planned=planned):
        idle.append(connection)
    else:
        connection.close()


async def _ask(connection: "Connection", outcome: Outcome, *, stream: bool, planned: float) -> bool:
    try:
        async with asyncio.timeout(REQUEST_WITHIN_S):
            answer = await connection.ask(stream=stream)
    except (OSError, EOFError, ValueError, TimeoutError):
        outcome.failed += 1
        return False
    now = time.perf_counter()
    if answer.status != 200 or (stream and answer.first is None):
        outcome.failed += 1
        return answer.status != 0
    if not stream:
        outcome.unary_s.append(now - planned)
        return True
    assert answer.first is not None
    outcome.ttft_s.append(answer.first - planned)
    outcome.delays_s += answer.delays_s
    outcome.pieces += answer.pieces
    outcome.merged += answer.merged
    return True


@dataclass
class Answer:
    """One answer as it came."""

    status: int = 0
    first: float | None = None
    delays_s: list[float] = field(default_factory=list)
    pieces: int = 0
    merged: int = 0


class Connection:
    """One kept connection."""

    def __init__(self, target: Target, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self._requests = {stream: _request(target, stream=stream) for stream in (False, True)}

    @classmethod
    async def open(cls, target: Target) -> "Connection":
        """Connects."""
        parts = urlsplit(target.url)
        reader, writer = await asyncio.open_connection(parts.hostname, parts.port, limit=1 << 20)
        return cls(target, reader, writer)

    def close(self) -> None:
        """Hangs up."""
        self._writer.close()

    async def ask(self, *, stream: bool) -> Answer:
        """One request and its whole answer."""
        self._writer.write(self._requests[stream])
        head = await self._reader.readuntil(b"\r\n\r\n")
        answer = Answer(status=int(head[9:12]))
        lowered = head.lower()
        if b"transfer-encoding: chunked" not in lowered:
            found = re.search(rb"content-length: (\d+)", lowered)
            await self._reader.readexactly(int(found[1]) if found else 0)
            return answer
        while True:
            size = int((await self._reader.readuntil(b"\r\n")).split(b";")[0], 16)
            data = await self._reader.readexactly(size + 2)
            if size == 0:
                return answer
            if stream:
                _note(answer, data)


def _note(answer: Answer, data: bytes) -> None:
    stamps = STAMP.findall(data)
    if not stamps:
        return
    now, clock = time.perf_counter(), time.monotonic()
    if answer.first is None:
        answer.first = now
    answer.pieces += len(stamps)
    answer.merged += len(stamps) - 1
    answer.delays_s += [clock - float(stamp) for stamp in stamps]


def _request(target: Target, *, stream: bool) -> bytes:
    parts = urlsplit(target.url)
    body = json.dumps(
        {
            "model": answers.MODEL,
            "stream": stream,
            "max_tokens": answers.CHUNKS,
            "messages": [
                {"role": "system", "content": "You are terse."},
                {"role": "user", "content": "Why does the KV cache matter? " * 8},
            ],
        }
    ).encode()
    head = (
        f"POST {parts.path} HTTP/1.1\r\nHost: {parts.netloc}\r\nAuthorization: Bearer {target.key}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body
