"""What an update holds while it is under way."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from serving.planner.update_needs import Fleet, update_needs
from serving.render import DRAIN_S


def test_one_replica_needs_its_own_place_or_a_second_one_while_the_old_one_drains() -> None:
    needs = update_needs(Fleet("H100", 4, 1), Fleet("H100", 4, 1))
    assert (needs.least, needs.most) == (4, 8)
    assert f"4 × H100 more for up to {DRAIN_S} s" in needs.words
    assert "Callers wait" in needs.words


def test_several_replicas_are_replaced_in_batches() -> None:
    needs = update_needs(Fleet("H100", 2, 10), Fleet("H100", 2, 10))
    assert (needs.least, needs.most) == (20, 24)
    assert "2 of 10 replicas at a time" in needs.words


def test_a_larger_topology_needs_its_own_size_and_the_last_batch_beside_it() -> None:
    needs = update_needs(Fleet("H100", 1, 3), Fleet("H100", 4, 3))
    assert (needs.least, needs.most) == (12, 13)


def test_another_type_is_held_beside_the_old_one() -> None:
    needs = update_needs(Fleet("L4", 1, 2), Fleet("H100", 2, 2))
    assert (needs.least, needs.most, needs.old_type) == (4, 4, ("L4", 2))
    assert "beside 2 × L4" in needs.words


def test_where_nothing_runs_only_the_new_one_counts() -> None:
    for old in (None, Fleet("H100", 8, 0)):
        assert update_needs(old, Fleet(None, 2, 1)).most == 2


@given(old=st.integers(1, 8), new=st.integers(1, 8), replicas=st.integers(1, 30))
def test_every_step_of_the_update_lies_between_least_and_most(old: int, new: int, replicas: int) -> None:
    needs = update_needs(Fleet("H100", old, replicas), Fleet("H100", new, replicas))
    batch = max(1, int(0.2 * replicas))
    done = 0
    while done < replicas:
        step = min(batch, replicas - done)
        assert (replicas - done) * old + (done + step) * new <= needs.most
        done += step
    assert max(old, new) * replicas == needs.least <= needs.most
