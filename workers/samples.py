"""Samples: one row per deployment and second, built from metrics pages, replica rows and usage records.

A second nobody could observe has no figures: a gap stays a gap. Latencies come from the ledger's records
alone and are added to the row of the second in which the request finished, also when the record comes late
and the row was rolled up meanwhile; where that second has no row, one is made that holds the requests alone,
so that percentiles and objectives never miss a request. Nothing here talks to Ray or Redis.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from console.models import Deployment, DesiredState, Replica, Sample, SampleMark
from console.windows import LATENCIES
from serving import histogram
from serving.metrics import Page, settled
from serving.render import MODEL_APP_PREFIX
from serving.resolutions import RETENTION_S
from serving.usage import UsageRecord

KEPT_S = 5.0
"""A figure that a busy node's page leaves out stands this long; Ray drops a gauge whose report is late."""

SIZES_KEPT_S = 30.0
SIZES = frozenset({"weights_bytes", "kv_cache_bytes", "process_memory_bytes"})
"""Figures that hardly change in a replica's life."""

Key = tuple[int, int]
"""Deployment id and the second (epoch)."""


@dataclass(frozen=True)
class Reading:
    """What is known of one replica now. `grown`: tokens of this second by figure, None when not known."""

    figures: Mapping[str, float]
    grown: Mapping[str, float] | None


@dataclass
class Probed:
    """Tokens of one of the console's own smoke requests, which the engine counts like anybody's."""

    deployment_id: int
    at: float
    prompt_tokens: int
    completion_tokens: int


@dataclass
class Board:
    """The latest figures of all replicas and of the requests queued in Serve, kept between ticks."""

    _queued: dict[str, tuple[Mapping[str, float], float]] = field(default_factory=dict)
    _figures: dict[str, dict[str, tuple[float, float]]] = field(default_factory=dict)
    _grown: dict[str, Mapping[str, float] | None] = field(default_factory=dict)
    _pages: dict[str, str] = field(default_factory=dict)
    _probed: dict[str, Probed] = field(default_factory=dict)

    def begin(self, now: float) -> None:
        """Start a new second: growth is of this second only; old figures are dropped."""
        self._grown = {}
        # The engine's page lags a second or two behind the record; later growth is somebody else's.
        self._probed = {key: probed for key, probed in self._probed.items() if now - probed.at <= KEPT_S}
        self._queued = {
            home: (queued, at) for home, (queued, at) in self._queued.items() if now - at <= KEPT_S
        }
        for replica_id in list(self._figures):
            kept = {
                name: (value, at)
                for name, (value, at) in self._figures[replica_id].items()
                if now - at <= (SIZES_KEPT_S if name in SIZES else KEPT_S)
            }
            if kept:
                self._figures[replica_id] = kept
            else:
                del self._figures[replica_id]
                self._pages.pop(replica_id, None)

    def add(
        self, page: Page, *, target: str, grown: Mapping[str, Mapping[str, float]] | None, now: float
    ) -> None:
        """Take in the page of one target and the growth of its counters."""
        for replica_id, figures in page.gauges.items():
            known = self._figures.setdefault(replica_id, {})
            before = {name: value for name, (value, _) in known.items()}
            known.update({name: (value, now) for name, value in settled(figures, before).items()})
            self._pages[replica_id] = target
        for replica_id in [one for one, home in self._pages.items() if home == target]:
            self._grown[replica_id] = None if grown is None else grown.get(replica_id, {})
        if page.queued:
            self._queued[target] = (page.queued, now)

    def queued(self, application: str) -> float | None:
        """Callers that wait for this application at all gateways; None when no gateway says."""
        counts = [queued[application] for queued, _ in self._queued.values() if application in queued]
        return sum(counts) if counts else None

    def note_probes(
        self, probes: Iterable[UsageRecord], *, deployments: Mapping[str, int], now: float
    ) -> None:
        """Take in smoke requests; their tokens come off the next growth of their deployment's counters."""
        for probe in probes:
            if probe.deployment in deployments:
                self._probed[probe.id] = Probed(
                    deployments[probe.deployment], now, probe.prompt_tokens or 0, probe.completion_tokens or 0
                )

    def without_probes(self, deployment_id: int, name: str, tokens: int | None) -> int | None:
        """A deployment's tokens of this second without those of smoke requests; what is left waits."""
        for probed in self._probed.values():
            if tokens and probed.deployment_id == deployment_id:
                taken = min(tokens, getattr(probed, name))
                setattr(probed, name, getattr(probed, name) - taken)
                tokens -= taken
        return tokens

    def reading(self, replica_id: str) -> Reading | None:
        """What is known of a replica now; None when nothing is."""
        figures = self._figures.get(replica_id)
        if figures is None:
            return None
        plain = {name: value for name, (value, _) in figures.items()}
        return Reading(plain, self._grown.get(replica_id))


