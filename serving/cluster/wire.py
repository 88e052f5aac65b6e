"""The bytes that pass between gateway and engine replica. Pure; both sides import it, nothing else.

A unary answer is one frame: 4 bytes length, that many bytes of JSON (`Meta`), then the HTTP body.
A stream is a sequence of items told apart by their first byte: `d` begins an SSE event (`data: …`), passed on
untouched; 0x00 begins the closing `Meta`; 0x01 begins a refusal, a unary frame instead of a stream.
`Meta` keys: status (HTTP), prompt_tokens, cached_tokens, completion_tokens, queue_s, prefill_s, decode_s,
finish_reason, replica, error_class; figures the engine did not give are null.
"""

import json
import struct
from typing import Any

META = 0x00
REFUSAL = 0x01
DONE = b"data: [DONE]\n\n"
"""The event that ends a stream. The closing Meta comes before it, so that a caller who hangs up on seeing
it has been accounted for."""
ENGINE_DIED = "engine_died"
"""error_class of an answer that the engine could not give since its process is gone."""
_LENGTH = struct.Struct(">I")

Meta = dict[str, Any]


def pack(meta: Meta, body: bytes) -> bytes:
    """One frame from meta and body."""
    head = json.dumps(meta, separators=(",", ":")).encode()
    return _LENGTH.pack(len(head)) + head + body


def unpack(frame: bytes) -> tuple[Meta, bytes]:
    """Meta and body of one frame. Raises ValueError for anything else."""
    if len(frame) < _LENGTH.size:
        raise ValueError("frame is too short")
    (length,) = _LENGTH.unpack_from(frame)
    end = _LENGTH.size + length
    if len(frame) < end:
        raise ValueError("frame is cut off")
    return json.loads(frame[_LENGTH.size : end]), frame[end:]


def closing(meta: Meta) -> bytes:
    """The last item of a stream but for DONE."""
    return bytes([META]) + json.dumps(meta, separators=(",", ":")).encode()


def refusal(meta: Meta, body: bytes) -> bytes:
    """The only item of a stream that was refused before it began."""
    return bytes([REFUSAL]) + pack(meta, body)
