"""A stand-in for the engine that only holds its place: for tests of placement, where no accelerator exists.

It is placed by the product's own `application_of`, orders its ranks by the product's own `order_ranks`, and
starts for each rank an actor that claims the rank's accelerator, as vLLM's Ray executor does. It loads
nothing and answers no request.
"""

import asyncio
from typing import Any

import ray
from ray.serve import Application
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from serving.cluster.apps import application_of
from serving.cluster.engine import start_failed
from serving.cluster.ranks import RANK_ORDER, TensorGroupSplit, group_of, order_ranks

RANK_ANSWERS_WITHIN_S = 10.0


@ray.remote(num_cpus=0, num_gpus=1)
class RankHolder:
    """Holds one accelerator of one bundle."""

    def alive(self) -> bool:
        return True


class PlaceholderEngine:
    """One replica that is nothing but its ranks; it is ill as soon as one of them is gone."""

    async def __init__(self, args: dict[str, Any]) -> None:
        group = group_of(args)
        try:
            order = order_ranks(args).get(RANK_ORDER, "0")
        except TensorGroupSplit as error:
            raise start_failed(error) from error
        own_group = ray.util.get_current_placement_group()
        self._holders = [
            RankHolder.options(
                name=f"{args['deployment']} stage {rank.stage} rank {rank.tensor_rank} {own_group.id.hex()}",
                scheduling_strategy=PlacementGroupSchedulingStrategy(
                    own_group, placement_group_bundle_index=int(bundle)
                ),
            ).remote()
            for rank, bundle in zip(group.ranks, order.split(","), strict=True)
        ]
        await asyncio.gather(*(holder.alive.remote() for holder in self._holders))

    async def check_health(self) -> None:
        """Raises when a rank is gone; vLLM's executor ends its engine then."""
        answers = asyncio.gather(*(holder.alive.remote() for holder in self._holders))
        await asyncio.wait_for(answers, RANK_ANSWERS_WITHIN_S)


class CheckedPlaceholder(PlaceholderEngine):
    """Before it takes its place, vLLM's Ray executor's own checks are run on the placement group."""

    async def __init__(self, args: dict[str, Any]) -> None:
        await asyncio.to_thread(_check_with_vllm, args)
        await super().__init__(args)


def _check_with_vllm(args: dict[str, Any]) -> None:
    """What RayExecutorV2 does before it starts its workers; raises where vLLM would."""
    from serving.cluster import exact_patches

    exact_patches.act_as_cuda(
        capability=(9, 0), device_name="NVIDIA H100", device_memory_bytes=85_000_000_000
    )
    from vllm.config import ParallelConfig
    from vllm.v1.executor import ray_utils

    group = group_of(args)
    own_group = ray.util.get_current_placement_group()
    parallel = ParallelConfig(
        tensor_parallel_size=group.tensor_parallel_size,
        pipeline_parallel_size=len(group.bundles) // group.tensor_parallel_size,
        distributed_executor_backend="ray",
        placement_group=own_group,
    )
    ray_utils.initialize_ray_cluster(parallel, require_gpu_on_driver=False)
    order = [int(bundle) for bundle in order_ranks(args)[RANK_ORDER].split(",")]
    ranks = ray_utils.get_bundles_for_indices(own_group, order, parallel.world_size)
    if [bundle for bundle, _, _ in ranks] != order:
        raise RuntimeError(f"vLLM takes the bundles in another order: {ranks}")
    size = group.tensor_parallel_size
    for first in range(0, len(ranks), size):
        if len({node for _, node, _ in ranks[first : first + size]}) != 1:
            raise RuntimeError(f"vLLM sees a tensor-parallel group on several nodes: {ranks}")


def build_checked_placeholder(args: dict[str, Any]) -> Application:
    """Like `build_placeholder`, with vLLM's checks; costs the seconds of importing vLLM."""
    return application_of(CheckedPlaceholder, args)


def build_placeholder(args: dict[str, Any]) -> Application:
    """In a test's document in the place of `serving.cluster.apps:build_model`."""
    return application_of(PlaceholderEngine, args)
