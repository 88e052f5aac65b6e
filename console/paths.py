"""Where one copy of Raydeck keeps its files.

Everything lies under one data folder, so that two copies run side by side and a backup is one folder.
Plain Python: settings, the supervisor and the set-up import this before Django is configured.
It must not create anything by merely being imported.
"""

import os
from pathlib import Path

PROJECT_ROOT = Path(__file__).resolve().parent.parent


def data_dir() -> Path:
    """The data folder from RAYDECK_DATA_DIR, absolute; `var` beside manage.py by default."""
    given = os.environ.get("RAYDECK_DATA_DIR", "").strip()
    if not given:
        return PROJECT_ROOT / "var"
    return Path(given).expanduser().resolve()


def secrets_dir() -> Path:
    """Folder of generated secrets, created on demand."""
    return _private_folder("secrets")


def logs_dir() -> Path:
    """Folder of the supervised processes' log files, created on demand."""
    return _private_folder("logs")


def run_dir() -> Path:
    """Folder of the supervisor's lock and its record of running children, created on demand."""
    return _private_folder("run")


def spool_dir() -> Path:
    """Folder where the gateway keeps usage records while Redis is away, created on demand."""
    return _private_folder("spool")


def redis_dir() -> Path:
    """Folder of the embedded Redis, created on demand."""
    return _private_folder("redis")


def _private_folder(name: str) -> Path:
    # The data folder holds password hashes and chats: nobody but its owner looks in.
    data_dir().mkdir(mode=0o700, parents=True, exist_ok=True)
    folder = data_dir() / name
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder
