"""What a plan advises: it holds what it promises, and no group of ranks leaves its node for it."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest

from serving.accelerators import accelerator
from serving.planner.plan import make_plan
from serving.planner.request import PlanRequest
from serving.planner.topologies import ClusterView, topologies
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


def test_topologies_advise_by_the_nodes_that_the_cluster_has() -> None:
    nodes = {f"n{number}": 4 for number in range(8)}
    request = PlanRequest(LARGE, accelerator=accelerator("H100"))
    for one in topologies(request, ClusterView(nodes, nodes), most_accelerators=32):
        if "Tensor parallel over" in one.plan.lever:
            assert advised(one.plan.lever)[0] <= 4, one
