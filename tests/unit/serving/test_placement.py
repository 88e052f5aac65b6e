"""What finds room on the cluster, and the arithmetic when it does not."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.errors import NotPlaceable
from serving.placement import Claim, Node, check_placeable, claim_of, floor_of
from serving.planner.placement_groups import assign, split_stages
from serving.planner.plan import make_plan
from serving.planner.request import PlanRequest
from serving.spec import EngineSpec
from tests.unit.planner.configs import LLAMA_8B

GIB = 1 << 30
TYPE = "H100"


def node(name: str = "n1", *, cpus: int = 2, memory_gib: int = 24, alive: bool = True, **gpus: int) -> Node:
    return Node(
        node_id=name, name=name, alive=alive, cpus=cpus, memory_bytes=memory_gib * GIB, accelerators=gpus
    )


def claim(tp: int = 1, pp: int = 1, replicas: int = 1, kind: str | None = None, name: str = "new") -> Claim:
    return Claim(name, kind, tp, pp, replicas)


def check(wanted: Claim, nodes: list[Node], others: tuple[Claim, ...] = ()) -> list[str]:
    return check_placeable(wanted, nodes=nodes, others=others)


def test_the_arithmetic_names_what_is_needed_what_there_is_and_who_holds_the_rest() -> None:
    lines = check(claim(), [node()], (claim(name="other"),))
    assert any("1 CPU core" in line for line in lines)
    assert any(line.startswith("other holds 1 CPU core") for line in lines)
    with pytest.raises(NotPlaceable) as refused:
        check(claim(tp=2), [node()], (claim(name="other"),))
    assert "needs 2 CPU cores and 1 CPU core is free" in refused.value.message
    assert any("other holds" in line for line in refused.value.arithmetic)


def test_an_accelerator_the_cluster_lacks_is_named_with_what_it_has() -> None:
    with pytest.raises(NotPlaceable, match="no H100.*only CPU"):
        check(claim(kind=TYPE), [node()])
    with pytest.raises(NotPlaceable, match="no H100.*has L4"):
        check(claim(kind=TYPE), [node(L4=4)])


def test_a_tensor_parallel_group_never_spans_nodes_but_stages_may() -> None:
    nodes = [node("a", H100=4), node("b", H100=4)]
    with pytest.raises(NotPlaceable, match="at most 4 on one node"):
        check(claim(tp=8, kind=TYPE), nodes)
    assert check(claim(tp=4, pp=2, kind=TYPE), nodes)


def test_a_group_that_may_span_nodes_finds_room_on_several() -> None:
    wide = Claim("new", TYPE, 8, 1, 1, tp_may_span_nodes=True)
    assert check(wide, [node("a", H100=4), node("b", H100=4)])
    with pytest.raises(NotPlaceable, match=r"needs 1 × 8 H100; the cluster has 6"):
        check(wide, [node("a", H100=3), node("b", H100=3)])


@pytest.mark.parametrize("gpus", [(3, 3), (3, 1), (1, 1, 1, 1)])
def test_what_ray_would_split_is_refused_with_the_sentence_of_the_replica(gpus: tuple[int, ...]) -> None:
    nodes = [node(f"n{index}", H100=count) for index, count in enumerate(gpus)]
    with pytest.raises(NotPlaceable, match=r"group of 2 in stage \d would span nodes: Ray found room for"):
        check(claim(tp=2, pp=2, kind=TYPE), nodes)


def test_what_only_the_present_remainders_would_split_is_refused_too() -> None:
    nodes = [node("a", H100=4), node("b", H100=4)]
    with pytest.raises(NotPlaceable, match=r"new cannot be placed: The tensor-parallel group of 2"):
        check(claim(tp=2, pp=2, kind=TYPE), nodes, (claim(kind=TYPE), claim(tp=3, kind=TYPE, name="other")))


def test_a_replica_needs_a_core_beside_its_accelerators() -> None:
    with pytest.raises(NotPlaceable, match="CPU core beside"):
        check(claim(replicas=3, kind=TYPE), [node(cpus=2, H100=8)])
    with pytest.raises(NotPlaceable, match="CPU core beside"):
        check(claim(kind=TYPE), [node(cpus=2, H100=8)], (claim(tp=2),))


def test_cpu_ranks_share_one_node() -> None:
    with pytest.raises(NotPlaceable, match="on one node"):
        check(claim(tp=2, pp=2), [node("a", cpus=2), node("b", cpus=2)])
    assert check(claim(tp=2, pp=2), [node("a", cpus=2), node("b", cpus=4)])


def test_dead_nodes_offer_nothing() -> None:
    with pytest.raises(NotPlaceable):
        check(claim(kind=TYPE), [node(H100=8, alive=False)])


def test_what_others_than_deployments_hold_is_not_free_and_is_said() -> None:
    busy = Node("n1", "n1", True, 8, 0, {TYPE: 8}, cpus_foreign=2.0, accelerators_foreign={TYPE: 6})
    with pytest.raises(NotPlaceable, match="needs 4 × H100 and 2 × H100 are free") as refused:
        check(claim(tp=4, kind=TYPE), [busy])
    assert "n1: 8 × H100, 6 × H100 held by others than deployments" in refused.value.arithmetic
    assert check(claim(tp=2, kind=TYPE), [busy])


def cpu_engine(**changes: object) -> EngineSpec:
    values: dict[str, object] = {"model": "m", "model_source": "/m", "max_model_len": 1024}
    return EngineSpec.model_validate({**values, "kv_cache_memory_bytes": GIB, **changes})


def test_a_cpu_deployment_shares_its_nodes_memory_with_the_others() -> None:
    engine = cpu_engine()
    plan = make_plan(PlanRequest(config=LLAMA_8B, kv_cache_memory_bytes=GIB, max_model_len=1024))
    wanted = claim_of(deployment="new", engine=engine, min_replicas=1, plan=plan)
    assert 16 * GIB < wanted.memory_bytes < 17 * GIB
    assert any(
        "needs 16.5 GiB of its node" in line for line in check_placeable(wanted, nodes=[node()], others=())
    )
    with pytest.raises(NotPlaceable, match="no node of the cluster has more") as refused:
        check(wanted, [node(memory_gib=12)])
    assert any("the largest node has 12.0 GiB" in line for line in refused.value.arithmetic)
    other = claim_of(deployment="other", engine=engine, min_replicas=1, plan=plan)
    with pytest.raises(NotPlaceable, match=r"needs 16\.5 GiB of its node's memory and 7\.5 GiB are left"):
        check(wanted, [node()], (other,))
    on_gpus = cpu_engine(accelerator_type=TYPE)
    assert claim_of(deployment="x", engine=on_gpus, min_replicas=1, plan=plan).memory_bytes == 0


counts = st.integers(0, 8)


@given(
    gpus=st.lists(counts, min_size=1, max_size=5),
    cpus=st.integers(0, 6),
    tp=st.integers(1, 8),
    pp=st.integers(1, 4),
    replicas=st.integers(1, 4),
    taken=st.integers(1, 5),
)
def test_what_is_accepted_starts_whole_and_never_exceeds_what_there_is(
    gpus: list[int], cpus: int, tp: int, pp: int, replicas: int, taken: int
) -> None:
    nodes = [node(f"n{index}", cpus=cpus, H100=count) for index, count in enumerate(gpus)]
    other = claim(kind=TYPE, replicas=taken, name="other")
    wanted = claim(tp=tp, pp=pp, replicas=replicas, kind=TYPE)
    try:
        check(wanted, nodes, (other,))
    except NotPlaceable:
        return
    assert tp * pp * replicas <= sum(gpus)
    assert sum(count // tp for count in gpus) >= pp * replicas
    placed = assign(wanted.group, floor_of(nodes, (other,)).free)
    assert placed is not None
    assert split_stages(wanted.group, placed) == []
