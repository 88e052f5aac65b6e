"""Where replicas land on a real Ray cluster of four nodes with two declared H100 each, and what a loss does.

The engine class is a stand-in that only holds the place (placeholder_engine.py); the documents, the placement
groups, the order of ranks, Ray's scheduler and what reads its state are the product's.
"""

import json
import time
from collections.abc import Iterator
from typing import Any

import pytest

from console.models import ClusterStatus, Replica
from console.placements import known_nodes
from serving.errors import NotPlaceable
from serving.observed import read_apps
from serving.placement import check_placeable, claim_of
from serving.planner.placement_groups import PlacementGroup, assign, placement_group, split_stages
from serving.render import ClusterOptions, GatewayTable, app_name, render
from serving.spec import CapacitySpec, DeploymentSpec, EngineSpec
from tests.cluster.local_cluster import PROJECT, START_WITHIN_S, wait_for
from tests.cluster.many_nodes import ManyNodes
from workers import lease, observe
from workers.failures import CAUSE_MARK
from workers.ray import node_json

pytestmark = [pytest.mark.cluster, pytest.mark.django_db(transaction=True)]
ACCELERATOR = "H100"
GPUS_PER_NODE = 2
NODES = 4
PLACEHOLDER = "tests.cluster.placeholder_engine:build_placeholder"
CHECKED_BY_VLLM = "tests.cluster.placeholder_engine:build_checked_placeholder"
LOSS_SEEN_WITHIN_S = 60.0
MOVES_WITHIN_S = 120.0
FREE_WITHIN_S = 60.0


@pytest.fixture(scope="module")
def nodes() -> Iterator[ManyNodes]:
    """A head and four nodes of two H100 each."""
    running = ManyNodes()
    try:
        running.start()
        for _ in range(NODES):
            running.add_node(gpus=GPUS_PER_NODE, accelerator_type=ACCELERATOR)
        yield running
    finally:
        running.close()


@pytest.fixture(autouse=True)
def nothing_placed(nodes: ManyNodes) -> None:
    """Every test starts with all accelerators free."""
    _put(nodes)
    wait_for(
        "all accelerators free", lambda: _free_gpus(nodes) == NODES * [GPUS_PER_NODE], within_s=FREE_WITHIN_S
    )


def test_groups_land_as_drawn(nodes: ManyNodes) -> None:
    tensor, stages = _spec("tensor", tp=2), _spec("stages", tp=1, pp=4)
    before = _free(nodes)
    _put(nodes, tensor, stages)
    nodes.wait_running("gateway", app_name("tensor"), app_name("stages"))
    for spec in (tensor, stages):
        _assert_lies_as_drawn(nodes, spec, before)
    assert _nodes_of(nodes, "tensor").isdisjoint(_nodes_of(nodes, "stages"))
    assert [len(_nodes_of(nodes, name)) for name in ("tensor", "stages")] == [1, 2]
    assert sorted(_free_gpus(nodes)) == [0, 0, 0, 2]


def test_what_does_not_fit_stays_pending_as_the_arithmetic_said(nodes: ManyNodes) -> None:
    first, second = _spec("first", tp=2, pp=3), _spec("second", tp=2, pp=2)
    _put(nodes, first)
    nodes.wait_running(app_name("first"))
    _observe(nodes)
    with pytest.raises(NotPlaceable, match="needs 4 × H100 and 2 × H100 are free"):
        _check(second, others=[first])
    assert assign(placement_group(second.engine), _free(nodes)) is None

    _put(nodes, first, second)
    _wait_pending(nodes, "second")
    assert nodes.app_status(app_name("first")) == "RUNNING"
    assert all(replica["state"] == "STARTING" for replica in nodes.replicas(app_name("second")))

    # Without the first there is room, and each stage must have a node of its own.
    # vLLM's own checks of the placed group run in its replica.
    _put(nodes, second, stand_in=CHECKED_BY_VLLM)
    nodes.wait_running(app_name("second"), within_s=START_WITHIN_S)
    lies_on = [bundle["node_id"] for bundle in _placed(nodes, "second")]
    assert _pattern(lies_on) == [0, 0, 1, 1]


