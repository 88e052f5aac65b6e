"""Ports come from one table and the environment."""

import pytest

from console import ports


@pytest.fixture(autouse=True)
def _no_port_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAYDECK_PORT_OFFSET", raising=False)
    for entry in ports.PORTS.values():
        monkeypatch.delenv(entry.variable, raising=False)


def test_the_documented_defaults() -> None:
    assert ports.port("web") == 8080
    assert ports.port("gateway") == 8000
    assert ports.port("redis") == 6390
    assert ports.port("ray_gcs") == 6391
    assert ports.port("ray_dashboard") == 8265


def test_an_offset_shifts_defaults_but_not_a_port_given_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAYDECK_PORT_OFFSET", "1000")
    monkeypatch.setenv("RAYDECK_GATEWAY_PORT", "8123")
    assert ports.port("web") == 9080
    assert ports.port("gateway") == 8123


@pytest.mark.parametrize("offset", [1000, 2000, 3000])
def test_copies_a_thousand_apart_share_no_port(monkeypatch: pytest.MonkeyPatch, offset: int) -> None:
    first = _all_ports()
    monkeypatch.setenv("RAYDECK_PORT_OFFSET", str(offset))
    assert not first & _all_ports()


def test_no_two_parts_share_a_default() -> None:
    singles = [entry.default for name, entry in ports.PORTS.items() if name not in ports.RANGE_BOUNDS]
    assert len(singles) == len(set(singles))
    assert len({entry.variable for entry in ports.PORTS.values()}) == len(ports.PORTS)


@pytest.mark.parametrize("bad", ["0", "65536", "-1", "http", "80.5"])
def test_a_bad_port_names_its_variable(monkeypatch: pytest.MonkeyPatch, bad: str) -> None:
    monkeypatch.setenv("RAYDECK_PORT", bad)
    with pytest.raises(ports.PortError, match="RAYDECK_PORT="):
        ports.port("web")


@pytest.mark.parametrize("bad", ["many", "70000"])
def test_a_bad_offset_is_refused_by_name(monkeypatch: pytest.MonkeyPatch, bad: str) -> None:
    monkeypatch.setenv("RAYDECK_PORT_OFFSET", bad)
    with pytest.raises(ports.PortError, match="RAYDECK_PORT_OFFSET"):
        ports.port("web")


def _all_ports() -> set[int]:
    numbers = {ports.port(name) for name in ports.PORTS if name not in ports.RANGE_BOUNDS}
    numbers |= set(range(ports.port("ray_worker_first"), ports.port("ray_worker_last") + 1))
    numbers |= set(range(ports.port("serve_replica_first"), ports.port("serve_replica_last") + 1))
    return numbers
