"""The systems that are compared, all up at the same time in front of an engine of no cost.

| name | what |
|---|---|
| direct | the mock server itself |
| raydeck | our gateway on Ray Serve, as `make run` starts it, with key limits and durable usage records |
| ray best | Ray's own OpenAI ingress with HAProxy and the throughput switch, in the same cluster |
| ray default | the same without switches, in a cluster of its own |
| litellm | LiteLLM's proxy, one worker, no database, in a virtual environment of its own |
"""

import contextlib
import os
import secrets
import subprocess
import sys
import time
import venv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil

from serving import head
from tests.bench.gateway import answers
from tests.bench.gateway.load import Target
from tests.cluster.local_cluster import DEMO_MODEL, PROJECT, LocalCluster, wait_for

LITELLM = "litellm[proxy]==1.106.12"
"""The newest release whose proxy extras can be installed from the public index."""
LITELLM_VENV = PROJECT / ".venv-litellm"
LITELLM_ON = "master key check, request logging to memory; no database, cache, guardrail or callback"
LIMITS = {"requests_per_minute": 10_000_000, "requests_in_flight": 100_000}
"""High enough never to refuse: what is measured is that they are checked."""
SWITCHES = ("RAY_SERVE_ENABLE_HA_PROXY", "RAY_SERVE_THROUGHPUT_OPTIMIZED", "RAY_SERVE_HTTP_PROXY_CALLBACK")


@dataclass
class System:
    """One system: where to ask it, and the words that its own processes' command lines begin with or hold."""

    name: str
    target: Target
    words: tuple[str, ...]
    root: psutil.Process
    replica_words: str = ""
    up_s: float | None = None

    def processes(self) -> list[psutil.Process]:
        """Everything between the caller and the engine."""
        found = []
        for process in [self.root, *self.root.children(recursive=True)]:
            with contextlib.suppress(psutil.Error):
                line = " ".join(process.cmdline())
                if not self.words or any(word in line for word in self.words):
                    found.append(process)
        return found

    def cpu_s(self) -> float:
        """Processor seconds that these processes have used so far."""
        total = 0.0
        for process in self.processes():
            with contextlib.suppress(psutil.Error):
                times = process.cpu_times()
                total += times.user + times.system
        return total

    def resident_bytes(self) -> int:
        """Resident memory of the gateway's own process, without proxies in front of it."""
        sizes = []
        for process in self.processes():
            with contextlib.suppress(psutil.Error):
                if self.replica_words in " ".join(process.cmdline()):
                    sizes.append(process.memory_info().rss)
        return max(sizes, default=0)


class Cluster(LocalCluster):
    """A head whose replicas can import the benchmark; `switched` leaves Serve's fast switches on."""

    def __init__(self, *, switched: bool) -> None:
        super().__init__()
        environment = dict(self.command.environment)
        environment["RAYLLM_VLLM_ENGINE_CLS"] = "tests.bench.gateway.stand_in_llm.StandInLLMEngine"
        if not switched:
            for name in list(environment):
                if name.startswith(SWITCHES):
                    del environment[name]
        self.command = head.HeadCommand(
            argv=self.command.argv,
            environment=environment,
            temp_dir=self.command.temp_dir,
            haproxy_dir=self.command.haproxy_dir,
            dashboard_url=self.command.dashboard_url,
        )
        self.applications: list[dict[str, Any]] = []

    def document(self) -> dict[str, Any]:
        document = super().document()
        return {**document, "applications": self.applications}

    def root(self) -> psutil.Process:
        assert self.process is not None
        return psutil.Process(self.process.pid)


def gateway_apps(cluster: LocalCluster, *, limits: dict[str, int]) -> list[dict[str, Any]]:
    """Our gateway and the stand-in engine behind it."""
    for entry in cluster.keys.values():
        entry["limits"] = limits
    table = {
        answers.MODEL: {
            "app": f"model-{answers.MODEL}",
            "deployment": "engine",
            "revision": 1,
            "state": "serve",
            "reason": "",
            "hold_s": 20.0,
            "created": 1_700_000_000,
        }
    }
    environment = {"env_vars": {"PYTHONPATH": str(PROJECT)}}
    return [
        {
            "name": "gateway",
            "route_prefix": "/",
            "import_path": "serving.cluster.gateway:build_gateway",
            "runtime_env": environment,
            "args": {},
            "deployments": [{"name": "Gateway", "user_config": {"models": table, "keys": cluster.keys}}],
        },
        {
            "name": f"model-{answers.MODEL}",
            "route_prefix": None,
            "import_path": "tests.bench.gateway.stand_in:build",
            "runtime_env": environment,
            "args": {},
        },
    ]


def ray_app(prefix: str) -> dict[str, Any]:
    """Ray's own OpenAI ingress with one replica and one stand-in engine."""
    one = {"min_replicas": 1, "max_replicas": 1, "initial_replicas": 1, "target_ongoing_requests": 1000}
    config = {
        "model_loading_config": {"model_id": answers.MODEL, "model_source": str(DEMO_MODEL)},
        "deployment_config": {"autoscaling_config": one, "max_ongoing_requests": 1000},
        "placement_group_config": {"bundles": [{"CPU": 1}]},
        "callback_config": {"callback_class": "serving.cluster.callbacks.SkipNodeInit"},
        "runtime_env": {"env_vars": {"PYTHONPATH": str(PROJECT)}},
        "log_engine_metrics": False,
    }
    return {
        "name": "rays-own",
        "route_prefix": prefix,
        "import_path": "ray.serve.llm:build_openai_app",
        "runtime_env": {"env_vars": {"PYTHONPATH": str(PROJECT)}},
        "args": {
            "llm_configs": [config],
            "ingress_deployment_config": {"autoscaling_config": one, "max_ongoing_requests": 1000},
        },
    }


