"""How a deployment's start is followed: (what was known, what Ray shows, now) -> what is known. Pure.

The reconciler feeds it; everything impure (smoke request, reading logs, writing rows) stays outside and is
asked for by the flags of `Step`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from serving.observed import STALE_AFTER_S, SeenApp, SeenReplica, words_of

MAX_SAME_FAILURES = 3
"""Starts in a row that may fail with the same cause before nothing more is tried."""
MAX_START_FAILURES = 6
"""Starts in a row that may fail at all. Serve's own limit per replica (serving/head.py) is this one too."""
ASKED, WOKE, CRASHED, FORGOTTEN = "asked", "woke", "crashed", "forgotten"
"""What began a start: an operator, a request to a sleeping deployment, a replica that died, or a Ray that was
restarted and is sent everything again."""
VARYING = re.compile(r"0x[0-9a-f]+|\b[0-9a-f]{8,}\b|\d+(?:\.\d+)*")
CAUSE_CHARACTERS = 300
CLOCK_SLACK_S = 2.0
"""Ray's replica start times and our send times come from different clocks and roundings."""


@dataclass(frozen=True)
class Progress:
    """What is known of one deployment's present generation; times in epoch seconds.

    `queued_at` and the times after it belong to the present start: the one that was asked for, or a later one
    that began by itself (`start_kind`). `start_causes`: why the starts since it was last ready have failed,
    oldest first, as `same_cause_form` writes them.
    """

    generation: int = 0
    revision: int = 0
    app_status: str = ""
    replicas_running: int = 0
    replicas_target: int = 0
    queued_at: float | None = None
    sent_at: float | None = None
    placing_at: float | None = None
    loading_at: float | None = None
    warming_at: float | None = None
    ready_at: float | None = None
    failed_at: float | None = None
    asleep_at: float | None = None
    followed_from: float | None = None
    start_kind: str = ASKED
    start_failures: int = 0
    start_causes: list[str] = field(default_factory=list)
    message: str = ""


@dataclass(frozen=True)
class Wanted:
    """What the operator wants of it, and when that was asked for. `sent_at`: when the document that Ray has
    now was sent, if this deployment is in it."""

    generation: int
    revision: int
    deployment_id: int
    running: bool
    requested_at: float
    sent_at: float | None


@dataclass(frozen=True)
class Deadlines:
    """How long placing, and the whole start, may take, in seconds."""

    placing_s: float
    start_s: float


@dataclass(frozen=True)
class Step:
    """The new progress, and what has to be done about it. `is_overdue`: an unanswered smoke is a failure."""

    progress: Progress
    needs_smoke: bool = False
    is_overdue: bool = False
    failure_code: str = ""


def advance(
    known: Progress,
    *,
    wanted: Wanted,
    app: SeenApp | None,
    replica_phases: Mapping[str, Mapping[str, float]],
    failed_start: str | None,
    last_seen_at: float | None,
    deadlines: Deadlines,
    now: float,
) -> Step:
    """One observation. `replica_phases`: replica id -> phase -> epoch seconds, as the replicas report it;
    `failed_start`: why replicas that never took a request vanished since the last observation, None when none
    did; `last_seen_at`: when that was. Deadlines do not run while nobody looks."""
    if known.generation != wanted.generation:
        known = Progress(generation=wanted.generation, revision=known.revision, queued_at=wanted.requested_at)
    if last_seen_at is None or now - last_seen_at > STALE_AFTER_S:
        known = replace(known, followed_from=now)
    known = _with_what_was_seen(known, app, failed_start)
    if known.failed_at is not None or not wanted.running:
        return Step(known)
    if known.placing_at is None:
        if wanted.sent_at is None:
            return Step(known)
        # Placing counts from when it is known that Ray took the document: what a page has counted as queued
        # until then stays so. Replicas are told from older ones by when the document was sent.
        known = replace(known, placing_at=max(now, wanted.requested_at), sent_at=wanted.sent_at)
    was_up = known.ready_at is not None or known.asleep_at is not None
    if app is None or (app.revision, app.deployment_id) != (wanted.revision, wanted.deployment_id):
        known = replace(known, replicas_running=0)
        if was_up:
            # Ray was restarted and has forgotten it, or still has another one of this name.
            words = "Ray has lost it, and is sent it again"
            return Step(_restarted(known, now, kind=FORGOTTEN, message=words))
        return _check_deadlines(known, None, deadlines, now)
    if was_up:
        return _follow_ready(known, app, last_seen_at, now)
    return _follow_start(known, app, replica_phases, deadlines, now)


def _with_what_was_seen(known: Progress, app: SeenApp | None, failed_start: str | None) -> Progress:
    known = replace(
        known,
        app_status=app.status if app else "",
        replicas_running=len(app.running) if app else 0,
        replicas_target=app.replicas_target if app else 0,
    )
    if failed_start is None:
        return known
    # However many replicas of it died: they started together and count once.
    causes = [*known.start_causes, same_cause_form(failed_start)][-MAX_START_FAILURES:]
    return replace(known, start_failures=known.start_failures + 1, start_causes=causes)


def smoke_answered(known: Progress, *, revision: int, now: float) -> Progress:
    """The smoke request was answered: the deployment is ready from now on."""
    return replace(known, ready_at=now, revision=revision, start_failures=0, start_causes=[], message="")


