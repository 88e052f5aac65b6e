"""Usage records: what is in them, and that none is lost without being counted."""

import asyncio
import json
import os
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from serving.cluster.metering import Meter, current_meter, metered, metered_abort
from serving.cluster.spool import Spool, folder_for
from serving.cluster.timeline import Timeline
from serving.cluster.usage import UsageRecorder


def line(**known: Any) -> Timeline:
    return Timeline(request_id="r1", path="/v1/completions", started_at=1000.0, started=10.0, **known)


def test_a_record_has_every_figure_of_a_streamed_answer() -> None:
    timeline = line(key_id=4, deployment="demo", revision=2, stream=True)
    timeline.handed_over = 10.010
    for at in (10.2, 10.3, 10.6):
        timeline.event(at)
    timeline.meta = {
        "prompt_tokens": 7,
        "completion_tokens": 5,
        "queue_s": 0.01,
        "prefill_s": 0.1,
        "replica": "x",
    }
    record = timeline.record(10.7, status=200, outcome="ok", error_class=None)
    assert record["gateway_s"] == pytest.approx(0.010)
    assert record["ttft_s"] == pytest.approx(0.2)
    assert record["decode_s"] == pytest.approx(0.4)
    assert record["tpot_s"] == pytest.approx(0.1)
    assert record["e2e_s"] == pytest.approx(0.7)
    assert (record["prompt_tokens"], record["completion_tokens"], record["replica"]) == (7, 5, "x")
    json.dumps(record)


def test_figures_nobody_measured_are_null() -> None:
    record = line().record(10.5, status=404, outcome="refused", error_class="model_not_found")
    assert [record[name] for name in ("ttft_s", "tpot_s", "decode_s", "queue_s", "gateway_s")] == [None] * 5
    assert record["e2e_s"] == pytest.approx(0.5)


def test_one_token_has_no_time_per_token() -> None:
    timeline = line()
    timeline.event(10.2)
    timeline.meta = {"completion_tokens": 1}
    assert timeline.record(10.3, status=200, outcome="ok", error_class=None)["tpot_s"] is None


def test_time_spent_waiting_for_a_replica_is_not_the_gateways() -> None:
    timeline = line(held_s=4.0)
    timeline.handed_over = 14.02
    record = timeline.record(15.0, status=200, outcome="ok", error_class=None)
    assert record["gateway_s"] == pytest.approx(0.02)


def test_the_spool_keeps_to_its_limit_and_says_what_did_not_fit(tmp_path: Path) -> None:
    spool = Spool(tmp_path, writer="a", limit_bytes=100)
    record = "{" + "x" * 28 + "}"  # 31 bytes with its line end
    assert spool.append([record] * 2) == 2
    assert spool.append([record] * 5) == 1
    assert spool.append([record]) == 0
    assert spool.size_bytes() == 93


def test_a_claimed_file_is_delivered_once_or_given_back(tmp_path: Path) -> None:
    spool = Spool(tmp_path, writer="a")
    spool.append(['{"id":1}', '{"id":2}'])
    claim = spool.claim()
    assert claim is not None
    assert claim.records == ['{"id":1}', '{"id":2}']
    assert spool.claim() is None
    claim.give_back()
    again = spool.claim()
    assert again is not None
    again.done()
    assert spool.claim() is None
    assert list(tmp_path.iterdir()) == []


def test_what_is_written_while_a_file_is_claimed_goes_elsewhere(tmp_path: Path) -> None:
    spool = Spool(tmp_path, writer="a")
    spool.append(['{"id":1}'])
    claim = spool.claim()
    assert claim is not None
    spool.append(['{"id":2}'])
    claim.done()
    second = spool.claim()
    assert second is not None
    assert second.records == ['{"id":2}']


def test_a_line_cut_off_by_a_crash_is_no_record(tmp_path: Path) -> None:
    (tmp_path / "usage-a-0.jsonl").write_bytes(b'{"id":1}\n{"id":2,"st')
    claim = Spool(tmp_path, writer="a").claim()
    assert claim is not None
    assert claim.records == ['{"id":1}']


def test_another_writers_file_is_left_alone_until_it_rests(tmp_path: Path) -> None:
    other, spool = Spool(tmp_path, writer="b"), Spool(tmp_path, writer="a")
    other.append(['{"id":1}'])
    assert spool.claim() is None
    past = time.time() - 60
    os.utime(tmp_path / "usage-b-0.jsonl", (past, past))
    assert spool.claim() is not None


def test_a_claim_of_a_dead_replica_is_found_again(tmp_path: Path) -> None:
    claimed = tmp_path / "usage-b-0.jsonl.b"
    claimed.write_text('{"id":1}\n')
    past = time.time() - 600
    os.utime(claimed, (past, past))
    claim = Spool(tmp_path, writer="a").claim()
    assert claim is not None
    assert claim.records == ['{"id":1}']


REDIS = "redis://:secret@redis:6379/0"


