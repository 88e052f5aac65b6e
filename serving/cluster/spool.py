"""A bounded folder of usage records on local disk, for while Redis is away. Blocking; call it in a thread.

Files are JSON lines, `usage-<writer>-<number>.jsonl`; one writer appends to its own file only. To drain, a
file is claimed by renaming it, so several replicas may share the folder. A claim left by a killed replica is
found again by age.
"""

import hashlib
import hmac
import logging
import os
import stat
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

log = logging.getLogger("ray.serve")
SPOOL_BYTES = 64 * 1024 * 1024
FILE_BYTES = 4 * 1024 * 1024
STALE_CLAIM_S = 120.0
# Another writer holds its file open for milliseconds per batch; one at rest this long is not being written.
AT_REST_S = 5.0


def folder_for(*, given: str | None, pepper: str, redis_url: str | None) -> Path | None:
    """Where a gateway's records wait: `given`, else a folder of this user under the system's temporary one.

    The latter's name tells clusters apart that deliver to different streams, and gives nothing of the address
    away. None where records could not be delivered from it anyway, or where the folder is somebody else's.
    """
    if given:
        return Path(given)
    if not pepper or not redis_url:
        return None
    stream = hmac.new(pepper.encode(), redis_url.encode(), hashlib.sha256).hexdigest()[:16]
    folder = Path(tempfile.gettempdir()) / f"raydeck-spool-{os.getuid()}-{stream}"
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
    except OSError as error:
        log.warning("usage: no spool: %s", error)
        return None
    # Anybody may make folders there: what waits in it becomes part of the ledger.
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        log.warning("usage: no spool: %s is not a folder of this user alone", folder)
        return None
    return folder


@dataclass(frozen=True)
class Claim:
    """One file taken out of the spool."""

    path: Path
    original: Path
    records: list[str]

    def done(self) -> None:
        """Delivered: the file goes away."""
        self.path.unlink(missing_ok=True)

    def give_back(self) -> None:
        """Not delivered: the file waits again."""
        self.path.rename(self.original)


class Spool:
    """Appends records and hands them back in whole files. `folder` None keeps nothing."""

    def __init__(self, folder: Path | None, *, writer: str, limit_bytes: int = SPOOL_BYTES) -> None:
        self._folder = folder
        self._writer = writer
        self._limit_bytes = limit_bytes
        self._number = 0
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)

    def size_bytes(self) -> int:
        """Bytes in the folder, claimed files included."""
        if self._folder is None:
            return 0
        return sum(_size(entry) for entry in self._folder.glob("usage-*.jsonl*"))

    def append(self, records: list[str]) -> int:
        """Keeps as many records as fit, in order; returns how many. Raises OSError when disk refuses."""
        if self._folder is None or not records:
            return 0
        room = self._limit_bytes - self.size_bytes()
        lines: list[bytes] = []
        for record in records:
            line = record.encode() + b"\n"
            room -= len(line)
            if room < 0:
                break
            lines.append(line)
        if lines:
            with self._current().open("ab") as stream:
                stream.write(b"".join(lines))
                stream.flush()
                os.fsync(stream.fileno())
        return len(lines)

    def claim(self) -> Claim | None:
        """The oldest file, taken for delivery; None when there is nothing (left) to take."""
        if self._folder is None:
            return None
        self._free_stale_claims()
        for path in sorted(self._folder.glob("usage-*.jsonl"), key=_modified):
            if not self._is_own(path) and time.time() - _modified(path) < AT_REST_S:
                continue
            claimed = path.with_name(f"{path.name}.{self._writer}")
            try:
                path.rename(claimed)
            except FileNotFoundError:  # another replica was first
                continue
            os.utime(claimed)
            self._number += 1  # what is appended from now on goes into a new file
            text = claimed.read_bytes().decode(errors="replace")
            # A line cut off by a crash in mid-write is not a record.
            records = [line for line in text.splitlines() if line.startswith("{") and line.endswith("}")]
            return Claim(path=claimed, original=path, records=records)
        return None

    def _current(self) -> Path:
        assert self._folder is not None
        while True:
            path = self._folder / f"usage-{self._writer}-{self._number}.jsonl"
            if _size(path) < FILE_BYTES:
                return path
            self._number += 1

    def _is_own(self, path: Path) -> bool:
        return path.name.startswith(f"usage-{self._writer}-")

    def _free_stale_claims(self) -> None:
        assert self._folder is not None
        for claimed in self._folder.glob("usage-*.jsonl.*"):
            if time.time() - _modified(claimed) > STALE_CLAIM_S:
                claimed.rename(claimed.with_suffix(""))


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _modified(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return 0.0
