"""What a plan advises: it holds what it promises, and no group of ranks leaves its node for it."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest

from serving.accelerators import accelerator
from serving.planner.plan import make_plan
from serving.planner.request import PlanRequest
from tests.unit.planner.recorded import model

LARGE: dict[str, Any] = model("meta-llama/Llama-3.1-405B")["config"]
SIZES = re.compile(r"(?:Tensor parallel over (\d+) accelerators)?(?: × )?(?:(\d+) pipeline stages)?")


def advised(lever: str) -> tuple[int, int]:
    found = SIZES.match(lever)
    assert found is not None and found[0], lever
    return int(found[1] or 1), int(found[2] or 1)


@pytest.mark.parametrize(("per_node", "sizes"), [(8, (8, 2)), (4, (4, 4)), (16, (16, 1))])
def test_a_group_stays_on_its_node_and_the_advice_fits(per_node: int, sizes: tuple[int, int]) -> None:
    card = accelerator("H100", overrides={"accelerators_per_node": per_node})
    request = PlanRequest(LARGE, accelerator=card)
    plan = make_plan(request)
    assert plan.verdict == "does_not_fit"
    tensor, pipeline = advised(plan.lever)
    assert (tensor, pipeline) == sizes
    changed = replace(request, tensor_parallel_size=tensor, pipeline_parallel_size=pipeline)
    assert make_plan(changed).verdict == "fits"
