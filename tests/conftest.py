"""Every test run has its own data folder: no test ever reads or writes an installation.

The folder has to be named before Django reads its settings, so Django is set up here and not by the plugin.
"""

import os
import shutil
import tempfile
from pathlib import Path

import django

_FOLDER = Path(tempfile.mkdtemp(prefix="raydeck-test-"))
os.environ["RAYDECK_DATA_DIR"] = str(_FOLDER)
os.environ["RAYDECK_TESTING"] = "1"
os.environ["DJANGO_SETTINGS_MODULE"] = "console.settings"
django.setup()


def pytest_unconfigure() -> None:
    """Leave nothing behind."""
    shutil.rmtree(_FOLDER, ignore_errors=True)