@dataclass
class Finished:
    """What the requests that finished in one second of one deployment add to its row."""

    requests_ok: int = 0
    requests_failed: int = 0
    ttft: histogram.Counts = field(default_factory=dict)
    tpot: histogram.Counts = field(default_factory=dict)
    e2e: histogram.Counts = field(default_factory=dict)
    queue: histogram.Counts = field(default_factory=dict)
    sums_s: dict[str, float] = field(default_factory=dict)

    def observe(self, name: str, value_s: float | None) -> None:
        """Count one latency, in its buckets and in its sum; None was not measured."""
        if value_s is not None:
            histogram.observe(getattr(self, name), value_s)
            self.sums_s[name] = self.sums_s.get(name, 0.0) + value_s


def build(
    *, deployments: Sequence[Deployment], replicas: Sequence[Replica], board: Board, second: int
) -> list[Sample]:
    """Unsaved rows of one second, in the order of `deployments` (with `current_revision` loaded).

    A deployment that is stopped and holds nothing has no row. `replicas` are those that have not ended.
    """
    by_deployment: dict[int, list[Replica]] = {}
    for replica in replicas:
        if replica.deployment_id is not None:
            by_deployment.setdefault(replica.deployment_id, []).append(replica)
    rows = []
    for deployment in deployments:
        own = by_deployment.get(deployment.pk, [])
        if own or deployment.desired_state == DesiredState.RUNNING:
            rows.append(_row(deployment, own, board, second))
    return rows


def _row(deployment: Deployment, replicas: Sequence[Replica], board: Board, second: int) -> Sample:
    found = (board.reading(replica.replica_id) for replica in replicas)
    figures = [reading.figures for reading in found if reading is not None]
    # Asleep, nothing is held or generated, and that is measured; before its first replica nothing is known.
    asleep = not replicas and _is_asleep(deployment)
    tokens = {
        name: 0 if asleep else board.without_probes(deployment.pk, name, _tokens(replicas, board, name))
        for name in ("prompt_tokens", "completion_tokens")
    }
    waiting = [figure["requests_waiting"] for figure in figures if "requests_waiting" in figure]
    queued = board.queued(MODEL_APP_PREFIX + deployment.name)
    usage = [figure["kv_cache_usage"] for figure in figures if "kv_cache_usage" in figure]
    claimed = sum(replica.accelerators for replica in replicas)
    running = [replica for replica in replicas if replica.state == "RUNNING"]
    return Sample(
        deployment_id=deployment.pk,
        resolution_s=1,
        at=second,
        requests_running=0.0 if asleep else _sum_of(figures, "requests_running"),
        requests_waiting=_sum(waiting + ([] if queued is None else [queued]), empty=0.0 if asleep else None),
        kv_cache_usage=sum(usage) / len(usage) if usage else None,
        **tokens,
        requests_ok=0,
        requests_failed=0,
        replicas=float(len(running)),
        cost_per_hour_usd=Decimal(claimed) * deployment.price_per_accelerator_hour_usd,
        **_memory(deployment, running, board, asleep),
    )


def _memory(
    deployment: Deployment, running: Sequence[Replica], board: Board, asleep: bool
) -> dict[str, int | None]:
    """Weights, KV cache and the rest, over all running replicas; None unless every one of them is known.

    On CPU the rest is the processes' proportional set size without the two. On an accelerator the host's
    figure says nothing of device memory, so the rest is not known there.
    """
    if asleep:
        return {"weights_bytes": 0, "kv_cache_bytes": 0, "rest_bytes": 0}
    facts = [_facts(replica, board) for replica in running]
    weights = _all_of(facts, "weights_bytes")
    kv_cache = _all_of(facts, "kv_cache_bytes")
    processes = _all_of(facts, "process_memory_bytes")
    rest = None
    if _on_cpu(deployment) and None not in (weights, kv_cache, processes):
        rest = max(0, (processes or 0) - (weights or 0) - (kv_cache or 0))
    return {"weights_bytes": weights, "kv_cache_bytes": kv_cache, "rest_bytes": rest}


def _facts(replica: Replica, board: Board) -> Mapping[str, Any]:
    """Sizes as the page says now, else as they were noted on the replica's row."""
    reading = board.reading(replica.replica_id)
    return {**replica.facts, **(reading.figures if reading else {})}


