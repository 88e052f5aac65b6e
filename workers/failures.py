"""Why a deployment failed, in one line with advice, from what Ray says and what the engine printed."""

from __future__ import annotations

import logging
import re
from typing import Any

from console.models import Deployment, Replica, SourceKind
from serving.checkpoint import inspect_folder
from serving.client import RayClient
from serving.errors import NotPlaceable, RaydeckError
from serving.failure import Failure, root_cause
from serving.observed import SeenApp, SeenReplica, operators_words
from serving.redaction import without_secrets

log = logging.getLogger(__name__)

RAW_CHARACTERS = 6000
LOG_LINES = 400
COLOURS = re.compile(r"\x1b\[[0-9;]*m")
DEATH_LINES = 200
DEATH_MARK = "raydeck-engine-died"
"""What a replica writes when its engine's process is gone (serving/cluster/watch.py)."""
CAUSE_MARK = re.compile(r"raydeck-cause:\s*(\S.*)")


def failure_of(ray: RayClient, deployment: Deployment, app: SeenApp | None, *, code: str) -> dict[str, Any]:
    """{code, cause, advice, raw} for a start that did not succeed; `code` says how it was noticed."""
    said = "\n".join(text for text in (app.deployment_message, app.message) if text) if app else ""
    if code == "not_placed":
        return {
            "code": "not_placed",
            "cause": plain(operators_words(said)) if said else "Ray found no room for it in time.",
            "advice": "Free accelerators, add nodes, or choose a smaller topology; then try again.",
            "raw": plain(said)[:RAW_CHARACTERS],
        }
    printed = _engine_output(ray, app)
    found = _cause_in(printed, said)
    if found.code == "unknown":
        found = _what_the_folder_says(deployment) or found
    cause, advice = found.cause, found.advice
    if code == "start_timeout" and found.code == "unknown":
        cause, advice = "It did not become ready in time.", "Look at the engine's log, then try again."
    return {
        "code": found.code or code,
        "cause": plain(cause),
        "advice": advice,
        "raw": plain(said + "\n" + printed)[-RAW_CHARACTERS:],
    }


def death_of(ray: RayClient, replica: Replica) -> str:
    """What a replica that is gone said of its engine's death; empty when it was simply let go."""
    if not replica.node_id or not replica.log_file_path:
        return ""
    try:
        said = ray.get_log_tail(replica.node_id, replica.log_file_path.lstrip("/"), lines=DEATH_LINES)
    except RaydeckError as error:
        log.info(
            "no log of a replica that is gone replica=%s error=%s", replica.replica_id, error.message[:120]
        )
        return ""
    return "An engine process died" if DEATH_MARK in said else ""


def plain(text: str) -> str:
    """Ray's text without terminal colours and secrets: whoever may look at a deployment sees it."""
    return without_secrets(COLOURS.sub("", text))


def _cause_in(printed: str, said: str) -> Failure:
    """The replica marks the cause it knows; where it does not, the engine's own output is searched."""
    marked = CAUSE_MARK.findall(said) or CAUSE_MARK.findall(printed)
    if marked:
        found = root_cause(marked[-1])
        if found.code != "unknown":
            return found
        return Failure(code="unknown", cause=marked[-1].strip(), advice=found.advice)
    return root_cause("\n".join(text for text in (printed, said) if text))


def _what_the_folder_says(deployment: Deployment) -> Failure | None:
    """A fault that reading the model's folder shows; the engine's words for it are often no help."""
    if deployment.model.source_kind != SourceKind.FOLDER:
        return None
    faults = [p for p in inspect_folder(deployment.model.source).problems if p["level"] == "error"]
    if not faults:
        return None
    return Failure(
        code="model_files",
        cause=faults[0]["message"],
        advice="Fetch or convert the model's files again, then try again.",
    )


def unplaceable(error: NotPlaceable) -> dict[str, Any]:
    """The same form for what was refused before it was sent."""
    return {
        "code": "not_placeable",
        "cause": error.message,
        "advice": "Free what others hold, or edit the topology; then try again.",
        "raw": "\n".join(error.arithmetic),
    }


def _engine_output(ray: RayClient, app: SeenApp | None) -> str:
    """What the replicas' processes printed: vLLM's own reason is there, not in Serve's message."""
    if app is None:
        return ""
    return "\n".join(
        text
        for replica in (*app.replicas, *app.dead_replicas)[-2:]
        if replica.worker_id and replica.node_id
        for text in _worker_texts(ray, replica)
    )


def _worker_texts(ray: RayClient, replica: SeenReplica) -> list[str]:
    try:
        names = ray.list_logs(replica.node_id, f"worker-{replica.worker_id}*")
        return [ray.get_log_tail(replica.node_id, name, lines=LOG_LINES) for name in names]
    except RaydeckError as error:
        log.info("no engine output replica=%s error=%s", replica.replica_id, error.message[:120])
        return []