def test_a_lost_node_and_its_return_are_seen(nodes: ManyNodes) -> None:
    whole, before = _spec("whole", tp=2, pp=4), _free(nodes)
    _put(nodes, whole)
    nodes.wait_running(app_name("whole"))
    _assert_lies_as_drawn(nodes, whole, before)
    _observe(nodes)
    replica = nodes.replicas(app_name("whole"))[0]
    assert _alive_replicas() == {replica["replica_id"]}
    # A node that holds a stage; of the one that holds the replica itself Ray tells Serve.
    lost = next(
        node for node in nodes.ray.get_nodes() if node.accelerator_types and node.id != replica["node_id"]
    )

    nodes.members[lost.address].kill_raylet()
    wait_for("the loss is seen", lambda: _seen_dead(nodes, lost.id), within_s=LOSS_SEEN_WITHIN_S)
    wait_for(
        "the replica is seen to be gone",
        lambda: _observe(nodes) and replica["replica_id"] not in _alive_replicas(),
        within_s=MOVES_WITHIN_S,
    )
    with pytest.raises(NotPlaceable, match="needs 4 × 2 H100, each group on one node; the cluster has 6"):
        _check(whole)
    _wait_pending(nodes, "whole")

    nodes.add_node(gpus=GPUS_PER_NODE, accelerator_type=ACCELERATOR, address=lost.address)
    nodes.wait_running(app_name("whole"), within_s=MOVES_WITHIN_S)
    _observe(nodes)
    returned = nodes.node_at(lost.address)
    assert returned is not None and returned.id != lost.id
    assert [node.alive for node in known_nodes() if node.node_id == returned.id] == [True]
    assert returned.id in _nodes_of(nodes, "whole")
    assert _alive_replicas() == {new["replica_id"] for new in nodes.replicas(app_name("whole"))}
    assert replica["replica_id"] not in _alive_replicas()


def test_a_tensor_parallel_group_never_spans_nodes(nodes: ManyNodes) -> None:
    singles = _spec("singles", tp=1, replicas=NODES - 1)
    _put(nodes, singles)
    nodes.wait_running(app_name("singles"))
    wait_for("one is taken on three nodes", lambda: sorted(_free_gpus(nodes)) == [1, 1, 1, 2], within_s=30)
    stages = _spec("stages", tp=2, pp=2)
    predicted = assign(placement_group(stages.engine), _free(nodes))
    assert _pattern(predicted) == [0, 0, 1, 2]
    assert split_stages(placement_group(stages.engine), predicted or []) == [1]

    # Ray packs 2 + 1 + 1, which splits the second stage: the replica refuses before anything is loaded.
    _put(nodes, singles, stages)
    wait_for(
        "refused", lambda: nodes.app_status(app_name("stages")) == "DEPLOY_FAILED", within_s=START_WITHIN_S
    )
    causes = CAUSE_MARK.findall(nodes.app(app_name("stages"))["deployments"]["engine"]["message"])
    assert "The tensor-parallel group of 2 in stage 1 would span nodes" in causes[-1]
    assert "room for 2 + 1 + 1 ranks on 3 nodes" in causes[-1]

    # A single stage takes the one node that has room; the next waits although three are free.
    pair, next_pair = _spec("pair", tp=2), _spec("next-pair", tp=2)
    _put(nodes, singles, pair)
    nodes.wait_running(app_name("pair"), within_s=MOVES_WITHIN_S)
    wait_for("one is free on three nodes", lambda: sorted(_free_gpus(nodes)) == [0, 1, 1, 1], within_s=30)
    assert assign(placement_group(next_pair.engine), _free(nodes)) is None
    _put(nodes, singles, pair, next_pair)
    _wait_pending(nodes, "next-pair")


def _spec(name: str, *, tp: int, pp: int = 1, replicas: int = 1) -> DeploymentSpec:
    engine = {
        "model": "none",
        "model_source": "/none",
        "accelerator_type": ACCELERATOR,
        "tensor_parallel_size": tp,
        "pipeline_parallel_size": pp,
        "max_model_len": 512,
    }
    return DeploymentSpec(
        name=name,
        deployment_id=1,
        revision=1,
        generation=1,
        state="serve",
        engine=EngineSpec.model_validate(engine),
        capacity=CapacitySpec.model_validate({"min_replicas": replicas, "max_replicas": replicas}),
    )


def _put(nodes: ManyNodes, *specs: DeploymentSpec, stand_in: str = PLACEHOLDER) -> None:
    """The product's document; the only change is which class is placed."""
    options = ClusterOptions(
        gateway_host="127.0.0.1",
        gateway_port=nodes.ports.gateway,
        pythonpath=str(PROJECT),
        installation="multi-node-test",
    )
    text = json.dumps(render(specs, table=GatewayTable(keys=nodes.keys, hold_s=5.0), options=options))
    product, stand_in = (
        "serving.cluster.apps:build_model",
        "tests.cluster.placeholder_engine:build_placeholder",
    )
    nodes.ray.put_config(json.loads(text.replace(product, stand_in)))


