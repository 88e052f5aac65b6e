"""One row per deployment and second: null for what nobody measured, late requests in their own second."""

from __future__ import annotations

from decimal import Decimal

import pytest

from console.models import ApiKey, Deployment, DeploymentStatus, Replica, Sample, SampleMark
from serving import histogram
from serving.metrics import CounterDeltas, read_page
from serving.usage import read_record
from tests.unit.workers.fleet import make_deployment, make_replica, page_text, text_of
from workers import samples, usage

pytestmark = pytest.mark.django_db
MIB = 1 << 20


def board_of(*texts: str, base: str = "", now: float = 100.0) -> samples.Board:
    """A board after two readings of one node's page a second apart."""
    board, deltas = samples.Board(), CounterDeltas()
    for at, text in ((now - 1, base or "\n".join(texts)), (now, "\n".join(texts))):
        page = read_page(text)
        board.begin(at)
        board.add(page, target="n", grown=deltas.grown(target="n", page=page, now=at), now=at)
    return board


def rows(board: samples.Board, second: int = 99) -> list[Sample]:
    return samples.build(
        deployments=list(Deployment.objects.select_related("current_revision", "status")),
        replicas=list(Replica.objects.filter(ended_at=None)),
        board=board,
        second=second,
    )


def test_a_row_sums_the_replicas_and_counts_the_tokens_of_its_second():
    deployment = make_deployment(price="1.5")
    make_replica(deployment, "a", accelerators=2)
    make_replica(deployment, "b", accelerators=2)
    before = page_text("a", completion_tokens=100) + page_text("b", completion_tokens=7)
    board = board_of(
        page_text("a", requests_running=3, requests_waiting=1, kv_cache_usage=0.2, completion_tokens=160),
        page_text("b", requests_running=1, requests_waiting=0, kv_cache_usage=0.4, completion_tokens=9),
        base=before,
    )
    (row,) = rows(board)
    assert (row.requests_running, row.requests_waiting, row.replicas) == (4, 1, 2)
    assert row.kv_cache_usage == pytest.approx(0.3)
    assert (row.completion_tokens, row.prompt_tokens) == (62, 0)
    assert row.cost_per_hour_usd == Decimal("6.0")
    assert (row.ttft, row.requests_ok, row.requests_failed) == ({}, 0, 0)


def test_memory_parts_are_the_engines_and_the_rest_is_what_the_processes_hold_beside_them():
    deployment = make_deployment()
    make_replica(deployment, "a")
    sizes = {"weights_bytes": 20 * MIB, "kv_cache_bytes": 64 * MIB, "process_memory_bytes": 1000 * MIB}
    (row,) = rows(board_of(page_text("a", **sizes)))
    assert (row.weights_bytes, row.kv_cache_bytes, row.rest_bytes) == (20 * MIB, 64 * MIB, 916 * MIB)


def test_on_an_accelerator_the_rest_is_not_known():
    deployment = make_deployment(engine={"accelerator_type": "H100"})
    make_replica(deployment, "a")
    sizes = {"weights_bytes": 20 * MIB, "kv_cache_bytes": 64 * MIB, "process_memory_bytes": 1000 * MIB}
    (row,) = rows(board_of(page_text("a", **sizes)))
    assert (row.weights_bytes, row.rest_bytes) == (20 * MIB, None)


def test_memory_of_which_one_replica_says_nothing_is_not_known():
    deployment = make_deployment()
    make_replica(deployment, "a")
    make_replica(deployment, "b")
    (row,) = rows(board_of(page_text("a", weights_bytes=20 * MIB)))
    assert row.weights_bytes is None


def test_facts_noted_on_the_replica_stand_in_for_a_page_without_them():
    deployment = make_deployment()
    make_replica(deployment, "a", facts={"weights_bytes": 5, "kv_cache_bytes": 6})
    (row,) = rows(board_of(page_text("a", requests_running=0)))
    assert (row.weights_bytes, row.kv_cache_bytes, row.rest_bytes) == (5, 6, None)


def test_a_replica_that_still_loads_gives_no_figures_but_costs():
    deployment = make_deployment(price="2")
    make_replica(deployment, "a", state="STARTING")
    (row,) = rows(board_of(page_text("other", requests_running=9)))
    assert (row.requests_running, row.completion_tokens, row.kv_cache_usage) == (None, None, None)
    assert (row.replicas, row.cost_per_hour_usd) == (0, Decimal(2))


def test_an_asleep_deployment_is_measured_as_zero():
    DeploymentStatus.objects.create(deployment=make_deployment(), asleep_at=50.0)
    (row,) = rows(board_of(page_text("other", requests_running=9)))
    assert (row.requests_running, row.requests_waiting, row.completion_tokens) == (0, 0, 0)
    assert (row.replicas, row.weights_bytes, row.cost_per_hour_usd) == (0, 0, Decimal(0))


