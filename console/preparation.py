"""What has to be done before the console can answer: tables, static files, the first administrator.

Runs inside `up`, once per start; every step is quick when nothing changed.
"""

import hashlib
from pathlib import Path

from django.conf import settings
from django.core.management import call_command
from django.db import DatabaseError, connections

from console import paths
from console.firstrun import FirstRun, ensure_first_run
from serving.errors import RaydeckError


class PreparationFailed(RuntimeError):
    """A preparation could not be done; the message says which, why and what to do."""


def prepare() -> FirstRun:
    """Migrate, collect static files when they changed, and make what a first start needs.

    Leaves no database connection open: the caller goes on to fork. Raises PreparationFailed.
    """
    doing = "bring the database's tables up to date"
    try:
        call_command("migrate", interactive=False, verbosity=0)
        doing = "collect the static files"
        _collect_static()
        doing = "make the first administrator and the demo model"
        return ensure_first_run()
    except DatabaseError as error:
        raise PreparationFailed(
            f"Could not {doing}: {error}. Check DATABASE_URL, that the server runs and the disk has room."
        ) from error
    except (OSError, RaydeckError, ValueError) as error:
        raise PreparationFailed(f"Could not {doing}: {error}") from error
    finally:
        connections.close_all()


def _collect_static() -> None:
    stamp = paths.run_dir() / "static.stamp"
    digest = _static_digest()
    if stamp.exists() and stamp.read_text() == digest and Path(settings.STATIC_ROOT).is_dir():
        return
    call_command("collectstatic", interactive=False, verbosity=0, clear=True)
    stamp.write_text(digest)


def _static_digest() -> str:
    """Over names, sizes and times of the files: reading several megabytes at every start is not needed."""
    total = hashlib.sha256(settings.STORAGES["staticfiles"]["BACKEND"].encode())
    for folder in settings.STATICFILES_DIRS:
        for path in sorted(Path(folder).rglob("*")):
            if path.is_file():
                facts = path.stat()
                total.update(f"{path} {facts.st_size} {facts.st_mtime_ns}\n".encode())
    return total.hexdigest()
