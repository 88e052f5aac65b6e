"""Real servers for the tests: PostgreSQL and Redis from the system's packages, on free ports, in folders
of their own, gone when the block ends. Also free ports for a whole copy of the product.

Must not touch a server that runs already, nor leave a process or a file behind.
"""

import contextlib
import os
import pwd
import random
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import redis

from console.ports import PORTS, RANGE_BOUNDS
from console.supervisor import kernel

START_DEADLINE_S = 30.0
# Below the range from which the kernel gives ports to outgoing connections (32768 on).
HIGHEST_PORT = 32_700


class ServiceMissing(RuntimeError):
    """A server's program is not installed; the message names the Debian package."""


def free_port() -> int:
    """A TCP port on loopback that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def free_port_offset() -> int:
    """A RAYDECK_PORT_OFFSET with which all of a copy's ports are free, the worker range included."""
    low, high = min(entry.default for entry in PORTS.values()), max(entry.default for entry in PORTS.values())
    for _ in range(200):
        offset = random.randrange(10_000 - low, HIGHEST_PORT - high)
        singles = [entry.default + offset for name, entry in PORTS.items() if name not in RANGE_BOUNDS]
        if all(_is_free(port) for port in singles):
            return offset
    raise RuntimeError("no free range of ports found")


@contextlib.contextmanager
def postgres_server() -> Iterator[str]:
    """A PostgreSQL server; yields its DATABASE_URL. Run as another user where this one is root.

    Raises ServiceMissing when PostgreSQL is not installed.
    """
    binaries = postgres_binaries()
    owner = "postgres" if os.geteuid() == 0 else pwd.getpwuid(os.geteuid()).pw_name
    # Not below TMPDIR: that may be closed to the user that the server runs as.
    folder = Path(tempfile.mkdtemp(prefix="rdpg-", dir="/tmp"))
    identity: dict[str, str] = {}
    if os.geteuid() == 0:
        shutil.chown(folder, owner, owner)
        identity = {"user": owner, "group": owner}
    port = free_port()
    try:
        subprocess.run(
            [binaries / "initdb", "-D", folder / "data", "-A", "trust", "-U", "raydeck", "-E", "UTF8", "-N"],
            check=True,
            capture_output=True,
            cwd=folder,
            **identity,  # type: ignore[call-overload]
        )
        settings = {"port": port, "listen_addresses": "127.0.0.1", "unix_socket_directories": folder}
        # Durability is the server's business, not that of these tests.
        settings |= {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        argv = [str(binaries / "postgres"), "-D", str(folder / "data"), *options]
        address = f"postgresql://raydeck@127.0.0.1:{port}/postgres"
        with _server(
            argv,
            folder=folder,
            answers=lambda: _postgres_answers(address),
            stop=signal.SIGINT,
            identity=identity,
        ):
            yield address
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def redis_server() -> Iterator[str]:
    """A Redis server with a password; yields its REDIS_URL. Raises ServiceMissing when not installed."""
    binary = shutil.which("redis-server")
    if binary is None:
        raise ServiceMissing("redis-server is missing: run `make setup`, or apt-get install redis-server")
    folder = Path(tempfile.mkdtemp(prefix="rdredis-", dir="/tmp"))
    port, password = free_port(), secrets.token_urlsafe(16)
    (folder / "redis.conf").write_text(
        f'bind 127.0.0.1\nport {port}\nrequirepass {password}\ndir "{folder}"\nsave ""\nappendonly no\n'
    )
    address = f"redis://:{password}@127.0.0.1:{port}/0"
    try:
        with _server(
            [binary, str(folder / "redis.conf")],
            folder=folder,
            answers=lambda: _redis_answers(address),
            stop=signal.SIGTERM,
            identity={},
        ):
            yield address
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def postgres_binaries() -> Path:
    """The folder with initdb and postgres, the newest version's. Raises ServiceMissing."""
    packaged = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: path.parts[-3])
    if packaged:
        return packaged[-1].parent
    found = shutil.which("initdb")
    if found:
        return Path(found).resolve().parent
    raise ServiceMissing("PostgreSQL is missing: run `make setup`, or apt-get install postgresql")


@contextlib.contextmanager
def _server(
    argv: list[str],
    *,
    folder: Path,
    answers: Callable[[], bool],
    stop: signal.Signals,
    identity: dict[str, str],
) -> Iterator[None]:
    parent = os.getpid()
    with (folder / "server.log").open("wb") as log:
        process = subprocess.Popen(
            argv,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=lambda: kernel.die_with_parent(parent),
            **identity,  # type: ignore[call-overload]
        )
    try:
        deadline = time.monotonic() + START_DEADLINE_S
        while not answers():
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{argv[0]} did not start:\n{(folder / 'server.log').read_text()[-2000:]}")
            time.sleep(0.05)
        yield
    finally:
        process.send_signal(stop)
        try:
            process.wait(timeout=15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _postgres_answers(address: str) -> bool:
    try:
        with psycopg.connect(address, connect_timeout=1):
            return True
    except psycopg.OperationalError:
        return False


def _redis_answers(address: str) -> bool:
    try:
        with redis.Redis.from_url(address, socket_timeout=0.5) as client:
            return bool(client.ping())
    except redis.RedisError:
        return False


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
