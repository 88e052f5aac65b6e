"""One model over two ranks, tensor parallel and pipeline parallel, served on CPU the way the product does it.

The document is serving/render.py's and says nothing that is special to a test: what vLLM's CPU build needs
for several ranks, the product sets by itself.
"""

import contextlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import psutil
import pytest

from serving.observed import read_apps
from serving.render import ClusterOptions, GatewayTable, app_name, render
from serving.spec import CapacitySpec, DeploymentSpec, EngineSpec
from tests.cluster.local_cluster import DEMO_MODEL, PROJECT, LocalCluster, wait_for

pytestmark = pytest.mark.cluster
KV_CACHE_BYTES_PER_RANK = 64 << 20
MAX_MODEL_LEN = 512
PHASES = ("loading", "warming", "ready")
QUESTION = "What is tensor parallelism?"


@dataclass(frozen=True)
class Topology:
    """How many ranks, and the name of the deployment that has them."""

    name: str
    tensor_parallel_size: int
    pipeline_parallel_size: int


TENSOR = Topology("tensor-two", tensor_parallel_size=2, pipeline_parallel_size=1)
PIPELINE = Topology("pipeline-two", tensor_parallel_size=1, pipeline_parallel_size=2)


@dataclass(frozen=True)
class Served:
    """A deployment that runs, on its cluster."""

    topology: Topology
    cluster: LocalCluster

    def figures(self, name: str, **labels: str) -> list[float]:
        """What the one replica publishes; waited for, because the page is a second behind."""
        values: list[float] = wait_for(
            f"{name} of {self.topology.name}",
            lambda: self.cluster.metric(f"ray_raydeck_{name}", deployment=self.topology.name, **labels),
            within_s=30,
        )
        assert len(values) == 1, values
        return values

    def fact(self, name: str) -> int:
        return int(self.figures(name)[0])

    def ask(self, **fields: Any) -> dict[str, Any]:
        body = {
            "model": self.topology.name,
            "messages": [{"role": "user", "content": QUESTION}],
            "max_tokens": 24,
            "temperature": 0,
            **fields,
        }
        with self.cluster.http() as client:
            answer = client.post("/v1/chat/completions", json=body)
        assert answer.status_code == 200, answer.text
        parsed: dict[str, Any] = answer.json()
        return parsed


@pytest.fixture(scope="module")
def parallel_cluster() -> Iterator[LocalCluster]:
    """A head without any application; each topology sends its own document."""
    running = LocalCluster()
    try:
        running.start()
        yield running
    finally:
        running.close()


@pytest.fixture(scope="module", params=[TENSOR, PIPELINE], ids=lambda topology: topology.name)
def served(request: pytest.FixtureRequest, parallel_cluster: LocalCluster) -> Served:
    """The demo model under one topology; it takes the other one's place, so one engine runs at a time."""
    topology: Topology = request.param
    parallel_cluster.ray.put_config(_document(topology, parallel_cluster))
    parallel_cluster.wait_running("gateway", app_name(topology.name))
    return Served(topology, parallel_cluster)


def test_answers_through_the_gateway(served: Served) -> None:
    answer = served.ask()
    assert answer["usage"]["completion_tokens"] == 24
    words = answer["choices"][0]["message"]["content"]
    # A rank that holds the wrong share of the weights speaks gibberish.
    assert "parallel" in words.lower(), words
    assert served.ask()["choices"][0]["message"]["content"] == words


def test_each_rank_is_a_process_of_the_one_replica(served: Served) -> None:
    replicas = served.cluster.replicas(app_name(served.topology.name))
    assert [replica["state"] for replica in replicas] == ["RUNNING"]
    children = _commands_below(int(replicas[0]["pid"]))
    assert sum("Worker" in command for command in children) == 2, children


def test_the_kv_cache_has_the_blocks_that_arithmetic_says(served: Served) -> None:
    config = json.loads((DEMO_MODEL / "config.json").read_text())
    topology = served.topology
    layers = config["num_hidden_layers"] // topology.pipeline_parallel_size
    kv_heads = config["num_key_value_heads"] // topology.tensor_parallel_size
    page_bytes = 2 * served.fact("block_size_tokens") * kv_heads * config["head_dim"] * 2  # bfloat16
    blocks = KV_CACHE_BYTES_PER_RANK // (page_bytes * layers)
    assert served.fact("kv_cache_blocks") == blocks
    assert served.fact("kv_cache_tokens") == blocks * served.fact("block_size_tokens")
    assert served.fact("kv_cache_bytes") == 2 * blocks * page_bytes * layers


def test_the_phases_follow_one_another(served: Served) -> None:
    began = [served.figures("phase_started_seconds", phase=phase)[0] for phase in PHASES]
    app = read_apps(served.cluster.ray.get_serve_state())[app_name(served.topology.name)]
    placed_at = app.replicas[0].started_at
    assert placed_at is not None
    times = [placed_at, *began]
    assert times == sorted(times), times


def _document(topology: Topology, cluster: LocalCluster) -> dict[str, Any]:
    spec = DeploymentSpec(
        name=topology.name,
        deployment_id=1,
        revision=1,
        generation=1,
        state="serve",
        engine=EngineSpec.model_validate(
            {
                "model": "demo",
                "model_source": str(DEMO_MODEL),
                "tensor_parallel_size": topology.tensor_parallel_size,
                "pipeline_parallel_size": topology.pipeline_parallel_size,
                "max_model_len": MAX_MODEL_LEN,
                "max_num_seqs": 16,
                "kv_cache_memory_bytes": KV_CACHE_BYTES_PER_RANK,
            }
        ),
        capacity=CapacitySpec.model_validate({}),
    )
    options = ClusterOptions(
        gateway_host="127.0.0.1",
        gateway_port=cluster.ports.gateway,
        pythonpath=str(PROJECT),
        installation="parallel-test",
    )
    return render([spec], table=GatewayTable(keys=cluster.keys, hold_s=20.0), options=options)


def _commands_below(pid: int) -> list[str]:
    commands = []
    for process in psutil.Process(pid).children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):  # ended meanwhile
            commands.append(" ".join(process.cmdline()))
    return commands
