"""The planner's figures for the CPU engine against a real one: vLLM loads the demo model, says what it holds.

Blocks of the KV cache must agree exactly, and weights to the byte: they are arithmetic, not estimates.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from console.models import Deployment, Event, PlanCheck, RegisteredModel, Replica, Revision
from serving.checkpoint import inspect_folder
from serving.planner import measured_log
from serving.planner.causes import likely_cause
from serving.planner.compare import Difference, compare, read_plan
from serving.planner.measured import Measured, facts_of_pages, from_facts, merged
from serving.planner.plan import make_plan
from serving.planner.report import stored
from serving.planner.request import PlanRequest
from tests.cluster.local_cluster import LocalCluster, wait_for
from workers import lease, plan_checks

pytestmark = pytest.mark.cluster
NAME = "planned"
CONTEXT_TOKENS = 384
# No multiple of a block's bytes: what is left over must be rounded down.
KV_CACHE_BYTES = 50_000_001


@dataclass
class Started:
    """One start of the engine. `info`: the labels of vLLM's own series, which stands for a moment only."""

    seen: Measured
    info: dict[str, Any]
    log: str


def engine() -> dict[str, Any]:
    """The part of the revision that a comparison looks at."""
    return {
        "accelerator_type": None,
        "max_model_len": CONTEXT_TOKENS,
        "kv_cache_memory_bytes": KV_CACHE_BYTES,
    }


def planned(source: str) -> dict[str, Any]:
    """What a revision of this engine would keep."""
    inspection = inspect_folder(source)
    assert inspection.config is not None
    request = PlanRequest(
        config=inspection.config,
        tensors=inspection.tensors,
        node_memory_bytes=16 << 30,
        max_model_len=CONTEXT_TOKENS,
        max_num_seqs=8,
        kv_cache_memory_bytes=KV_CACHE_BYTES,
    )
    return stored(make_plan(request))


def page_of(cluster: LocalCluster) -> str:
    return cluster.ray.read_metrics(f"127.0.0.1:{cluster.ports.ray_metrics_export}")


@pytest.fixture(scope="module")
def started(cluster: LocalCluster) -> Iterator[Started]:
    """A second model beside the session's, with a cache of its own; gone afterwards."""
    args = {
        "max_model_len": CONTEXT_TOKENS,
        "engine_kwargs": {"kv_cache_memory_bytes": KV_CACHE_BYTES, "max_num_seqs": 8},
    }
    cluster.add_model(NAME, args=args)
    cluster.put()
    try:
        info = _info_while_it_starts(cluster)
        cluster.wait_running(f"model-{NAME}")
        replica = cluster.replicas(f"model-{NAME}")[0]
        yield _started(cluster, replica, info)
    finally:
        cluster.remove_model(NAME)
        cluster.put()
        wait_for("the model is gone", lambda: not cluster.app_status(f"model-{NAME}"), within_s=60)


def _info_while_it_starts(cluster: LocalCluster) -> dict[str, Any]:
    """vLLM sets `vllm:cache_config_info` once; Ray shows it until its next report but one."""

    def find() -> dict[str, Any] | None:
        ours = {replica["replica_id"] for replica in cluster.replicas(f"model-{NAME}")}
        facts = facts_of_pages([page_of(cluster)])
        return next((facts[one] for one in ours & facts.keys() if "num_gpu_blocks" in facts[one]), None)

    found: dict[str, Any] = wait_for("vllm:cache_config_info", find, within_s=240, every_s=0.3)
    return found


def _started(cluster: LocalCluster, replica: dict[str, Any], info: dict[str, Any]) -> Started:
    def published() -> Measured | None:
        facts = facts_of_pages([page_of(cluster)]).get(replica["replica_id"], {})
        seen = from_facts(facts, ranks=1)
        return seen if seen.is_known() else None

    exact: Measured = wait_for("the replica's own series", published, within_s=20)
    names = cluster.ray.list_logs(replica["node_id"], f"worker-{replica['worker_id']}*")
    log = "\n".join(cluster.ray.get_log_tail(replica["node_id"], name, lines=2000) for name in names)
    return Started(merged(exact, measured_log.from_log(log)), info, log)


