"""The usage ledger: from the Redis stream into RequestRecord rows, each record exactly once.

Rows are keyed by the record's own id and an entry leaves the stream only after the commit that holds its
row. So whatever is killed in between, the entry is simply read again, found known, and deleted. No consumer
group is needed: the collector's lease makes the reader single, and a plain range from the beginning always
starts with what nobody has finished. Must hold no record in memory from one tick to the next.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from django.db import DataError, transaction
from django.db.models import Q

from console.models import SMOKE_KEY, ApiKey, Deployment, KeyKind, RequestRecord
from serving.usage import BadRecord, UsageRecord, read_record

log = logging.getLogger(__name__)

LAST_USED_STEP_S = 5.0
"""A key's last use is written at most this often; the ledger itself has every request."""


@dataclass(frozen=True)
class Entry:
    """One stream entry: its id in the stream and either the record or why it is none."""

    entry_id: str
    text: str
    record: UsageRecord | None
    error: str = ""

    @property
    def arrived_at(self) -> float:
        """Epoch seconds at which Redis took it (the id's first half is milliseconds)."""
        return int(self.entry_id.split("-")[0]) / 1000.0


def read_entries(raw: Iterable[tuple[Any, dict[Any, Any]]]) -> list[Entry]:
    """Stream entries as redis-py gives them (bytes), read and checked; none of them raises."""
    return [_read_entry(entry_id, fields) for entry_id, fields in raw]


def _read_entry(entry_id: Any, fields: dict[Any, Any]) -> Entry:
    name = entry_id.decode() if isinstance(entry_id, bytes) else str(entry_id)
    content = fields.get(b"r", fields.get("r", b""))
    text = content.decode("utf-8", "replace") if isinstance(content, bytes) else str(content)
    try:
        return Entry(name, text, read_record(text))
    except BadRecord as error:
        return Entry(name, text, None, str(error))


def store(records: Sequence[UsageRecord]) -> list[UsageRecord]:
    """Insert the records that are not in the ledger yet and note their keys' last use; returns those.

    Call it inside a transaction that has checked the collector's lease: two writers at once would both
    call a record new. Raises DataError when the database refuses a value.
    """
    unique = {record.id: record for record in reversed(records)}
    known = set(RequestRecord.objects.filter(pk__in=list(unique)).values_list("pk", flat=True))
    fresh = [record for record in unique.values() if record.id not in known][::-1]
    if not fresh:
        return []
    key_ids = set(ApiKey.objects.filter(pk__in={r.key_id for r in fresh}).values_list("pk", flat=True))
    names = {record.deployment for record in fresh}
    deployments = dict(Deployment.objects.filter(name__in=names).values_list("name", "pk"))
    RequestRecord.objects.bulk_create(
        [_row(record, key_ids, deployments) for record in fresh], ignore_conflicts=True
    )
    _note_last_use(fresh, key_ids)
    return fresh


def without_probes(records: Sequence[UsageRecord]) -> tuple[list[UsageRecord], list[UsageRecord]]:
    """Callers' requests, and the console's own smoke requests, which are no traffic of anybody."""
    if not records:
        return [], []
    smoke = set(ApiKey.objects.filter(kind=KeyKind.INTERNAL, name=SMOKE_KEY).values_list("pk", flat=True))
    callers = [record for record in records if record.key_id not in smoke]
    return callers, [record for record in records if record.key_id in smoke]


def refused(records: Sequence[UsageRecord]) -> list[UsageRecord]:
    """Those of a batch that the database itself refuses, found by trying each half; writes nothing."""
    try:
        with transaction.atomic():
            store(records)
            transaction.set_rollback(True)
    except (DataError, OverflowError, ValueError):
        if len(records) == 1:
            return list(records)
        middle = len(records) // 2
        return refused(records[:middle]) + refused(records[middle:])
    return []


def _row(record: UsageRecord, key_ids: set[int], deployments: dict[str, int]) -> RequestRecord:
    return RequestRecord(
        id=record.id,
        key_id=record.key_id if record.key_id in key_ids else None,
        user_name=record.user,
        deployment_id=deployments.get(record.deployment),
        deployment_name=record.deployment,
        alias=record.alias,
        adapter=record.adapter,
        revision=record.revision,
        replica=record.replica,
        path=record.path,
        stream=record.stream,
        started_at=record.started_at,
        prompt_tokens=record.prompt_tokens,
        cached_tokens=record.cached_tokens,
        completion_tokens=record.completion_tokens,
        gateway_s=record.gateway_s,
        held_s=record.held_s,
        queue_s=record.queue_s,
        prefill_s=record.prefill_s,
        engine_decode_s=record.engine_decode_s,
        ttft_s=record.ttft_s,
        tpot_s=record.tpot_s,
        decode_s=record.decode_s,
        e2e_s=record.e2e_s,
        status=record.status,
        outcome=record.outcome,
        finish_reason=record.finish_reason,
        error_class=record.error_class,
        woke=record.woke,
        finished_at=record.finished_at,
    )


def _note_last_use(records: Sequence[UsageRecord], key_ids: set[int]) -> None:
    latest: dict[int, float] = {}
    for record in records:
        if record.key_id in key_ids:
            latest[record.key_id] = max(latest.get(record.key_id, 0.0), record.started_at)
    for key_id, started_at in latest.items():
        used_at = datetime.fromtimestamp(started_at, UTC)
        stale = datetime.fromtimestamp(started_at - LAST_USED_STEP_S, UTC)
        ApiKey.objects.filter(Q(last_used_at=None) | Q(last_used_at__lt=stale), pk=key_id).update(
            last_used_at=used_at
        )
