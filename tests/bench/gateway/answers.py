"""What the engine of no cost answers: the same bytes behind every system. Pure.

Each streamed piece carries the moment it was made (seconds of the machine's monotonic clock, which all
processes share) as its text, so that a client sees how long it was on its way.
"""

import json
import time

MODEL = "bench"
CHUNKS = 50
INTERVAL_S = 0.010
USAGE = {"prompt_tokens": 12, "completion_tokens": CHUNKS, "total_tokens": 12 + CHUNKS}
DONE = b"data: [DONE]\n\n"

UNARY = json.dumps(
    {
        "id": "chatcmpl-bench",
        "object": "chat.completion",
        "created": 1_700_000_000,
        "model": MODEL,
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "word " * CHUNKS},
                "finish_reason": "stop",
            }
        ],
        "usage": USAGE,
    }
).encode()


def chunk(index: int) -> dict[str, object]:
    """One piece of a streamed answer, stamped with the present moment."""
    return {
        "id": "chatcmpl-bench",
        "object": "chat.completion.chunk",
        "created": 1_700_000_000,
        "model": MODEL,
        "choices": [
            {
                "index": 0,
                "delta": {"content": f"{time.monotonic():.6f} "},
                "finish_reason": "stop" if index == CHUNKS - 1 else None,
            }
        ],
    }


def event(index: int) -> bytes:
    """The same as a server-sent event."""
    return b"data: " + json.dumps(chunk(index)).encode() + b"\n\n"
