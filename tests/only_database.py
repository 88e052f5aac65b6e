"""pytest plugin (`-p tests.only_database`): keeps only tests that touch the database or the queue.

The PostgreSQL stage runs the very same tests as the SQLite stage, without naming them a second time.
"""

import pytest

DATABASE_FIXTURES = frozenset({"db", "transactional_db", "django_db_setup", "live_server"})


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect what neither is marked nor asks for a database."""
    kept = [item for item in items if _touches_database(item)]
    dropped = [item for item in items if not _touches_database(item)]
    config.hook.pytest_deselected(items=dropped)
    items[:] = kept


def _touches_database(item: pytest.Item) -> bool:
    if any(item.get_closest_marker(name) for name in ("django_db", "database")):
        return True
    return bool(DATABASE_FIXTURES & set(getattr(item, "fixturenames", ())))