def _on_cpu(deployment: Deployment) -> bool:
    revision = deployment.current_revision
    return revision is not None and revision.engine.get("accelerator_type") is None


def _all_of(facts: Sequence[Mapping[str, Any]], name: str) -> int | None:
    if not facts or any(name not in fact for fact in facts):
        return None
    return int(sum(fact[name] for fact in facts))


def _sum_of(figures: Sequence[Mapping[str, float]], name: str) -> float | None:
    return _sum([figure[name] for figure in figures if name in figure], empty=None)


def _sum(values: Sequence[float], *, empty: float | None) -> float | None:
    return float(sum(values)) if values else empty


def _is_asleep(deployment: Deployment) -> bool:
    status = getattr(deployment, "status", None)
    return status is not None and status.asleep_at is not None


def _tokens(replicas: Sequence[Replica], board: Board, name: str) -> int | None:
    """Tokens of all replicas in this second; None when it is unknown for one of them, or for all.

    What a replica generates before it takes requests is its warm-up.
    """
    serving = (board.reading(one.replica_id) for one in replicas if one.state in ("RUNNING", "STOPPING"))
    readings = [reading for reading in serving if reading is not None]
    if not readings or any(reading.grown is None for reading in readings):
        return None
    return round(sum((reading.grown or {}).get(name, 0.0) for reading in readings))


def finished_by_second(
    records: Iterable[UsageRecord], *, deployments: Mapping[str, int], newest: int
) -> dict[Key, Finished]:
    """Records -> what each second's row gets. Seconds after `newest` (a clock ahead of ours) count there.

    Failed: engine errors and 5xx. Requests refused as wrong (4xx) are in the ledger, but are no traffic.
    """
    found: dict[Key, Finished] = {}
    for record in records:
        deployment_id = deployments.get(record.deployment)
        if deployment_id is None or not (record.failed or record.answered):
            continue
        second = min(int(record.finished_at), newest)
        _count(found.setdefault((deployment_id, second), Finished()), record)
    return found


def _count(into: Finished, record: UsageRecord) -> None:
    if record.failed:
        into.requests_failed += 1
        return
    into.requests_ok += 1
    into.observe("ttft", record.first_token_s)
    into.observe("tpot", record.per_token_s)
    into.observe("queue", record.queue_s)
    if record.outcome == "ok":
        into.observe("e2e", record.e2e_s)


def add_to_row(row: Sample, finished: Finished) -> None:
    """Add finished requests to a row, saved or not, in memory."""
    row.requests_ok = (row.requests_ok or 0) + finished.requests_ok
    row.requests_failed = (row.requests_failed or 0) + finished.requests_failed
    for name in LATENCIES:
        setattr(row, name, histogram.merged([getattr(row, name), getattr(finished, name)]))


def add_to_stored_rows(found: Mapping[Key, Finished]) -> None:
    """Add late requests to the rows of their seconds, in every resolution that is complete there.

    Call it in the transaction that stores the records. The marks are locked first, as the roll-up does: what
    it has rolled up is changed here, what it has not it will find in the rows of the seconds.
    """
    if not found:
        return
    marks = {mark.resolution_s: mark.complete_to for mark in locked_marks()}
    finest_s = min(RETENTION_S)
    for resolution_s in RETENTION_S:
        parts: dict[Key, list[Finished]] = {}
        for (deployment_id, second), finished in found.items():
            start = second // resolution_s * resolution_s
            if resolution_s == finest_s or start + resolution_s <= marks.get(resolution_s, 0):
                parts.setdefault((deployment_id, start), []).append(finished)
        if parts:
            _add_parts(parts, resolution_s)


def locked_marks() -> list[SampleMark]:
    """How far each coarser resolution is complete; locked until the transaction ends, always in one order."""
    return list(SampleMark.objects.select_for_update().order_by("resolution_s"))


def _add_parts(parts: Mapping[Key, list[Finished]], resolution_s: int) -> None:
    ids = {deployment_id for deployment_id, _ in parts}
    stored = Sample.objects.select_for_update().filter(
        deployment_id__in=ids, resolution_s=resolution_s, at__in={at for _, at in parts}
    )
    rows = {(row.deployment_id, row.at): row for row in stored}
    made = []
    for (deployment_id, at), finished in parts.items():
        row = rows.get((deployment_id, at))
        if row is None:
            row = Sample(deployment_id=deployment_id, resolution_s=resolution_s, at=at)
            made.append(row)
        for one in finished:
            add_to_row(row, one)
    changed = [row for key, row in rows.items() if key in parts]
    Sample.objects.bulk_update(changed, ["requests_ok", "requests_failed", *LATENCIES])
    Sample.objects.bulk_create(made)
