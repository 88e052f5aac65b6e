"""What the tests need of the operating system: Chromium, PostgreSQL and a Redis server of their own.

Installed through apt where root or password-less sudo allows it, with no service started; otherwise a
sentence says what to install. What is there already is used.
"""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from deploy.setup.commands import run_logged
from deploy.setup.packages import PROJECT_ROOT

POLICY = Path("/usr/sbin/policy-rc.d")


class PackagesMissing(Exception):
    """System packages are missing and cannot be installed from here; the message says what to do."""


def nothing_missing() -> bool:
    """Whether every program the tests drive is there."""
    return not missing_packages()


def missing_packages() -> list[str]:
    """Debian packages that have to be installed, by what is not found."""
    missing = []
    if not _found("chromium", "chromium-browser", "google-chrome"):
        # The fonts: without them every page is drawn in squares.
        missing += ["chromium", "fonts-liberation"]
    if not _found("initdb") and not list(Path("/usr/lib/postgresql").glob("*/bin/initdb")):
        missing.append("postgresql")
    if not _found("redis-server"):
        missing.append("redis-server")
    return missing


def install_missing(log: Path) -> None:
    """Install what is missing through apt; raises PackagesMissing where that is not allowed."""
    missing = missing_packages()
    if not missing:
        return
    command = f"apt-get install --no-install-recommends {' '.join(missing)}"
    prefix = _root_prefix()
    if prefix is None:
        raise PackagesMissing(
            f"The tests need {', '.join(missing)}, and this user may not install them.\n"
            f"  What to do: ask an administrator for `{command}`, then run the same command again.\n"
            "  Only `make test` needs them; `make run` does not."
        )
    with _services_not_started(prefix):
        env = {"DEBIAN_FRONTEND": "noninteractive"}
        run_logged([*prefix, "apt-get", "update", "-q"], log=log, cwd=PROJECT_ROOT, extra_env=env)
        install = [
            *prefix,
            "apt-get",
            "install",
            "-q",
            "-o",
            "DPkg::Lock::Timeout=120",
            "--yes",
            "--no-install-recommends",
            *missing,
        ]
        run_logged(install, log=log, cwd=PROJECT_ROOT, extra_env=env)
    left = missing_packages()
    if left:
        raise PackagesMissing(
            f"apt installed its packages, but {', '.join(left)} is still not found; see {log}."
        )


def _found(*programs: str) -> bool:
    return any(shutil.which(program) for program in programs)


def _root_prefix() -> list[str] | None:
    """What to put before apt-get: nothing for root, sudo where it asks no password, None where neither."""
    if shutil.which("apt-get") is None:
        return None
    if os.geteuid() == 0:
        return []
    sudo = shutil.which("sudo")
    if sudo and subprocess.run([sudo, "-n", "true"], capture_output=True, check=False).returncode == 0:
        return [sudo, "-n", "--preserve-env=DEBIAN_FRONTEND"]
    return None


@contextmanager
def _services_not_started(prefix: list[str]) -> Iterator[None]:
    """Debian starts servers on installation; the tests start their own, so a policy forbids it meanwhile."""
    if POLICY.exists():
        yield
        return
    script = "printf '#!/bin/sh\\nexit 101\\n' > /usr/sbin/policy-rc.d && chmod 755 /usr/sbin/policy-rc.d"
    subprocess.run([*prefix, "sh", "-c", script], check=True)
    try:
        yield
    finally:
        subprocess.run([*prefix, "rm", "-f", str(POLICY)], check=True)
