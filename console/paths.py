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
    """Folder of generated secrets, created with mode 0700."""
    folder = data_dir() / "secrets"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return folder


def logs_dir() -> Path:
    """Folder of the supervised processes' log files, created on demand."""
    folder = data_dir() / "logs"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def run_dir() -> Path:
    """Folder of the supervisor's lock and its record of running children, created on demand."""
    folder = data_dir() / "run"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return folder
