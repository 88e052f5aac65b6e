"""/healthz and /readyz: no login, no detail, and 503 when the console cannot do its work."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from django.test import AsyncClient, Client

from console.api import health
from console.probes import PartState


@pytest.fixture(autouse=True)
def _nothing_kept() -> None:
    health._latest = health._Latest()


def answer_with(monkeypatch: pytest.MonkeyPatch, states: dict[str, str]) -> list[int]:
    asked: list[int] = []

    def probe_all(names: Sequence[str] | None = None) -> list[PartState]:
        asked.append(1)
        return [
            PartState(name, states.get(name, "ok"), "secret-host:1234 said no")  # type: ignore[arg-type]
            for name in names or ()
        ]

    monkeypatch.setattr("console.probes.probe_all", probe_all)
    return asked


def test_alive_needs_no_part_at_all() -> None:
    response = Client().get("/healthz")
    assert (response.status_code, response.json()) == (200, {"status": "alive"})


@pytest.mark.parametrize(
    ("states", "status"),
    [
        ({}, 200),
        ({"worker": "warn"}, 200),
        ({"ray": "fail", "gateway": "fail", "serve": "fail", "collector": "fail"}, 200),
        ({"database": "fail"}, 503),
        ({"redis": "fail"}, 503),
        ({"worker": "fail"}, 503),
    ],
)
async def test_ready_depends_on_what_the_console_needs(
    monkeypatch: pytest.MonkeyPatch, states: dict[str, str], status: int
) -> None:
    answer_with(monkeypatch, states)
    response = await AsyncClient().get("/readyz")
    assert response.status_code == status
    body = response.json()
    assert body["status"] == ("ready" if status == 200 else "not ready")
    assert body["parts"] == {name: states.get(name, "ok") for name in health.PARTS}
    assert "secret-host" not in response.content.decode()
    assert response["Cache-Control"] == "no-store"


async def test_many_askers_make_one_round_of_probes(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = answer_with(monkeypatch, {})
    for _ in range(5):
        await AsyncClient().get("/readyz")
    assert len(asked) == 1


@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
def test_they_only_answer_reads(path: str) -> None:
    assert Client().post(path).status_code == 405
