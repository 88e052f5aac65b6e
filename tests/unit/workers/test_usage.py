"""The ledger: each record once, whatever is repeated; keys' last use; what the database refuses."""

from __future__ import annotations

import pytest

from console.models import ApiKey, RequestRecord
from serving.usage import read_record
from tests.unit.workers.fleet import make_deployment, make_key, text_of
from workers import usage

pytestmark = pytest.mark.django_db


def read(**values):
    return read_record(text_of(**values))


def test_a_record_becomes_a_row_with_its_key_and_deployment():
    deployment, key = make_deployment(), make_key()
    usage.store([read(id="a", key_id=key.pk, user="ann", woke=True)])
    row = RequestRecord.objects.get(pk="a")
    assert (row.deployment_id, row.key_id, row.user_name, row.woke) == (deployment.pk, key.pk, "ann", True)
    assert (row.ttft_s, row.tpot_s, row.completion_tokens) == (0.05, 0.01, 20)


def test_a_record_of_an_unknown_key_and_deployment_is_kept():
    usage.store([read(id="a", key_id=999, deployment="gone")])
    row = RequestRecord.objects.get(pk="a")
    assert (row.key_id, row.deployment_id, row.deployment_name) == (None, None, "gone")


def test_a_record_that_comes_again_is_stored_once_and_keeps_its_first_content():
    first = usage.store([read(id="a", completion_tokens=1), read(id="a", completion_tokens=2)])
    again = usage.store([read(id="a", completion_tokens=3), read(id="b")])
    assert [record.completion_tokens for record in first] == [1]
    assert [record.id for record in again] == ["b"]
    assert RequestRecord.objects.get(pk="a").completion_tokens == 1
    assert RequestRecord.objects.count() == 2


def test_storing_many_takes_hardly_more_queries_than_storing_one(django_assert_max_num_queries):
    make_deployment()
    key = make_key()
    # SQLite takes at most 999 values in one INSERT, 32 rows of 31.
    for count, queries in ((1, 5), (200, 4 + 7)):
        with django_assert_max_num_queries(queries):
            usage.store([read(key_id=key.pk, started_at=2_000_000.0 + count) for _ in range(count)])


def test_a_keys_last_use_only_moves_forward():
    key = make_key()
    usage.store([read(key_id=key.pk, started_at=2_000_000.0), read(key_id=key.pk, started_at=1_999_000.0)])
    usage.store([read(key_id=key.pk, started_at=1_000_000.0)])
    used_at = ApiKey.objects.get(pk=key.pk).last_used_at
    assert used_at is not None
    assert used_at.timestamp() == 2_000_000.0


def test_the_records_a_database_refuses_are_found_without_writing(monkeypatch):
    good, bad = read(id="good"), read(id="bad")
    plain = RequestRecord.objects.bulk_create

    def picky(rows, **options):
        if any(row.id == "bad" for row in rows):
            raise ValueError("a value this database cannot hold")
        return plain(rows, **options)

    monkeypatch.setattr(RequestRecord.objects, "bulk_create", picky)
    batch = [read() for _ in range(20)] + [bad, good]
    assert [record.id for record in usage.refused(batch)] == ["bad"]
    assert RequestRecord.objects.count() == 0


def test_stream_entries_are_read_one_by_one():
    entries = usage.read_entries(
        [
            (b"1700000000123-0", {b"r": text_of(id="a").encode()}),
            (b"1700000000124-0", {b"r": b"{broken"}),
            (b"1700000000125-0", {b"other": b"field"}),
        ]
    )
    assert [entry.record.id if entry.record else None for entry in entries] == ["a", None, None]
    assert entries[0].arrived_at == 1_700_000_000.123
    assert entries[1].error == "not JSON"
