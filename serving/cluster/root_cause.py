"""The one line that says why an engine did not start. Pure text work, no ray, no vllm.

vLLM reports "Engine core initialization failed. See root cause above" from the parent while the reason
stands in a child's output. This finds it.
"""

import re

# "(EngineCore pid=12) ERROR 11-22 08:29:56 [core.py:1102] " in front of each line of a child's traceback.
_PREFIX = re.compile(
    r"^(\(\S+(?: \S+)*? pid=\d+\) )*(?:(?:ERROR|WARNING|INFO|CRITICAL) \d\d-\d\d [\d:]+ \[[^\]]*\] ?)?"
)
_EXCEPTION = re.compile(
    r"^(?:[A-Za-z_][\w]*\.)*[A-Z][A-Za-z]*(?:Error|Exception|Interrupt|Failed|Exit): ?\S.*"
)
_CONSEQUENCES = (
    "Engine core initialization failed",
    "WorkerProc initialization failed",
    "See root cause above",
    "Failed core proc",
    "EngineDeadError",
    "EngineCore encountered an issue",
    "resource_tracker",
    "ray.exceptions.",
    "RayTaskError",
)
LONGEST_CAUSE = 600


def root_cause(text: str) -> str | None:
    """The first exception line of an output that is not the consequence of another, or None.

    Further lines of the same message (pydantic prints the reason on the next one) are joined to it.
    """
    lines = [_PREFIX.sub("", line).rstrip() for line in text.splitlines()]
    for index, line in enumerate(lines):
        if not _EXCEPTION.match(line) or any(mark in line for mark in _CONSEQUENCES):
            continue
        return _shortened(" ".join([line, *_continuation(lines[index + 1 : index + 4])]))
    return None


def cause_of(error: BaseException) -> str:
    """The same for an exception caught in this process: its innermost cause, as one line."""
    innermost = error
    while innermost.__cause__ is not None:
        innermost = innermost.__cause__
    words = " ".join(str(innermost).split())
    return _shortened(f"{type(innermost).__name__}: {words}" if words else type(innermost).__name__)


def is_consequence(message: str) -> bool:
    """Whether a message only says that something failed earlier."""
    return any(mark in message for mark in _CONSEQUENCES)


def _continuation(lines: list[str]) -> list[str]:
    taken = []
    for line in lines:
        text = line.strip()
        if not line.startswith(" ") or not text or text.startswith(("File ", "For further information", "^")):
            break
        taken.append(text)
    return taken


def _shortened(text: str) -> str:
    return text if len(text) <= LONGEST_CAUSE else text[: LONGEST_CAUSE - 1] + "…"