def _observe(nodes: ManyNodes) -> bool:
    """What a pass of the reconciler writes down of nodes and replicas."""
    now = time.time()
    token = lease.acquire("reconciler", holder="multi-node-test", ttl_s=60, now=now)
    assert token is not None
    apps = read_apps(nodes.ray.get_serve_state())
    stored = [node_json(node) for node in nodes.ray.get_nodes()]
    observe.write_cluster(token=token, now=now, reachable=True, observed_at=now, nodes=stored)
    observe.write_replicas(apps, token=token, now=now)
    lease.release("reconciler", token=token)
    return True


def _seen_dead(nodes: ManyNodes, node_id: str) -> bool:
    _observe(nodes)
    stored = ClusterStatus.objects.get(pk=1).nodes
    return any(node["node_id"] == node_id and not node["alive"] for node in stored)


def _alive_replicas() -> set[str]:
    return set(Replica.objects.filter(ended_at=None).values_list("replica_id", flat=True))


def _check(spec: DeploymentSpec, *, others: list[DeploymentSpec] | None = None) -> list[str]:
    """The arithmetic on what was observed."""
    wanted, *held = [
        claim_of(deployment=one.name, engine=one.engine, min_replicas=one.capacity.min_replicas)
        for one in (spec, *(others or []))
    ]
    return check_placeable(wanted, nodes=known_nodes(), others=held)


def _free(nodes: ManyNodes) -> dict[str, dict[str, float]]:
    """Node id -> what is free there, of nodes that live."""
    return {node.id: node.available for node in nodes.ray.get_nodes() if node.is_alive}


def _free_gpus(nodes: ManyNodes) -> list[float]:
    return [free["GPU"] for free in _free(nodes).values() if "GPU" in free]


def _pattern(node_ids: list[str] | None) -> list[int]:
    """Nodes numbered in the order in which they occur: between equal nodes Ray's choice is arbitrary."""
    order = list(dict.fromkeys(node_ids or []))
    return [order.index(node_id) for node_id in node_ids or []]


def _groups(nodes: ManyNodes, name: str) -> list[dict[str, Any]]:
    prefix = f"SERVE_REPLICA::{app_name(name)}#"
    listed = nodes.listed("placement_groups")
    return [group for group in listed if group["name"].startswith(prefix) and group["state"] != "REMOVED"]


def _assert_lies_as_drawn(
    nodes: ManyNodes, spec: DeploymentSpec, before: dict[str, dict[str, float]]
) -> None:
    drawn, placed = placement_group(spec.engine), _placed(nodes, spec.name)
    assert [bundle["unit_resources"] for bundle in placed] == drawn.bundles
    lies_on = [bundle["node_id"] for bundle in placed]
    assert _pattern(lies_on) == _pattern(assign(drawn, before))
    assert split_stages(drawn, lies_on) == []
    # Each rank holds the accelerator of the bundle that it is drawn in.
    assert _rank_nodes(nodes, spec.name, drawn) == lies_on


def _wait_pending(nodes: ManyNodes, name: str) -> None:
    """Ray has tried to place the replica's group and found no room."""

    def is_pending() -> bool:
        groups = _groups(nodes, name)
        states = {group["stats"]["scheduling_state"] for group in groups if group["state"] == "PENDING"}
        return len(groups) == 1 and states == {"NO_RESOURCES"}

    wait_for(f"{name} is pending", is_pending, within_s=MOVES_WITHIN_S, every_s=0.5)


def _placed(nodes: ManyNodes, name: str) -> list[dict[str, Any]]:
    """Bundles of the deployment's only placement group, by index."""
    groups = _groups(nodes, name)
    assert [group["state"] for group in groups] == ["CREATED"], groups
    return sorted(groups[0]["bundles"], key=lambda bundle: int(bundle["bundle_id"]["bundle_index"]))


def _nodes_of(nodes: ManyNodes, name: str) -> set[str]:
    return {bundle["node_id"] for bundle in _placed(nodes, name)}


def _rank_nodes(nodes: ManyNodes, name: str, drawn: PlacementGroup) -> list[str]:
    """Node of each rank's process, in the order of `drawn.ranks`."""
    placed_id = _groups(nodes, name)[0]["placement_group_id"]
    where = {actor["name"]: actor["node_id"] for actor in nodes.listed("actors") if actor["state"] == "ALIVE"}
    return [where[f"{name} stage {rank.stage} rank {rank.tensor_rank} {placed_id}"] for rank in drawn.ranks]