@pytest.fixture(scope="module")
def differences(cluster: LocalCluster, started: Started) -> dict[str, Difference]:
    plan = read_plan(planned(cluster.model_source))
    found = compare(plan, started.seen, on_cpu=True, max_model_len=CONTEXT_TOKENS)
    assert likely_cause(plan, started.seen, found, engine()) == ""
    return {one.part: one for one in found}


def test_the_planned_blocks_are_exactly_those_that_vllm_says_it_has(
    cluster: LocalCluster, started: Started
) -> None:
    memory = planned(cluster.model_source)["memory"]
    assert memory["num_blocks"] == int(started.info["num_gpu_blocks"])
    assert memory["groups"][0]["block_tokens"] == int(started.info["block_size"]) == 128
    assert memory["num_blocks"] == KV_CACHE_BYTES // (128 * memory["kv_bytes_per_token"])


def test_the_log_says_the_planned_tokens_and_requests(cluster: LocalCluster, started: Started) -> None:
    memory, logged = planned(cluster.model_source)["memory"], measured_log.from_log(started.log)
    assert logged.kv_cache_tokens == memory["kv_cache_tokens"]
    assert logged.max_concurrency_at_tokens == CONTEXT_TOKENS
    assert logged.max_concurrency == pytest.approx(memory["max_concurrency"], abs=0.005)
    assert logged.engine_version and logged.engine_version.startswith("0.29")


def test_the_weights_are_planned_to_the_byte(differences: dict[str, Difference]) -> None:
    weights = differences["weights"]
    assert weights.measured == weights.planned


def test_nothing_of_the_comparison_is_off(differences: dict[str, Difference]) -> None:
    assert not [one for one in differences.values() if one.is_off]
    exact = {part: differences[part].error for part in ("kv_blocks", "kv_tokens", "max_concurrency")}
    assert exact == dict.fromkeys(exact, 0)
    runtime = differences["runtime"]
    assert runtime.measured is not None and runtime.is_within_band


def test_the_whole_process_is_measured_beside_the_parts(started: Started) -> None:
    assert started.seen.process_bytes and started.seen.process_bytes > 300e6
    assert started.seen.weight_load_seconds is not None


@pytest.mark.django_db
def test_the_worker_writes_it_down_from_the_running_cluster(cluster: LocalCluster, started: Started) -> None:
    model = RegisteredModel.objects.create(name="demo", source_kind="folder", source=cluster.model_source)
    deployment = Deployment.objects.create(name=NAME, model=model, requested_at=0.0)
    plan = planned(cluster.model_source)
    revision = Revision.objects.create(deployment=deployment, number=1, engine=engine(), plan=plan)
    Deployment.objects.filter(pk=deployment.pk).update(current_revision=revision)
    seen, now = cluster.replicas(f"model-{NAME}")[0], time.time()
    Replica.objects.create(
        deployment=deployment,
        deployment_name=NAME,
        replica_id=seen["replica_id"],
        revision=1,
        state=seen["state"],
        node_id=seen["node_id"],
        worker_id=seen["worker_id"],
        started_at=seen["start_time_s"],
        last_seen_at=now,
    )
    token = lease.acquire("reconciler", holder="test", ttl_s=60, now=now)
    assert token is not None
    plan_checks.write_due(cluster.ray, token=token, now=now)
    check = PlanCheck.objects.get()
    blocks = check.differences["kv_blocks"]
    assert (blocks["planned"], blocks["measured"]) == (plan["memory"]["num_blocks"],) * 2
    assert check.measured["weight_load_seconds"] == started.seen.weight_load_seconds  # from the log
    assert check.cause == "" and not Event.objects.filter(kind="deployment.plan_off").exists()