def test_callers_held_for_a_sleeping_deployment_are_waiting_also_when_a_page_leaves_them_out():
    make_deployment("demo")
    held = 'ray_raydeck_callers_waiting{application="model-demo"} 3.0'
    board = board_of(held)
    (row,) = rows(board)
    assert row.requests_waiting == 3
    board.begin(101.0)
    board.add(read_page(""), target="n", grown=None, now=101.0)
    assert rows(board)[0].requests_waiting == 3
    board.begin(100.0 + samples.KEPT_S + 1)
    assert rows(board)[0].requests_waiting is None


def test_before_any_replica_exists_there_is_nothing_to_draw():
    make_deployment("demo")
    (row,) = rows(board_of(""))
    assert (row.replicas, row.cost_per_hour_usd) == (0, Decimal(0))
    assert (row.kv_cache_usage, row.requests_running, row.requests_waiting) == (None, None, None)
    assert (row.completion_tokens, row.prompt_tokens) == (None, None)
    assert (row.weights_bytes, row.kv_cache_bytes, row.rest_bytes) == (None, None, None)


def test_the_consoles_own_probe_is_no_traffic():
    deployment = make_deployment()
    key = ApiKey.objects.create(name="smoke", digest="d", prefix="internal", kind="internal")
    make_replica(deployment, "a")
    probe = read_record(text_of(key_id=key.pk, prompt_tokens=1, completion_tokens=2))
    mine = read_record(text_of(key_id=key.pk + 1))
    callers, probes = usage.without_probes([probe, mine])
    assert (callers, probes) == ([mine], [probe])
    text = page_text("a", requests_running=0, prompt_tokens=11, completion_tokens=22)
    board = board_of(text, base=page_text("a", requests_running=0, prompt_tokens=0, completion_tokens=0))
    board.note_probes(probes, deployments={"demo": deployment.pk}, now=100.0)
    (row,) = rows(board)
    assert (row.prompt_tokens, row.completion_tokens) == (10, 20)
    (row,) = rows(board)
    assert (row.prompt_tokens, row.completion_tokens) == (11, 22), "taken off once"


def test_what_a_replica_generates_before_it_takes_requests_is_its_own_warm_up():
    deployment = make_deployment()
    make_replica(deployment, "a", state="STARTING")
    text = page_text("a", requests_running=0, prompt_tokens=11, completion_tokens=22)
    (row,) = rows(
        board_of(text, base=page_text("a", requests_running=0, prompt_tokens=0, completion_tokens=0))
    )
    assert (row.prompt_tokens, row.completion_tokens) == (None, None)


def test_a_stopped_deployment_without_replicas_has_no_row():
    deployment = make_deployment()
    Deployment.objects.filter(pk=deployment.pk).update(desired_state="stopped")
    assert rows(board_of("")) == []
    make_replica(deployment, "draining")
    assert len(rows(board_of(""))) == 1


def test_a_page_that_left_a_replica_out_for_a_moment_does_not_make_it_zero():
    deployment = make_deployment()
    make_replica(deployment, "a")
    board = board_of(page_text("a", requests_running=5, completion_tokens=10), now=100.0)
    board.begin(101.0)
    (row,) = rows(board)
    assert (row.requests_running, row.completion_tokens) == (5, None)
    board.begin(100.0 + samples.KEPT_S + 1)
    (row,) = rows(board)
    assert row.requests_running is None


def finished(*records, newest=10**9):
    names = dict(Deployment.objects.values_list("name", "pk"))
    return samples.finished_by_second(
        [read_record(text_of(**values)) for values in records], deployments=names, newest=newest
    )


def test_requests_count_in_the_second_they_finished():
    deployment = make_deployment()
    found = finished(
        {"started_at": 999.9, "e2e_s": 0.05},
        {"started_at": 999.9, "e2e_s": 0.2},
        {"started_at": 1000.0, "e2e_s": 0.9, "outcome": "error", "status": 500},
        {"started_at": 1000.1, "e2e_s": 0.1, "outcome": "refused", "status": 401},
        {"started_at": 1000.1, "e2e_s": 0.1, "deployment": "unknown"},
    )
    assert set(found) == {(deployment.pk, 999), (deployment.pk, 1000)}
    assert (found[(deployment.pk, 999)].requests_ok, found[(deployment.pk, 1000)].requests_ok) == (1, 1)
    assert found[(deployment.pk, 1000)].requests_failed == 1
    assert sum(found[(deployment.pk, 1000)].e2e.values()) == 1


