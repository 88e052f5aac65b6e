"""Blanks what must not be shown in text that others wrote: logs of Ray and of engines, failures. Pure."""

from __future__ import annotations

import re

SECRETS = re.compile(
    r"hf_[A-Za-z0-9]{16,}"
    r"|\brdt?-[A-Za-z0-9_-]{20,}"
    r"|\bsk-[A-Za-z0-9_-]{16,}"
    r"|\bAKIA[0-9A-Z]{16}\b"
    r"|(?<=Bearer )\S{8,}"
    r"|(?<=://)[^\s/@:]*:[^\s/@]+(?=@)"
)
"""Hub tokens, keys and tokens of this console, keys of other services, bearer tokens, logins in addresses."""


def without_secrets(text: str) -> str:
    """The text with each secret replaced by an ellipsis."""
    return SECRETS.sub("…", text)