def test_without_a_folder_of_its_own_a_gateway_keeps_records_in_a_private_temporary_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert folder_for(given="/given", pepper="p", redis_url=REDIS) == Path("/given")
    folder = folder_for(given=None, pepper="p", redis_url=REDIS)
    assert folder is not None and folder.parent == tmp_path
    assert folder.stat().st_mode & 0o777 == 0o700
    assert folder == folder_for(given="", pepper="p", redis_url=REDIS), "found again after a restart"
    others = {
        folder_for(given=None, pepper="p", redis_url=f"{REDIS}1"),
        folder_for(given=None, pepper="q", redis_url=REDIS),
    }
    assert folder not in others and len(others) == 2, "another cluster's records are not ours to deliver"
    assert "secret" not in str(folder)
    assert folder_for(given=None, pepper="p", redis_url=None) is None


def test_a_folder_that_others_can_write_to_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    folder = folder_for(given=None, pepper="p", redis_url=REDIS)
    assert folder is not None
    folder.chmod(0o777)
    assert folder_for(given=None, pepper="p", redis_url=REDIS) is None
    folder.rmdir()
    folder.symlink_to(tmp_path)
    assert folder_for(given=None, pepper="p", redis_url=REDIS) is None


async def test_without_redis_records_go_to_disk_and_beyond_it_are_counted(tmp_path: Path) -> None:
    recorder = UsageRecorder(redis_url=None, spool=Spool(tmp_path, writer="a", limit_bytes=45))
    recorder.start()
    for number in range(5):
        recorder.add({"id": f"request-{number}"})  # 19 bytes and a line end each
    await recorder.close()
    kept = sum(len(file.read_text().splitlines()) for file in tmp_path.iterdir())
    assert kept == 2
    assert recorder.unrecorded == 3
    assert recorder.state()["redis"] == "off"


async def test_a_redis_that_does_not_answer_costs_no_record(tmp_path: Path, unused_tcp_port: int) -> None:
    recorder = UsageRecorder(
        redis_url=f"redis://127.0.0.1:{unused_tcp_port}/0", spool=Spool(tmp_path, writer="a")
    )
    recorder.start()
    recorder.add({"id": "one"})
    deadline = time.monotonic() + 10
    while not recorder.state()["spooled_bytes"] and time.monotonic() < deadline:  # noqa: ASYNC110
        await asyncio.sleep(0.02)
    assert recorder.state()["redis"] == "away"
    await recorder.close()
    assert recorder.unrecorded == 0


def result(*tokens: int, index: int = 0, finish: str | None = None) -> SimpleNamespace:
    output = SimpleNamespace(index=index, token_ids=list(tokens), finish_reason=finish)
    last = 2.0 + 0.5 * len(tokens)
    stats = SimpleNamespace(queued_ts=1.0, scheduled_ts=1.25, first_token_ts=2.0, last_token_ts=last)
    return SimpleNamespace(
        request_id="r", num_cached_tokens=2, prompt_token_ids=[1, 2, 3], outputs=[output], metrics=stats
    )


async def engine_results(*results: SimpleNamespace) -> Any:
    for one in results:
        yield one


@pytest.mark.parametrize(("kind", "tokens"), [(1, 5), (0, 3)])
async def test_meters_count_deltas_and_cumulative_results(kind: int, tokens: int) -> None:
    meter = Meter("replica")
    current_meter.set(meter)
    generate = metered(lambda *_: engine_results(result(1, 2), result(3, 4, 5, finish="stop")))
    seen = [
        item async for item in generate("prompt", SimpleNamespace(output_kind=SimpleNamespace(value=kind)))
    ]
    assert len(seen) == 2
    meta = meter.meta()
    assert (meta["completion_tokens"], meta["prompt_tokens"], meta["cached_tokens"]) == (tokens, 3, 2)
    assert (meta["queue_s"], meta["prefill_s"], meta["decode_s"]) == (0.25, 0.75, 1.5)
    assert meta["finish_reason"] == "stop"


async def test_choices_of_one_request_add_up() -> None:
    meter = Meter("replica")
    for index in (0, 1):
        meter.note(result(1, 2, index=index), is_delta=True)
    assert meter.meta()["completion_tokens"] == 4
    assert meter.meta()["prompt_tokens"] == 3


async def test_an_aborted_requests_counts_are_read_before_they_are_forgotten() -> None:
    stats = SimpleNamespace(
        num_generation_tokens=9, queued_ts=0.0, scheduled_ts=0.1, first_token_ts=0.2, last_token_ts=0.9
    )
    states = {"r": SimpleNamespace(prompt_len=4, stats=stats)}

    async def abort(names: tuple[str, ...]) -> None:
        for name in names:
            del states[name]

    client = SimpleNamespace(abort=abort, output_processor=SimpleNamespace(request_states=states))
    meter = Meter("replica")
    current_meter.set(meter)
    await metered_abort(client)("r")
    assert states == {}
    assert (meter.meta()["prompt_tokens"], meter.meta()["completion_tokens"]) == (4, 9)
    assert meter.meta()["decode_s"] == pytest.approx(0.7)
