"""Why an engine did not start or died: from raw log text to one cause and one piece of advice.

Pure and table-driven. vLLM reports "Engine core initialization failed. See root cause above" from the parent
while the reason stands in a child's output, and Ray wraps that once more; this looks for the reason. The
messages in the table are those of ray 2.60 and vllm 0.29 (their source, and tests/recordings).
"""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass

from serving.failure_rules import RULES, Rule

CAUSE_CHARACTERS = 400
RAW_LINES = 40
RAW_CHARACTERS = 6000
TEXT_CHARACTERS = 2_000_000
"""Only the end of longer texts is looked at."""
LINE_CHARACTERS = 4000


@dataclass(frozen=True)
class Failure:
    """`code` for programs, `cause` in one line, `advice` what to do, `raw` the lines around the cause."""

    code: str
    cause: str
    advice: str
    raw: str = ""

    def as_dict(self) -> dict[str, str]:
        """As stored in DeploymentStatus.failure and given by the API."""
        return asdict(self)


UNKNOWN_ADVICE = "Read the log around this line; if it may pass by itself, retry."
VALUE_ADVICE = "Correct that engine argument."
NO_REASON = Failure("unknown", "The engine gave no reason.", "Open the logs of its replica; then retry.")

ANSI = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
SOURCE_PREFIX = re.compile(r"^\s*(?:\([^()\n]*(?:pid|ip)=[^()\n]*\)\s*)+")
LEVEL_PREFIX = re.compile(
    r"^(?:\[?(?:ERROR|WARNING|INFO|CRITICAL|DEBUG)\]?\s+)?(?:\d{4}-)?\d\d-\d\d[ T][\d:,.]+\s+"
    r"(?:(?:ERROR|WARNING|INFO|CRITICAL|DEBUG)\s+)?(?:\[[^\]\n]*\]\s?)?"
)
EXCEPTION = re.compile(
    r"^(?:ray::\S+ )?(?:[a-zA-Z_]\w*\.)*([A-Z]\w*(?:Error|Exception|Exit|Interrupt|Failure)\b.*)$"
)
CONSEQUENCES = re.compile(
    r"See root cause above|See stack trace for root cause|Engine core initialization failed"
    r"|WorkerProc initialization failed|EngineCore encountered an issue|RayTaskError|RayActorError"
    r"|Failed core proc|The deployment failed to start|object has no attribute '_finalizer'"
)
HANDLED = "During handling of the above exception, another exception occurred"


def root_cause(raw_text: str) -> Failure:
    """The deepest cause in log text or a status message, in the words of the table where it is known.

    The first strong message counts: children write before the parents that only notice. Never raises; a text
    without any reason gives code "unknown".
    """
    lines = [clean(line) for line in raw_text[-TEXT_CHARACTERS:].splitlines()]
    for weak in (False, True):
        for index in range(len(lines)):
            found = _known(lines, index, weak=weak)
            if found is not None:
                return found
        if not weak:
            unknown = _first_exception(lines)
            if unknown is not None:
                return unknown
    return NO_REASON


def clean(line: str) -> str:
    """A log line without colours, process prefix, level, time and place."""
    text = ANSI.sub("", line[:LINE_CHARACTERS])
    text = SOURCE_PREFIX.sub("", text)
    text = LEVEL_PREFIX.sub("", text, count=1)
    return SOURCE_PREFIX.sub("", text).rstrip()


def _known(lines: list[str], index: int, *, weak: bool) -> Failure | None:
    line = lines[index]
    if not line or line.startswith(("  File ", "    ")) or CONSEQUENCES.search(line):
        return None
    for rule in RULES:
        if rule.weak is not weak:
            continue
        match = rule.pattern.search(line)
        if match is not None:
            return Failure(rule.code, _cause(rule, match, lines, index), rule.advice, _around(lines, index))
    return None


def _cause(rule: Rule, match: re.Match[str], lines: list[str], index: int) -> str:
    if not rule.cause:
        return _shortened(_sentence(lines, index))
    groups = [group.strip().rstrip(".") for group in match.groups() if group is not None]
    estimate = (
        f"; {groups[3]} tokens would fit" if rule.code == "kv_cache_too_small" and len(groups) > 3 else ""
    )
    return _shortened(rule.cause.format(*groups, *[""] * 4, estimate=estimate).strip())


def _first_exception(lines: list[str]) -> Failure | None:
    """The first exception that is nobody's consequence and was not replaced while it was handled."""
    for index, line in enumerate(lines):
        if CONSEQUENCES.search(line) or not EXCEPTION.match(line):
            continue
        if any(HANDLED in later for later in lines[index + 1 : index + 4]):
            continue
        if any(rule.weak and rule.pattern.search(line) for rule in RULES):
            continue
        is_value = " validation error" in line
        code, advice = ("bad_value", VALUE_ADVICE) if is_value else ("unknown", UNKNOWN_ADVICE)
        return Failure(code, _shortened(_sentence(lines, index)), advice, _around(lines, index))
    return None


def _sentence(lines: list[str], index: int) -> str:
    """The exception's line without its module, and the indented lines in which pydantic says the reason."""
    match = EXCEPTION.match(lines[index])
    parts = [match.group(1) if match else lines[index].strip()]
    for line in lines[index + 1 : index + 5]:
        text = line.strip()
        if " validation error" not in parts[0] or not text or text.startswith("For further information"):
            break
        parts.append(text.split(" [type=", 1)[0].removeprefix("Value error, "))
    return " ".join(parts)


def _around(lines: list[str], index: int) -> str:
    first = max(0, index - RAW_LINES // 2)
    return "\n".join(lines[first : index + RAW_LINES // 2])[:RAW_CHARACTERS]


def _shortened(text: str) -> str:
    return text if len(text) <= CAUSE_CHARACTERS else text[: CAUSE_CHARACTERS - 1].rstrip() + "…"
