"""What Ray is asked for, which bundle each rank takes, and where Ray will put the bundles."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.cluster.ranks import TensorGroupSplit, rank_order
from serving.planner.placement_groups import (
    PlacementGroup,
    Shape,
    assign,
    bundles_by_rank,
    left_after,
    node_resources,
    placement_group,
    split_stages,
)
from serving.spec import EngineSpec

HINT = {"accelerator_type:H100": 0.001}


def group(*, tp: int, pp: int = 1, kind: str | None = "H100", may_span: bool = False) -> PlacementGroup:
    return placement_group(Shape(kind, tp, pp), tp_may_span_nodes=may_span)


def free(*gpus: int, kind: str = "H100", cpus: float = 8) -> dict[str, dict[str, float]]:
    """Nodes a, b, c … with so many free accelerators."""
    return {
        chr(ord("a") + index): node_resources(cpus=cpus, accelerators={kind: count})
        for index, count in enumerate(gpus)
    }


def test_one_bundle_per_rank_and_the_first_holds_the_replica() -> None:
    asked = group(tp=2, pp=2)
    assert asked.bundles == [{"GPU": 1.0, **HINT, "CPU": 1.0}, *3 * [{"GPU": 1.0, **HINT}]]
    assert [(rank.stage, rank.tensor_rank) for rank in asked.ranks] == [(0, 0), (0, 1), (1, 0), (1, 1)]


@pytest.mark.parametrize(
    ("kind", "pp", "may_span", "strategy"),
    [
        ("H100", 1, False, "STRICT_PACK"),
        ("H100", 1, True, "PACK"),
        ("H100", 2, False, "PACK"),
        (None, 1, False, "STRICT_PACK"),
        (None, 2, True, "STRICT_PACK"),
    ],
)
def test_the_strategy_follows_from_what_may_span_nodes(
    kind: str | None, pp: int, may_span: bool, strategy: str
) -> None:
    assert group(tp=2, pp=pp, kind=kind, may_span=may_span).strategy == strategy


def test_an_engine_definition_is_a_topology() -> None:
    engine = EngineSpec.model_validate(
        {"model": "m", "model_source": "/m", "max_model_len": 512, "tensor_parallel_size": 2}
    )
    assert placement_group(engine).bundles == [{"CPU": 1.0}, {"CPU": 1.0}]


@pytest.mark.parametrize(
    ("tp", "pp", "gpus", "nodes"),
    [
        (4, 1, (4, 4), "aaaa"),
        (4, 1, (2, 4), "bbbb"),
        (4, 1, (3, 3), None),
        (2, 4, (4, 4, 4), "aaaabbbb"),
        (2, 2, (2, 4), "bbbb"),
        (2, 2, (1, 3), "bbba"),
        (4, 2, (4, 3, 1), "aaaabbbc"),
        (4, 2, (4, 3), None),
    ],
)
def test_the_prediction_packs_the_emptiest_node_first(
    tp: int, pp: int, gpus: tuple[int, ...], nodes: str | None
) -> None:
    assert assign(group(tp=tp, pp=pp), free(*gpus)) == (None if nodes is None else list(nodes))


def test_only_nodes_of_the_asked_type_are_taken() -> None:
    nodes = {**free(2), "z": node_resources(cpus=8, accelerators={"L4": 8})}
    assert assign(group(tp=2), nodes) == ["a", "a"]
    assert assign(group(tp=4), nodes) is None


def test_the_replica_needs_a_core_beside_its_accelerators() -> None:
    assert assign(group(tp=2), free(2, cpus=0)) is None


def test_ranks_on_cpu_share_one_node() -> None:
    nodes = {"small": {"CPU": 1.0}, "large": {"CPU": 2.0}}
    assert assign(group(tp=1, pp=2, kind=None), nodes) == ["large", "large"]
    assert assign(group(tp=3, kind=None), nodes) is None


def test_what_one_group_takes_the_next_does_not_get() -> None:
    first = group(tp=2, pp=2)
    nodes = assign(first, free(4, 4))
    assert nodes is not None
    left = left_after(first, nodes, free(4, 4))
    assert left["a"] == {"CPU": 7.0, "GPU": 0.0, "accelerator_type:H100": 0.996}
    assert assign(group(tp=4), left) == ["b"] * 4


def test_ranks_follow_the_replica_s_node_and_then_the_bundles() -> None:
    assert bundles_by_rank(["b", "b", "a", "a"]) == [0, 1, 2, 3]
    assert bundles_by_rank(["b", "a", "b", "a"]) == [0, 2, 1, 3]


def test_a_split_group_is_refused_unless_it_may_span() -> None:
    assert split_stages(group(tp=2, pp=2), list("aaab")) == [1]
    with pytest.raises(
        TensorGroupSplit, match=r"stage 1 would span nodes: Ray found room for 3 \+ 1 ranks on 2"
    ):
        rank_order(group(tp=2, pp=2), list("aaab"))
    assert rank_order(group(tp=2, pp=2, may_span=True), list("aaab")) == [0, 1, 2, 3]
    assert rank_order(group(tp=2, pp=2), list("abab")) == [0, 2, 1, 3]


@given(
    tp=st.sampled_from([1, 2, 4, 8]),
    pp=st.integers(1, 4),
    gpus=st.lists(st.integers(0, 8), min_size=1, max_size=5),
)
def test_a_prediction_never_takes_more_than_there_is(tp: int, pp: int, gpus: list[int]) -> None:
    asked, nodes_free = group(tp=tp, pp=pp), free(*gpus)
    nodes = assign(asked, nodes_free)
    if nodes is None:
        assert tp * pp > (sum(gpus) if pp > 1 else max(gpus))
        return
    left = left_after(asked, nodes, nodes_free)
    assert all(amount >= 0 for resources in left.values() for amount in resources.values())
    order = rank_order(placement_group(Shape("H100", tp, pp), tp_may_span_nodes=True), nodes)
    assert sorted(order) == list(range(tp * pp))
    assert order[0] == 0
