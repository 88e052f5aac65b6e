"""What an engine, its children and a model's own code find in their environment: nothing of the gateway's."""

import os

import pytest

from serving.cluster import engine
from serving.cluster.environment import withhold_from_engine

GIVEN = {
    "RAYDECK_KEY_PEPPER": "pepper",
    "RAYDECK_USAGE_REDIS_URL": "redis://:password@127.0.0.1:1/0",
    "RAYDECK_SPOOL_DIR": "/spool",
}


def test_the_gateways_variables_go_and_the_rest_stays() -> None:
    environment = {**GIVEN, "PATH": "/bin", "HF_HOME": "/cache"}
    withhold_from_engine(environment)
    assert environment == {"PATH": "/bin", "HF_HOME": "/cache"}
    withhold_from_engine(environment)
    assert environment == {"PATH": "/bin", "HF_HOME": "/cache"}


async def test_a_replica_lets_go_of_them_before_it_does_anything_else(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in GIVEN.items():
        monkeypatch.setenv(name, value)

    def first_step() -> None:
        raise RuntimeError("the first step of a start")

    monkeypatch.setattr(engine, "bind_replica_port_to_node_address", first_step)
    replica = engine.Engine.__new__(engine.Engine)
    with pytest.raises(RuntimeError, match="first step"):
        await replica.__init__({})  # type: ignore[misc]  # as Serve does
    assert not set(GIVEN) & set(os.environ)
