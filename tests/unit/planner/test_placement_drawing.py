"""The drawing shows each rank once, each group on one node, and says when the nodes are not real."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from serving.planner.placement_drawing import Drawing, Room, draw
from serving.planner.placement_groups import Shape, placement_group

rooms = st.lists(st.tuples(st.integers(0, 8), st.integers(0, 8)), max_size=5).map(
    lambda sizes: [
        Room(str(index), f"n{index}", total, min(free, total)) for index, (total, free) in enumerate(sizes)
    ]
)


def ours(drawing: Drawing) -> list[tuple[int | None, int | None]]:
    return [(c.stage, c.rank) for node in drawing.nodes for c in node.cells if c.state == "this"]


@given(tensor=st.integers(1, 8), pipeline=st.integers(1, 4), nodes=rooms)
def test_every_rank_is_drawn_once(tensor: int, pipeline: int, nodes: list[Room]) -> None:
    drawing = draw(placement_group(Shape("H100", tensor, pipeline)), nodes, usual_per_node=8)
    if not any(node.hidden for node in drawing.nodes):
        wanted = [(stage, rank) for stage in range(pipeline) for rank in range(tensor)]
        assert sorted(ours(drawing)) == wanted  # type: ignore[type-var]


def test_free_room_is_used_and_what_others_hold_is_shown() -> None:
    drawing = draw(
        placement_group(Shape("H100", 2, 1)), [Room("a", "a", 4, 1), Room("b", "b", 4, 3)], usual_per_node=8
    )
    (node,) = drawing.nodes
    assert node.name == "b"
    assert [cell.state for cell in node.cells] == ["this", "this", "held", "free"]
    assert drawing.is_real
    assert not drawing.waits


def test_without_free_room_it_is_drawn_as_waiting() -> None:
    drawing = draw(placement_group(Shape("H100", 4, 1)), [Room("a", "a", 4, 2)], usual_per_node=8)
    assert drawing.is_real
    assert drawing.waits


def test_without_such_nodes_usual_ones_are_drawn() -> None:
    drawing = draw(placement_group(Shape("H100", 8, 2)), [Room("a", "a", 4, 4)], usual_per_node=8)
    assert not drawing.is_real
    assert [node.stages for node in drawing.nodes] == [(0,), (1,)]


@given(tensor=st.integers(1, 8), pipeline=st.integers(1, 4), nodes=rooms)
def test_a_split_group_is_never_drawn_in_silence(tensor: int, pipeline: int, nodes: list[Room]) -> None:
    drawing = draw(placement_group(Shape("H100", tensor, pipeline)), nodes, usual_per_node=8)
    homes: dict[int | None, set[int]] = {}
    for index, node in enumerate(drawing.nodes):
        for cell in node.cells:
            if cell.state == "this":
                homes.setdefault(cell.stage, set()).add(index)
    is_split = any(len(where) > 1 for where in homes.values())
    assert is_split == bool(drawing.split) or any(node.hidden for node in drawing.nodes)
    if is_split:
        assert "would span nodes" in drawing.split
        assert not drawing.is_real


def test_free_remainders_that_would_split_a_group_are_drawn_as_waiting() -> None:
    odd = [Room("a", "a", 4, 3), Room("b", "b", 4, 3)]
    drawing = draw(placement_group(Shape("H100", 2, 2)), odd, usual_per_node=8)
    assert drawing.is_real
    assert drawing.waits
    assert not drawing.split
