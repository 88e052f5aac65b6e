"""What to do about a failed set-up step, from the last lines its command printed."""

from collections.abc import Sequence

# (text in the output, advice); the first that matches is given.
KNOWN_FAILURES: list[tuple[str, str]] = [
    ("No space left on device", "The disk is full: the installation needs 5 GB free."),
    ("ensurepip is not", "Python's venv module is incomplete. Debian: apt-get install python3-venv"),
    ("No module named venv", "Python's venv module is missing. Debian: apt-get install python3-venv"),
    (
        "No matching distribution found for torch",
        "Your package index has no torch 2.13.0 for this Python and processor. Name an additional index "
        "that has it in RAYDECK_TORCH_INDEX_URL, or in your own pip configuration.",
    ),
    (
        "No matching distribution found",
        "Your package index lacks a pinned package for this Python and processor. Check `pip config list`, "
        "and that Python is 3.11.",
    ),
    ("Temporary failure in name resolution", "No network or no name resolution: check the connection."),
    ("Failed to establish a new connection", "The package index cannot be reached: check network and proxy."),
    (
        "CERTIFICATE_VERIFY_FAILED",
        "A certificate is not trusted: set PIP_CERT to your own bundle.",
    ),
    ("Read timed out", "The package index was too slow: run the same command again, it continues."),
    ("gcc", "A package is being compiled: install gcc and Python's headers (Debian: gcc python3-dev)."),
    ("Could not get lock", "Another apt or dpkg is at work: wait for it, then run the same command again."),
    ("Unable to locate package", "apt does not know the package: run `apt-get update` and try again."),
]
OTHERWISE = "Read the log above, mend the cause, and run the same command again: it continues here."


def advice_for(lines: Sequence[str]) -> str:
    """One or two sentences that say what to do; never empty."""
    text = "\n".join(lines)
    for pattern, advice in KNOWN_FAILURES:
        if pattern in text:
            return advice
    return OTHERWISE
