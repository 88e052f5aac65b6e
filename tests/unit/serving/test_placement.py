"""What fits on the cluster, and the arithmetic when it does not."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.errors import NotPlaceable
from serving.placement import Claim, Node, check_placeable
from serving.spec import EngineSpec

GIB = 1 << 30


def node(name: str = "n1", *, cpus: int = 2, memory_gib: int = 24, alive: bool = True, **gpus: int) -> Node:
    return Node(
        node_id=name, name=name, alive=alive, cpus=cpus, memory_bytes=memory_gib * GIB, accelerators=gpus
    )


def engine(**changes: object) -> EngineSpec:
    values: dict = {
        "model": "m",
        "model_source": "/m",
        "max_model_len": 1024,
        "kv_cache_memory_bytes": 64 << 20,
    }
    return EngineSpec(**{**values, **changes})


def claim(tp: int = 1, pp: int = 1, replicas: int = 1, kind: str | None = None, name: str = "new") -> Claim:
    return Claim(name, kind, tp, pp, replicas)


def check(wanted: Claim, nodes: list[Node], others: tuple[Claim, ...] = (), **facts: int) -> list[str]:
    spec = engine(
        accelerator_type=wanted.accelerator_type,
        tensor_parallel_size=wanted.tensor_parallel_size,
        pipeline_parallel_size=wanted.pipeline_parallel_size,
    )
    return check_placeable(wanted, engine=spec, nodes=nodes, others=others, **facts)


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
        check(claim(kind="H100"), [node()])
    with pytest.raises(NotPlaceable, match="no H100.*has L4"):
        check(claim(kind="H100"), [node(L4=4)])


def test_a_tensor_parallel_group_never_spans_nodes_but_stages_may() -> None:
    nodes = [node("a", H100=4), node("b", H100=4)]
    with pytest.raises(NotPlaceable, match="at most 4 on one node"):
        check(claim(tp=8, kind="H100"), nodes)
    assert check(claim(tp=4, pp=2, kind="H100"), nodes)


def test_cpu_ranks_share_one_node() -> None:
    with pytest.raises(NotPlaceable, match="on one node"):
        check(claim(tp=2, pp=2), [node("a", cpus=2), node("b", cpus=2)])


def test_dead_nodes_offer_nothing() -> None:
    with pytest.raises(NotPlaceable):
        check(claim(kind="H100"), [node(H100=8, alive=False)])


def test_weights_that_do_not_fit_are_refused_with_the_division() -> None:
    with pytest.raises(NotPlaceable, match=r"131\.5 GiB ÷ 1 = 131\.5 GiB per accelerator"):
        check(claim(kind="H100"), [node(H100=8)], weight_bytes=int(131.5 * GIB))
    assert check(claim(tp=4, kind="H100"), [node(H100=8)], weight_bytes=int(131.5 * GIB))


def test_memory_of_the_node_bounds_a_cpu_deployment() -> None:
    with pytest.raises(NotPlaceable, match="largest node has 24.0 GiB"):
        check(claim(), [node()], weight_bytes=30 * GIB)


def test_a_kv_cache_that_is_too_large_is_named_as_such() -> None:
    spec = engine(kv_cache_memory_bytes=1 << 60)
    with pytest.raises(NotPlaceable, match="KV cache does not fit") as refused:
        check_placeable(claim(), engine=spec, nodes=[node()], others=(), weight_bytes=GIB)
    assert refused.value.field == "kv_cache_memory_bytes"


def test_a_float32_cast_doubles_sixteen_bit_weights() -> None:
    spec = engine(dtype="float32")
    with pytest.raises(NotPlaceable):
        check_placeable(
            claim(), engine=spec, nodes=[node()], others=(), weight_bytes=14 * GIB, parameters=7 * GIB
        )
    assert check_placeable(
        claim(), engine=engine(), nodes=[node()], others=(), weight_bytes=14 * GIB, parameters=7 * GIB
    )


counts = st.integers(0, 8)


@given(
    gpus=st.lists(counts, min_size=1, max_size=5),
    tp=st.integers(1, 8),
    pp=st.integers(1, 4),
    replicas=st.integers(1, 4),
)
def test_what_is_accepted_never_exceeds_what_there_is(
    gpus: list[int], tp: int, pp: int, replicas: int
) -> None:
    nodes = [node(f"n{index}", H100=count) for index, count in enumerate(gpus)]
    try:
        check(claim(tp=tp, pp=pp, replicas=replicas, kind="H100"), nodes)
    except NotPlaceable:
        return
    assert tp * pp * replicas <= sum(gpus)
    assert sum(count // tp for count in gpus) >= pp * replicas
