"""The gateway's table: keys by digest, models by name, nothing that can take the gateway down."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.cluster.table import ModelEntry, read_table
from serving.keys import digest_of

PEPPER = "pepper"
ENTRY = {
    "app": "model-demo",
    "deployment": "engine",
    "revision": 3,
    "state": "serve",
    "hold_s": 5,
    "created": 1,
}


def test_finds_a_key_by_its_peppered_digest_only() -> None:
    digest = digest_of(key="rd-abc", pepper=PEPPER)
    table = read_table({"keys": {digest: {"id": 4, "name": "ci", "kind": "internal"}}})
    found = table.key_for("rd-abc", pepper=PEPPER)
    assert found is not None
    assert (found.id, found.name, found.is_internal) == (4, "ci", True)
    assert table.key_for("rd-abc", pepper="another") is None
    assert table.key_for(digest, pepper=PEPPER) is None
    assert table.key_for("", pepper=PEPPER) is None


def test_leaves_out_and_counts_what_cannot_be_read() -> None:
    table = read_table(
        {"models": {"demo": ENTRY, "broken": {"revision": "x"}, "none": None}, "keys": {"d": 5}}
    )
    assert list(table.models) == ["demo"]
    assert table.models["demo"].revision == 3
    assert table.unreadable == 3


@given(st.recursive(st.none() | st.text() | st.integers(), lambda inner: st.dictionaries(st.text(), inner)))
def test_no_configuration_raises(config: object) -> None:
    read_table(config)
    read_table({"models": config, "keys": config})


@pytest.mark.parametrize(
    ("reason", "shown"),
    [
        ("maintenance until noon", "maintenance until noon"),
        ("out of memory: 12 GiB wanted, 8 GiB free", "out of memory: 12 GiB wanted, 8 GiB free"),
        ("No such file /srv/models/x", ""),
        ("OSError at 0x7f445c27e2a0", ""),
        ('File "engine.py", line 3', ""),
        ("ray actor died", ""),
        ("see http://10.0.0.1:8265", ""),
        ("", ""),
    ],
)
def test_shows_callers_only_reasons_without_internals(reason: str, shown: str) -> None:
    entry = ModelEntry("demo", "model-demo", "engine", 1, "failed", reason, 0.0, 0)
    assert entry.public_reason() == shown