def test_an_aborted_request_tells_its_first_token_but_no_end_to_end_time():
    deployment = make_deployment()
    found = finished({"outcome": "aborted", "status": 499, "started_at": 5.0})[(deployment.pk, 5)]
    assert (sum(found.ttft.values()), sum(found.e2e.values()), found.requests_ok) == (1, 0, 1)


def test_a_record_from_a_clock_ahead_counts_in_the_newest_second():
    deployment = make_deployment()
    assert set(finished({"started_at": 2000.0}, newest=1000)) == {(deployment.pk, 1000)}


def test_a_late_request_is_added_to_its_row_in_every_resolution_that_is_complete_there():
    deployment = make_deployment()
    for resolution_s, complete_to in ((10, 1240), (60, 1260), (300, 1200)):
        SampleMark.objects.create(resolution_s=resolution_s, complete_to=complete_to)
    for resolution_s, at in ((1, 1234), (10, 1230), (60, 1200), (1, 1235)):
        Sample.objects.create(
            deployment=deployment, resolution_s=resolution_s, at=at, requests_ok=1, ttft={100: 1}
        )
    late = {"started_at": 1234.0, "e2e_s": 0.5, "ttft_s": 0.05}
    samples.add_to_stored_rows(finished(late, {**late, "started_at": 1236.0}))
    bucket = histogram.bucket_of(0.05)
    for resolution_s, at, requests in ((1, 1234, 2), (10, 1230, 3), (60, 1200, 3), (1, 1235, 1)):
        row = Sample.objects.get(resolution_s=resolution_s, at=at)
        assert row.requests_ok == requests, (resolution_s, at)
        assert row.ttft.get(100) == 1
        assert row.ttft.get(bucket, 0) == requests - 1
    # The second without a row gets one that knows of requests alone; 300 s rows are still to be rolled up.
    made = Sample.objects.get(resolution_s=1, at=1236)
    assert (made.requests_ok, made.requests_failed, made.replicas, made.requests_running) == (
        1,
        0,
        None,
        None,
    )
    assert Sample.objects.count() == 5


def test_a_request_in_a_gap_that_was_rolled_up_counts_in_every_resolution():
    deployment = make_deployment()
    for resolution_s, complete_to in ((10, 2000), (60, 1980), (300, 1800)):
        SampleMark.objects.create(resolution_s=resolution_s, complete_to=complete_to)
    samples.add_to_stored_rows(finished({"started_at": 1234.0, "e2e_s": 0.5, "queue_s": 0.25}))
    for resolution_s, at in ((1, 1234), (10, 1230), (60, 1200), (300, 1200)):
        row = Sample.objects.get(deployment=deployment, resolution_s=resolution_s, at=at)
        assert (row.requests_ok, row.queue) == (1, {histogram.bucket_of(0.25): 1})
    assert Sample.objects.count() == 4


def test_an_idle_engine_which_sets_no_gauges_is_measured_as_zero():
    deployment = make_deployment()
    make_replica(deployment, "a")
    (row,) = rows(board_of(page_text("a", requests_in_flight=0, completion_tokens=50)))
    assert (row.requests_running, row.requests_waiting, row.kv_cache_usage) == (0, 0, 0)
    assert row.completion_tokens == 0


def test_an_engine_in_a_long_step_is_not_taken_for_idle():
    deployment = make_deployment()
    make_replica(deployment, "a")
    board = board_of(page_text("a", requests_in_flight=4, requests_running=4, kv_cache_usage=0.5))
    for second in range(10):
        board.begin(101.0 + second)
        page = read_page(page_text("a", requests_in_flight=4))
        board.add(page, target="n", grown={}, now=101.0 + second)
    (row,) = rows(board)
    assert (row.requests_running, row.kv_cache_usage) == (4, 0.5)


def test_a_figure_that_a_page_leaves_out_for_a_moment_is_kept_and_sizes_longer():
    deployment = make_deployment()
    make_replica(deployment, "a")
    sizes = {"weights_bytes": 20 * MIB, "kv_cache_bytes": 64 * MIB, "process_memory_bytes": 1000 * MIB}
    board = board_of(page_text("a", requests_in_flight=1, requests_running=1, **sizes))
    for second, running in ((102.0, 1), (110.0, None)):
        board.begin(second)
        board.add(read_page(""), target="n", grown={}, now=second)
        (row,) = rows(board)
        assert (row.requests_running, row.weights_bytes, row.completion_tokens) == (running, 20 * MIB, 0)
    board.begin(140.0)
    (row,) = rows(board)
    assert (row.weights_bytes, row.completion_tokens) == (None, None)
