"""Whatever bytes a config.json holds, a plan is a verdict or a named field: soon, and never a traceback."""

from __future__ import annotations

import json
import resource
import time
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from serving.accelerators import accelerator
from serving.bounded_json import Unreadable, parse_object
from serving.planner.plan import make_plan
from serving.planner.request import BadPlanInput, PlanRequest
from serving.planner.tensors import group_tensors
from tests.unit.planner.real_configs import real_configs

HOSTILE_FILES = 5_000
MOST_CPU_S = 2.0
MOST_BYTES = 200 << 20
MODELS = real_configs()
KEYS = sorted({key for config in MODELS for key in config})
NESTED_KEYS = sorted(
    {key for config in MODELS for part in config.values() if isinstance(part, dict) for key in part}
)

numbers = st.one_of(
    st.integers(),
    st.integers(-3, 70_000),
    st.floats(),
    st.sampled_from([0, -1, 1, 2**31, 2**63, 10**30, 10**300, 1e308]),
)
scalars = st.one_of(st.none(), st.booleans(), numbers, st.text(max_size=20))
anything = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.lists(inner, max_size=5),
        st.dictionaries(st.one_of(st.sampled_from(NESTED_KEYS), st.text(max_size=8)), inner, max_size=5),
    ),
    max_leaves=10,
)
changes = st.dictionaries(st.sampled_from(KEYS), anything, min_size=1, max_size=4)
tensors = st.none() | st.lists(
    st.tuples(
        st.text(max_size=40),
        st.sampled_from(["BF16", "I32", "F8_E4M3", "?"]),
        st.none() | st.lists(st.integers(-5, 2**62), max_size=4).map(tuple),
        st.integers(0, 2**62),
    ),
    max_size=6,
)


def damaged(content: bytes, cut: float | None, inserted: bytes) -> bytes:
    """The file with bytes put in somewhere, and cut off there for good measure; whole without a cut."""
    if cut is None:
        return content
    at = int(len(content) * cut)
    return content[:at] + inserted + (content[at:] if len(inserted) % 2 else b"")


@pytest.fixture(scope="module", autouse=True)
def _memory_stays_bounded() -> Iterator[None]:
    """All files together may not take the process's peak further than one file may."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    assert grown < MOST_BYTES, f"{grown >> 20} MiB"


@settings(
    max_examples=HOSTILE_FILES,
    # Counted below in processor time: a busy machine is no fault of the planner's.
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(
    model=st.sampled_from(MODELS),
    changed=changes,
    dropped=st.sets(st.sampled_from(KEYS), max_size=3),
    nested=st.dictionaries(st.sampled_from(NESTED_KEYS), anything, max_size=3),
    found=tensors,
    tensor=st.sampled_from([1, 2, 3, 8]),
    pipeline=st.sampled_from([1, 2, 5]),
    on_cpu=st.booleans(),
    cut=st.none() | st.floats(0, 1),
    inserted=st.binary(max_size=8),
)
def test_no_file_makes_the_planner_fail(
    model: dict[str, Any],
    changed: dict[str, Any],
    dropped: set[str],
    nested: dict[str, Any],
    found: Any,
    tensor: int,
    pipeline: int,
    on_cpu: bool,
    cut: float | None,
    inserted: bytes,
) -> None:
    began = time.process_time()
    config = {key: value for key, value in {**model, **changed}.items() if key not in dropped}
    for key, part in config.items():
        if isinstance(part, dict) and nested:
            config[key] = {**part, **nested}
    try:
        parsed = parse_object(damaged(json.dumps(config).encode(), cut, inserted))
    except Unreadable as refusal:
        assert str(refusal)
        return
    request = PlanRequest(
        config=parsed,
        tensors=None if found is None else group_tensors(found),
        accelerator=None if on_cpu else accelerator("H100"),
        tensor_parallel_size=tensor,
        pipeline_parallel_size=pipeline,
        kv_cache_memory_bytes=1 << 28 if on_cpu else None,
    )
    try:
        plan = make_plan(request)
    except BadPlanInput as refusal:
        assert refusal.field
        assert refusal.message
        return
    finally:
        assert time.process_time() - began < MOST_CPU_S
    assert plan.verdict in ("fits", "tight", "does_not_fit", "refused", "unknown")
    if plan.verdict != "fits":
        assert plan.reasons
    if plan.memory is not None:
        assert all(stage.weight_bytes >= 0 for stage in plan.memory.stages)
        assert plan.memory.kv_cache_tokens >= 0
