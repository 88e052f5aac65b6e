"""At most one holder, and a stalled one is fenced off."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.django import TestCase

from workers import lease


@pytest.mark.django_db
def test_the_second_taker_waits_until_the_time_is_over() -> None:
    assert lease.acquire("job", holder="a", ttl_s=10, now=100) is not None
    assert lease.acquire("job", holder="b", ttl_s=10, now=105) is None
    assert lease.acquire("job", holder="b", ttl_s=10, now=110.5) is not None


@pytest.mark.django_db
def test_a_stalled_holder_is_fenced_off_by_its_old_token() -> None:
    old = lease.acquire("job", holder="a", ttl_s=10, now=100)
    new = lease.acquire("job", holder="b", ttl_s=10, now=200)
    assert old is not None and new is not None and new > old
    assert not lease.holds("job", token=old, now=201)
    assert not lease.renew("job", token=old, ttl_s=10, now=201)
    lease.release("job", token=old)
    assert lease.holds("job", token=new, now=201)


@pytest.mark.django_db
def test_a_released_lease_is_free_at_once_and_its_token_is_dead() -> None:
    token = lease.acquire("job", holder="a", ttl_s=1000, now=100)
    assert token is not None
    lease.release("job", token=token)
    assert not lease.holds("job", token=token, now=101)
    assert lease.acquire("job", holder="b", ttl_s=10, now=101) is not None


class ManyTakers(TestCase):
    """Whatever the order of calls, two takers never hold at the same time."""

    @settings(max_examples=60, deadline=None)
    @given(
        st.lists(
            st.tuples(st.sampled_from("abc"), st.floats(0.1, 30), st.floats(0.1, 20), st.booleans()),
            max_size=25,
        )
    )
    def test_never_two_at_once(self, calls: list[tuple[str, float, float, bool]]) -> None:
        now, held = 1000.0, {}
        for holder, ttl_s, step_s, let_go in calls:
            now += step_s
            token = lease.acquire("job", holder=holder, ttl_s=ttl_s, now=now)
            if token is not None:
                held[holder] = token
            holding = [who for who, known in held.items() if lease.holds("job", token=known, now=now)]
            assert len(holding) <= 1
            if let_go and holder in held:
                lease.release("job", token=held.pop(holder))
