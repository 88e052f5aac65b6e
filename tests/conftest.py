"""Every test run has its own data folder: no test ever reads or writes an installation."""

import os
import tempfile
from pathlib import Path

_FOLDER = Path(tempfile.mkdtemp(prefix="raydeck-test-"))
os.environ["RAYDECK_DATA_DIR"] = str(_FOLDER)
os.environ["RAYDECK_TESTING"] = "1"
os.environ.setdefault("DJANGO_SETTINGS_MODULE", "console.settings")


def pytest_unconfigure() -> None:
    """Leave nothing behind."""
    import shutil

    shutil.rmtree(_FOLDER, ignore_errors=True)