@contextlib.contextmanager
def all_systems() -> Iterator[list[System]]:
    """Everything up and answering; ended in the end."""
    with contextlib.ExitStack() as stack:
        mock = stack.enter_context(mock_server())
        litellm = stack.enter_context(litellm_proxy(mock.target.url.removesuffix("/chat/completions")))
        ours, best = stack.enter_context(switched_cluster())
        default = stack.enter_context(default_cluster())
        yield [mock, ours, best, default, litellm]


@contextlib.contextmanager
def mock_server() -> Iterator[System]:
    """The engine of no cost by itself."""
    port = _free_port()
    command = [sys.executable, "-m", "tests.bench.gateway.mock_server", str(port)]
    with _process(command, {}) as process:
        target = Target(f"http://127.0.0.1:{port}/v1/chat/completions", "none")
        wait_for("the mock server answers", lambda: _answers(target), within_s=60)
        yield System("direct", target, (), psutil.Process(process.pid))


@contextlib.contextmanager
def litellm_proxy(backend: str) -> Iterator[System]:
    """LiteLLM's proxy in front of the mock server."""
    python = _litellm_python()
    port, key = _free_port(), "sk-" + secrets.token_hex(16)
    config = LITELLM_VENV / "bench.yaml"
    config.write_text(
        f"model_list:\n  - model_name: {answers.MODEL}\n    litellm_params:\n"
        f"      model: openai/{answers.MODEL}\n      api_base: {backend}\n      api_key: none\n"
        f"general_settings:\n  master_key: {key}\n"
    )
    command = [str(python.parent / "litellm"), "--config", str(config), "--host", "127.0.0.1"]
    command += ["--port", str(port), "--num_workers", "1", "--telemetry", "False"]
    environment = {
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        "LITELLM_MODE": "PRODUCTION",
        "LITELLM_LOG": "ERROR",
    }
    started = time.monotonic()
    with _process(command, environment) as process:
        target = Target(f"http://127.0.0.1:{port}/v1/chat/completions", key)
        wait_for("LiteLLM answers", lambda: _answers(target), within_s=300)
        yield System("litellm", target, (), psutil.Process(process.pid), up_s=time.monotonic() - started)


@contextlib.contextmanager
def switched_cluster() -> Iterator[tuple[System, System]]:
    """Our gateway and Ray's ingress with its best switches, in one cluster."""
    cluster = Cluster(switched=True)
    try:
        cluster.start_redis()
        cluster.start()
        ours = Target(f"{cluster.gateway_url}/v1/chat/completions", cluster.key)
        cluster.applications = gateway_apps(cluster, limits=LIMITS)
        started = time.monotonic()
        cluster.put()
        wait_for("our gateway answers", lambda: _answers(ours), within_s=300)
        up_s = time.monotonic() - started
        cluster.applications = [*cluster.applications, ray_app("/ray")]
        cluster.put()
        best = Target(f"{cluster.gateway_url}/ray/v1/chat/completions", cluster.key)
        wait_for("Ray's ingress answers", lambda: _answers(best), within_s=400)
        root = cluster.root()
        yield (
            System(
                "raydeck", ours, ("ServeReplica:gateway", "haproxy"), root, "ServeReplica:gateway", up_s=up_s
            ),
            System("ray best", best, ("OpenAiIngress", "haproxy"), root, "OpenAiIngress"),
        )
    finally:
        cluster.close()


@contextlib.contextmanager
def default_cluster() -> Iterator[System]:
    """Ray's ingress as Ray starts it when nothing is said."""
    cluster = Cluster(switched=False)
    try:
        cluster.start()
        cluster.applications = [ray_app("/")]
        cluster.put()
        target = Target(f"{cluster.gateway_url}/v1/chat/completions", cluster.key)
        wait_for("Ray's ingress answers, default", lambda: _answers(target), within_s=400)
        yield System("ray default", target, ("OpenAiIngress", "ProxyActor"), cluster.root(), "OpenAiIngress")
    finally:
        cluster.close()


def _litellm_python() -> Path:
    python = LITELLM_VENV / "bin" / "python"
    stamp = LITELLM_VENV / "installed.txt"
    if stamp.exists() and stamp.read_text() == LITELLM:
        return python
    print(f"installing {LITELLM} into {LITELLM_VENV.name}", flush=True)
    venv.create(LITELLM_VENV, with_pip=True, clear=True)
    subprocess.run([python, "-m", "pip", "install", "-q", LITELLM], check=True)
    stamp.write_text(LITELLM)
    return python


@contextlib.contextmanager
def _process(command: list[str], environment: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(
        command,
        cwd=PROJECT,
        env={**os.environ, **environment},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield process
    finally:
        children = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
        for one in [process, *children]:
            with contextlib.suppress(psutil.Error, ProcessLookupError):
                one.terminate()
        process.wait(timeout=30)


def _answers(target: Target) -> bool:
    body = {"model": answers.MODEL, "messages": [{"role": "user", "content": "x"}]}
    try:
        answer = httpx.post(
            target.url, json=body, headers={"Authorization": f"Bearer {target.key}"}, timeout=10
        )
    except httpx.HTTPError:
        return False
    return answer.status_code == 200


def _free_port() -> int:
    from tests.services import free_port

    return free_port()
