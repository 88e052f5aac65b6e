"""What vLLM's CPU build needs to start several ranks on one machine. Pure, no ray, no vllm."""

import os


def cpu_environment(*, tensor_parallel_size: int, pipeline_parallel_size: int) -> dict[str, str]:
    """Variables vLLM's CPU build needs before it is imported, for the cores this process may use.

    Found by running each: several ranks on one NUMA node need an explicit binding; without pipeline stages
    torch.compile only costs 13 s on the first request; with stages eager mode dies on the first request, so
    it compiles, with the small settings of vLLM's own CI. One rank is left unbound: vLLM would pin every
    replica of the machine to the same cores.
    """
    ranks = tensor_parallel_size * pipeline_parallel_size
    cores = sorted(os.sched_getaffinity(0))
    environment = {"VLLM_CPU_OMP_THREADS_BIND": omp_binding(cores, ranks=ranks)}
    if ranks == 1:
        environment["OMP_NUM_THREADS"] = str(max(1, len(cores) - 1))
    if pipeline_parallel_size > 1:
        environment["VLLM_CPU_CI_ENV"] = "1"
    else:
        environment["TORCHDYNAMO_DISABLE"] = "1"
    return environment


def omp_binding(cores: list[int], *, ranks: int) -> str:
    """The cores of each rank as vLLM reads them: `0,1|2,3`; ranks share cores where there are too few."""
    if ranks == 1:
        return "nobind"
    share = len(cores) // ranks
    if share == 0:
        return "|".join(str(cores[rank % len(cores)]) for rank in range(ranks))
    groups = [cores[rank * share : (rank + 1) * share] for rank in range(ranks)]
    return "|".join(",".join(map(str, group)) for group in groups)
