"""The gateway when callers leave, keys change, Redis is away, an engine dies or a model sleeps."""

import os
import signal
import time
from pathlib import Path

import httpx
import pytest

from serving import head
from serving.cluster.phases import descendants
from tests.cluster.events import open_stream
from tests.cluster.local_cluster import LocalCluster, wait_for

pytestmark = pytest.mark.cluster
CHAT = "/v1/chat/completions"
LISTENING = "0A"
# 20 to 40 s on a quiet machine.
RECOVERS_WITHIN_S = 240.0


@pytest.fixture(autouse=True)
def answering(cluster: LocalCluster) -> None:
    """What one test broke has recovered before the next one starts."""
    wait_for(
        "the model answers", lambda: chat(cluster).status_code == 200, within_s=RECOVERS_WITHIN_S, every_s=1
    )


def chat(cluster: LocalCluster, *, key: str | None = None, timeout_s: float = 60.0) -> httpx.Response:
    body = {"model": "demo", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 3}
    with cluster.http(key) as http:
        return http.post(CHAT, json=body, timeout=timeout_s)


def running_requests(cluster: LocalCluster) -> float:
    """The engine publishes its gauges while it works; no series means nothing runs."""
    return sum(cluster.metric("ray_vllm_num_requests_running"))


@pytest.mark.parametrize("stream", [True, False])
def test_a_caller_who_leaves_aborts_the_engines_work(cluster: LocalCluster, stream: bool) -> None:
    wait_for("engine idle", lambda: running_requests(cluster) == 0, within_s=10)
    known = {record["id"] for record in cluster.usage_records()}
    request = open_stream(
        cluster.ports.gateway, key=cluster.key, model="demo", stream=stream, max_tokens=480, ignore_eos=True
    )
    if stream:
        request.read_events(3)
    wait_for("engine works on it", lambda: running_requests(cluster) >= 1, within_s=5, every_s=0.05)
    left_at = time.monotonic()
    request.close()
    wait_for("engine dropped it", lambda: running_requests(cluster) == 0, within_s=5, every_s=0.05)
    assert time.monotonic() - left_at < 4
    aborted = wait_for(
        "usage record of the aborted request",
        lambda: [r for r in cluster.usage_records() if r["id"] not in known and r["outcome"] == "aborted"],
        within_s=10,
    )
    assert len(aborted) == 1
    assert aborted[0]["status"] == 499
    assert 1 <= aborted[0]["completion_tokens"] < 480
    assert aborted[0]["prompt_tokens"] > 0


def test_a_new_key_works_and_a_revoked_one_stops_without_restarting_a_replica(cluster: LocalCluster) -> None:
    def pids() -> list[int]:
        gateway = cluster.replicas("gateway", "Gateway")
        return [replica["pid"] for replica in [*gateway, *cluster.replicas("model-demo")]]

    before = pids()
    known = dict(cluster.keys)
    cluster.add_key("rd-late", id=9, kind="user")
    cluster.put()
    wait_for("new key works", lambda: chat(cluster, key="rd-late").status_code == 200, within_s=20)
    cluster.keys = known
    cluster.put()
    wait_for("revoked key stops", lambda: chat(cluster, key="rd-late").status_code == 401, within_s=20)
    assert pids() == before


def test_a_stopped_model_is_refused_with_the_reason_and_comes_back(cluster: LocalCluster) -> None:
    cluster.table["demo"] |= {"state": "stopped", "reason": "maintenance until noon"}
    cluster.put()
    refused = wait_for(
        "model refused", lambda: (answer := chat(cluster)).status_code == 503 and answer, within_s=20
    )
    error = refused.json()["error"]
    assert error["code"] == "model_stopped"
    assert "maintenance until noon" in error["message"]
    cluster.table["demo"] |= {"state": "failed", "reason": "No such file /srv/models/x/config.json"}
    cluster.put()
    wait_for("reason changed", lambda: "failed" in chat(cluster).text, within_s=20)
    assert "/srv" not in chat(cluster).text
    cluster.table["demo"] |= {"state": "serve", "reason": ""}
    cluster.put()
    wait_for("model answers again", lambda: chat(cluster).status_code == 200, within_s=20)


