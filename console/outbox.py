"""What waits to be sent to one browser, bounded. Pure; sends nothing itself.

A page that reads slowly must cost neither memory nor freshness: of its samples only the newest wait, older
ones are dropped (the page fetches history anyway). "Something changed" is never dropped, but the same
change waits only once.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from typing import Any

SAMPLES_MAX = 60
ANSWERS_MAX = 50

Message = dict[str, Any]


class Outbox:
    """Messages for one socket: answers first, then changes, then samples, each in order of arrival."""

    def __init__(self) -> None:
        self._answers: deque[Message] = deque(maxlen=ANSWERS_MAX)
        self._changes: OrderedDict[tuple[str, str], Message] = OrderedDict()
        self._samples: deque[Message] = deque(maxlen=SAMPLES_MAX)
        self._filled = asyncio.Event()
        self.dropped = 0

    def put(self, message: Message) -> None:
        """Queue one message; never waits."""
        if message["t"] == "sample":
            self.dropped += len(self._samples) == SAMPLES_MAX
            self._samples.append(message)
        elif message["t"] == "changed":
            self._changes[(message["topic"], message["what"])] = message
        else:
            self._answers.append(message)
        self._filled.set()

    async def take(self) -> Message:
        """The next message, waiting for one if need be."""
        while True:
            if self._answers:
                return self._answers.popleft()
            if self._changes:
                return self._changes.popitem(last=False)[1]
            if self._samples:
                return self._samples.popleft()
            self._filled.clear()
            await self._filled.wait()

    def __len__(self) -> int:
        return len(self._answers) + len(self._changes) + len(self._samples)
