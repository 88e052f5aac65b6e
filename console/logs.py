"""The end of a deployment's logs, read from Ray when somebody asks; nothing is stored.

Three sources: `engine` is what the replica's process and the engine below it wrote (the real reason of a
failed start stands there), `replica` is Serve's own log of the replica, `controller` is what Serve's
controller wrote about the deployment. Secrets that a log may hold are blanked.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from django.conf import settings
from django.db.models import F

from console.models import Deployment, Replica
from serving.client import RayClient
from serving.errors import InvalidSpec, RayRefused, RayUnavailable
from serving.failure import ANSI, Failure, root_cause
from serving.redaction import without_secrets
from serving.render import app_name

Source = Literal["engine", "replica", "controller"]

MOST_LINES = 2000
BUILD_LOGS_SHOWN = 2
CONTROLLER_LINES_SEARCHED = 5000


@dataclass(frozen=True)
class LogTail:
    """The last lines, oldest first. `note` says why there are none; `failure` the root cause in them."""

    source: Source
    file: str | None = None
    lines: list[str] = field(default_factory=list)
    note: str = ""
    failure: Failure | None = None


def tail(*, deployment: Deployment, source: Source, lines: int) -> LogTail:
    """The last `lines` (1 to 2000) of one source for the newest replica.

    Raises InvalidSpec for a senseless number of lines and RayUnavailable when Ray does not answer.
    """
    if not 1 <= lines <= MOST_LINES:
        raise InvalidSpec(f"Ask for 1 to {MOST_LINES:,} lines.", field="lines")
    with RayClient.from_token_file(settings.RAY_DASHBOARD_URL, settings.RAY_TOKEN_FILE) as client:
        return READERS[source](client, deployment, lines)


def _engine(client: RayClient, deployment: Deployment, lines: int) -> LogTail:
    replica = _newest_replica(deployment)
    if replica is None or not replica.worker_id:
        return LogTail("engine", note="No replica has had a process yet.")
    names = _list(client, replica.node_id, f"worker-{replica.worker_id}*")
    # Standard output first: the engine logs there, and errors end the start.
    files = sorted((name for name in names if name.endswith((".out", ".err"))), reverse=True)
    return _joined(client, "engine", node_id=replica.node_id, files=files, lines=lines)


def _replica(client: RayClient, deployment: Deployment, lines: int) -> LogTail:
    replica = _newest_replica(deployment)
    if replica is None or not replica.log_file_path:
        return LogTail("replica", note="No replica has had a process yet.")
    files = [replica.log_file_path.lstrip("/")]
    return _joined(client, "replica", node_id=replica.node_id, files=files, lines=lines)


def _controller(client: RayClient, deployment: Deployment, lines: int) -> LogTail:
    head = next((node.id for node in client.get_nodes() if node.is_head), None)
    if head is None:
        return LogTail("controller", note="The cluster names no head node.")
    app = app_name(deployment.name)
    found = _joined(
        client,
        "controller",
        node_id=head,
        files=sorted(_list(client, head, f"serve/controller_build_{app}_*"))[-BUILD_LOGS_SHOWN:],
        lines=lines,
    )
    about = re.compile(rf"(?<![\w.-]){re.escape(app)}(?![\w.-])")
    collected = list(found.lines)
    names = [name for name in _list(client, head, "serve/controller_*") if "controller_build_" not in name]
    for name in names:
        text = _read(client, head, name, CONTROLLER_LINES_SEARCHED)
        collected += [line for line in _presentable(text) if about.search(line)]
    note = "" if collected else "The controller has written nothing about this deployment."
    return LogTail(
        "controller", found.file or ", ".join(names) or None, collected[-lines:], note, found.failure
    )


READERS: dict[Source, Callable[[RayClient, Deployment, int], LogTail]] = {
    "engine": _engine,
    "replica": _replica,
    "controller": _controller,
}


def _newest_replica(deployment: Deployment) -> Replica | None:
    """A living replica before one that has ended, the youngest of them."""
    return deployment.replicas.order_by(F("ended_at").desc(nulls_first=True), "-started_at").first()


def _joined(client: RayClient, source: Source, *, node_id: str, files: list[str], lines: int) -> LogTail:
    parts = [(name, _presentable(_read(client, node_id, name, lines))) for name in files]
    parts = [(name, found) for name, found in parts if found]
    if not parts:
        return LogTail(source, note="Ray has no such log any more.")
    collected = [line for _, found in parts for line in found][-lines:]
    failure = root_cause("\n".join(collected))
    known = failure if failure.code != "unknown" else None
    return LogTail(source, ", ".join(name for name, _ in parts), collected, failure=known)


def _list(client: RayClient, node_id: str, glob: str) -> list[str]:
    try:
        return client.list_logs(node_id, glob)
    except RayRefused as error:
        # Ray answers so for a node that has left: its logs are gone with it.
        if error.field == "token":
            raise
        return []


def _read(client: RayClient, node_id: str, name: str, lines: int) -> str:
    try:
        return client.get_log_tail(node_id, name, lines=lines)
    except RayRefused as error:
        if error.field == "token":
            raise
        return ""
    except RayUnavailable as error:
        # The dashboard answers 500 for a file that was rotated away; an outage looks otherwise.
        if "answered 500" in error.message:
            return ""
        raise


def _presentable(text: str) -> list[str]:
    return [without_secrets(ANSI.sub("", line)).rstrip() for line in text.splitlines()]