def test_a_broken_entry_in_the_table_takes_nothing_down(cluster: LocalCluster) -> None:
    cluster.table["broken"] = {"app": None, "revision": "x"}
    cluster.table["ghost"] = {**cluster.table["demo"], "app": "model-ghost", "hold_s": 1.0}
    try:
        cluster.put()
        with cluster.http() as http:
            ghost = wait_for(
                "ghost known",
                lambda: (
                    (a := http.post(CHAT, json={"model": "ghost", "messages": []})).status_code == 503 and a
                ),
                within_s=30,
            )
            assert http.post(CHAT, json={"model": "broken", "messages": []}).status_code == 404
        assert ghost.json()["error"]["code"] == "model_starting"
        assert chat(cluster).status_code == 200
    finally:
        del cluster.table["broken"], cluster.table["ghost"]
        cluster.put()


def test_records_outlive_redis(cluster: LocalCluster) -> None:
    cluster.stop_redis()
    answers = [chat(cluster) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200, 200, 200]

    def spooled() -> bool:
        with cluster.http() as http:
            usage = http.get("/healthz").json()["usage"]
        return usage["redis"] == "away" and usage["spooled_bytes"] > 0 and usage["queued"] == 0

    wait_for("records on disk", spooled, within_s=15)
    cluster.start_redis()
    ids = [answer.headers["x-request-id"] for answer in answers]
    for request_id in ids:
        assert cluster.usage_record(request_id, within_s=20)["outcome"] == "ok"
    seen = [record["id"] for record in cluster.usage_records()]
    assert len(seen) == len(set(seen))
    wait_for("spool empty", lambda: not list((cluster.folder / "spool").iterdir()), within_s=10)


def test_every_port_listens_on_loopback_only(cluster: LocalCluster) -> None:
    assert chat(cluster).status_code == 200
    listening = listeners_of(pids_of(cluster))
    assert cluster.ports.gateway in {port for _, port in listening}
    assert cluster.ports.ray_dashboard in {port for _, port in listening}
    outside = {(address, port) for address, port in listening if not is_loopback(address)}
    assert not outside


def test_a_replicas_own_port_asks_for_the_key_too(cluster: LocalCluster) -> None:
    listening = {port for _, port in listeners_of(pids_of(cluster))}
    first, last = cluster.ports.serve_replica_first, cluster.ports.serve_replica_last
    replica_ports = [port for port in listening if first <= port <= last]
    assert replica_ports
    assert cluster.ports.serve_fallback_http in listening
    for port in [*replica_ports, cluster.ports.serve_fallback_http]:
        answer = httpx.post(f"http://127.0.0.1:{port}{CHAT}", json={"model": "demo", "messages": []})
        assert answer.status_code == 401, port


def test_phases_and_sizes_of_the_replica_are_on_the_metrics_page(cluster: LocalCluster) -> None:
    replica = cluster.replicas("model-demo")[0]["replica_id"]

    def began(phase: str) -> float:
        values = wait_for(
            f"phase {phase}",
            lambda: cluster.metric("ray_raydeck_phase_started_seconds", ReplicaId=replica, phase=phase),
            within_s=10,
        )
        return float(values[0])

    assert began("loading") < began("warming") <= began("ready") <= time.time()
    blocks = cluster.metric("ray_raydeck_kv_cache_blocks", ReplicaId=replica)[0]
    size = cluster.metric("ray_raydeck_block_size_tokens", ReplicaId=replica)[0]
    assert cluster.metric("ray_raydeck_kv_cache_tokens", ReplicaId=replica) == [blocks * size]
    assert cluster.metric("ray_raydeck_kv_cache_bytes", ReplicaId=replica)[0] == pytest.approx(
        64 << 20, rel=0.02
    )
    checkpoint = sum(file.stat().st_size for file in Path(cluster.model_source).glob("*.safetensors"))
    weights = cluster.metric("ray_raydeck_weights_bytes", ReplicaId=replica)[0]
    # On top of the checkpoint: the rotary table, and the vocabulary padded to a multiple of 64.
    assert checkpoint * 0.98 <= weights <= checkpoint + 400_000
    assert cluster.metric("ray_raydeck_process_memory_bytes", ReplicaId=replica)[0] > 300e6


def test_an_engine_killed_in_mid_stream_ends_the_stream_with_an_error_and_recovers(
    cluster: LocalCluster,
) -> None:
    replica = cluster.replicas("model-demo")[0]["pid"]
    request = open_stream(
        cluster.ports.gateway, key=cluster.key, model="demo", max_tokens=480, ignore_eos=True
    )
    request.read_events(3)
    os.kill(engine_core_of(replica), signal.SIGKILL)
    request.read_to_end()
    assert '"error"' in request.text
    assert request.text.rstrip().endswith("0") and "[DONE]" in request.text
    assert "EngineCore" not in request.text and "/site-packages" not in request.text
    record = cluster.usage_record(request.request_id)
    assert (record["outcome"], record["status"], record["error_class"]) == ("error", 500, "engine_failed")
    wait_for(
        "the engine answers again",
        lambda: chat(cluster).status_code == 200,
        within_s=RECOVERS_WITHIN_S,
        every_s=1,
    )
    assert cluster.replicas("model-demo")[0]["pid"] != replica


