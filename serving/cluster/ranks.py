"""From the placement group that Ray has placed to the ranks that vLLM starts in it. Runs in the replica.

Ray cannot be told that some bundles of a group belong on one node, and by itself vLLM only warns when a
tensor-parallel group spans nodes: here it is refused, before anything is loaded.
"""

from collections.abc import Sequence
from typing import Any

from serving.planner.placement_groups import (
    PlacementGroup,
    Shape,
    bundles_by_rank,
    placement_group,
    split_reason,
)

RANK_ORDER = "VLLM_RAY_BUNDLE_INDICES"


class TensorGroupSplit(RuntimeError):
    """Ray's placement would have a tensor-parallel group talk over the network."""


def group_of(args: dict[str, Any]) -> PlacementGroup:
    """The placement group of one replica, from the document's `args`."""
    shape = Shape(
        accelerator_type=args.get("accelerator_type"),
        tensor_parallel_size=int(args.get("tensor_parallel_size", 1)),
        pipeline_parallel_size=int(args.get("pipeline_parallel_size", 1)),
    )
    return placement_group(shape, tp_may_span_nodes=bool(args.get("tp_may_span_nodes", False)))


def order_ranks(args: dict[str, Any]) -> dict[str, str]:
    """The variable that tells vLLM which bundle each rank takes, for this replica's own placement group.

    Without it vLLM orders the bundles by node id, so that stages would lie elsewhere than drawn. Raises
    TensorGroupSplit. Call it in the replica, before vLLM is imported.
    """
    group = group_of(args)
    if len(group.bundles) == 1:
        return {}
    return {RANK_ORDER: ",".join(map(str, rank_order(group, _nodes_of_own_group())))}


def rank_order(group: PlacementGroup, nodes: Sequence[str]) -> list[int]:
    """The bundle of each rank, given the node of each bundle. Raises TensorGroupSplit."""
    if reason := split_reason(group, nodes):
        raise TensorGroupSplit(reason)
    return bundles_by_rank(nodes)


def _nodes_of_own_group() -> list[str]:
    import ray

    placed = ray.util.placement_group_table(ray.util.get_current_placement_group())["bundles_to_node_id"]
    return [placed[index] for index in range(len(placed))]