def same_cause_form(cause: str) -> str:
    """A cause without what differs from one start to the next (numbers, addresses), to compare it by."""
    return " ".join(VARYING.sub("#", cause.lower()).split())[:CAUSE_CHARACTERS]


STILL_SERVING = frozenset({"RECOVERING", "UPDATING", "PENDING_MIGRATION"})
"""States of a replica that takes requests although Serve does not call it RUNNING."""


def gave_up(known: Progress) -> bool:
    """Whether enough starts in a row have failed: fewer when all of the last ones failed for one reason."""
    last = known.start_causes[-MAX_SAME_FAILURES:]
    same = len(last) == MAX_SAME_FAILURES and len(set(last)) == 1
    return same or known.start_failures >= MAX_START_FAILURES


def _follow_ready(known: Progress, app: SeenApp, last_seen_at: float | None, now: float) -> Step:
    began = _began(app, last_seen_at, now)
    if app.running:
        if known.asleep_at is not None:
            # Woken: some replica takes requests again, so show the wake's own smoke and times.
            return Step(_restarted(known, began, kind=WOKE, message="Waking: a request came"))
        message = words_of(app) if app.status == "UNHEALTHY" else ""
        return Step(replace(known, message=message))
    if app.replicas_target == 0:
        return Step(replace(known, asleep_at=known.asleep_at or now, message=""))
    if known.asleep_at is not None:
        return Step(_restarted(known, began, kind=WOKE, message="Waking: a request came"))
    if any(replica.state in STILL_SERVING for replica in app.replicas):
        # A restarted Serve controller finds its replicas again; they have answered all the while.
        return Step(replace(known, message="Serve's controller is looking after its replicas again"))
    words = "No replica is left; Ray is starting it again"
    return Step(_restarted(known, began, kind=CRASHED, message=words))


def _began(app: SeenApp, last_seen_at: float | None, now: float) -> float:
    """When a start began that nobody asked for: after it was last seen otherwise, not after its replica."""
    starting = [r.started_at for r in app.replicas if r.started_at > (last_seen_at or now)]
    return min([now, *starting])


def _restarted(known: Progress, began: float, *, kind: str, message: str) -> Progress:
    """The present start begins anew: nothing of the one before it counts."""
    return replace(
        known,
        start_kind=kind,
        start_failures=0,
        start_causes=[],
        queued_at=began,
        placing_at=began,
        followed_from=began,
        loading_at=None,
        warming_at=None,
        ready_at=None,
        asleep_at=None,
        message=message,
    )


def _follow_start(
    known: Progress,
    app: SeenApp,
    replica_phases: Mapping[str, Mapping[str, float]],
    deadlines: Deadlines,
    now: float,
) -> Step:
    assert known.placing_at is not None
    # On a first start, replicas from before this generation was sent still serve the old revision. After
    # a restart within the generation every replica counts.
    since = known.sent_at if known.sent_at is not None else known.placing_at
    fresh = [r for r in app.replicas if r.started_at >= since - CLOCK_SLACK_S and r.state != "STOPPING"]
    known = replace(
        known,
        loading_at=known.loading_at or _first(fresh, replica_phases, "loading", known.placing_at, now),
        warming_at=known.warming_at or _first(fresh, replica_phases, "warming", known.placing_at, now),
        message=words_of(app),
    )
    serving = [r for r in fresh if r.state == "RUNNING"]
    old = [r for r in app.running if r not in fresh]
    if serving and old:
        # While replicas of the revision before still answer, an answer proves nothing about this one.
        message = f"Replacing replicas: {len(serving)} new, {len(old)} still to be replaced"
        return _check_deadlines(replace(known, message=message), app, deadlines, now)
    if serving:
        known = replace(known, loading_at=known.loading_at or now, warming_at=known.warming_at or now)
        return Step(known, needs_smoke=True, is_overdue=_waited_s(known, now) > deadlines.start_s)
    if app.status == "RUNNING" and app.replicas_target == 0 and not app.replicas:
        return Step(replace(known, asleep_at=now, message=""))
    if app.status == "DEPLOY_FAILED":
        return Step(known, failure_code="start_failed")
    if gave_up(known):
        return Step(known, failure_code="gave_up")
    return _check_deadlines(known, app, deadlines, now)


def _check_deadlines(known: Progress, app: SeenApp | None, deadlines: Deadlines, now: float) -> Step:
    waited_s = _waited_s(known, now)
    if known.loading_at is None and waited_s > deadlines.placing_s and app is not None:
        return Step(known, failure_code="not_placed")
    if waited_s > deadlines.start_s:
        return Step(known, failure_code="start_timeout")
    return Step(known)


def _waited_s(known: Progress, now: float) -> float:
    assert known.placing_at is not None
    return now - max(known.placing_at, known.followed_from or 0.0)


def _first(
    replicas: list[SeenReplica],
    reported: Mapping[str, Mapping[str, float]],
    phase: str,
    not_before: float,
    now: float,
) -> float | None:
    """When the first of these replicas entered the phase; a replica with a process is loading at least."""
    times = [reported[r.replica_id][phase] for r in replicas if phase in reported.get(r.replica_id, {})]
    if times:
        return max(not_before, min(times))
    if phase == "loading" and any(r.pid for r in replicas):
        return now
    return None