def test_a_replica_killed_in_mid_stream_does_the_same(cluster: LocalCluster) -> None:
    replica = cluster.replicas("model-demo")[0]["pid"]
    request = open_stream(
        cluster.ports.gateway, key=cluster.key, model="demo", max_tokens=480, ignore_eos=True
    )
    request.read_events(3)
    children = descendants(replica)
    os.kill(replica, signal.SIGKILL)
    request.read_to_end()
    assert '"error"' in request.text and "[DONE]" in request.text
    assert cluster.usage_record(request.request_id)["outcome"] == "error"
    # Serve first has to notice; a caller meanwhile is refused in words or held, never left with a traceback.
    meanwhile = chat(cluster)
    assert meanwhile.status_code in (200, 503), meanwhile.text
    wait_for(
        "the engine answers again",
        lambda: chat(cluster).status_code == 200,
        within_s=RECOVERS_WITHIN_S,
        every_s=1,
    )
    wait_for("no orphaned engine", lambda: not any(is_alive(pid) for pid in children), within_s=20)


def test_a_sleeping_model_is_woken_held_and_said_so(cluster: LocalCluster) -> None:
    autoscaling = cluster.models["demo"]["deployments"][0]["autoscaling_config"]
    pid = cluster.replicas("model-demo")[0]["pid"]
    awake = dict(autoscaling)
    try:
        autoscaling |= {"min_replicas": 0, "downscale_to_zero_delay_s": 3.0}
        cluster.table["demo"]["hold_s"] = 1.0
        cluster.put()
        wait_for("new capacity in place", lambda: cluster.app_status("model-demo") == "RUNNING", within_s=20)
        wait_for("asleep", lambda: not cluster.replicas("model-demo"), within_s=90, every_s=0.5)
        refused = chat(cluster)
        assert refused.status_code == 503
        assert refused.json()["error"]["code"] == "model_starting"
        assert int(refused.headers["retry-after"]) >= 1
        cluster.table["demo"]["hold_s"] = 120.0
        autoscaling["downscale_to_zero_delay_s"] = 300.0
        cluster.put()
        answered = wait_for(
            "held and answered",
            lambda: (a := chat(cluster, timeout_s=150)).status_code == 200 and a,
            within_s=150,
        )
        assert cluster.usage_record(answered.headers["x-request-id"])["woke"] is True
        assert cluster.replicas("model-demo")[0]["pid"] != pid
    finally:
        autoscaling.clear()
        autoscaling.update(awake)
        cluster.table["demo"]["hold_s"] = 20.0
        cluster.put()
        cluster.wait_running("model-demo")


def engine_core_of(replica_pid: int) -> int:
    for pid in descendants(replica_pid):
        if "EngineCore" in Path(f"/proc/{pid}/cmdline").read_text():
            return pid
    raise AssertionError("no engine process below the replica")


def is_alive(pid: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return False


def pids_of(cluster: LocalCluster) -> set[int]:
    """The head and everything below it or started by it."""
    assert cluster.process is not None
    top = cluster.process.pid
    return {top, *descendants(top), *head.orphans_of(cluster.command.temp_dir)}


def listeners_of(pids: set[int]) -> set[tuple[str, int]]:
    """(address, port) of every TCP socket these processes listen on."""
    inodes = set()
    for pid in pids:
        try:
            descriptors = list(Path(f"/proc/{pid}/fd").iterdir())
        except FileNotFoundError:
            continue
        for descriptor in descriptors:
            try:
                target = str(descriptor.readlink())
            except FileNotFoundError:
                continue
            if target.startswith("socket:["):
                inodes.add(target[8:-1])
    found = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == LISTENING and fields[9] in inodes:
                address, port = fields[1].split(":")
                found.add((address, int(port, 16)))
    return found


def is_loopback(address: str) -> bool:
    """Kernel notation: little-endian words; ::1 and 127.0.0.0/8, mapped or not."""
    if len(address) == 8:
        return address.endswith("7F")
    if address == "0" * 24 + "01000000":
        return True
    return address.startswith("0" * 16 + "FFFF0000") and address.endswith("7F")
