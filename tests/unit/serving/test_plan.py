"""When the Serve document is sent, and why."""

import pytest

from serving.observed import SeenApp
from serving.plan import LastPut, decide, foreign_apps

NOW = 1_000.0
WANTED = frozenset({"gateway", "model-a"})
SETTLED = LastPut("d1", NOW - 300)


def decided(**changes: object) -> tuple[bool, str]:
    values: dict = {
        "wanted_digest": "d1",
        "wanted_apps": WANTED,
        "seen_apps": {"gateway": "RUNNING", "model-a": "RUNNING"},
        "last_put": SETTLED,
        "rejected_digest": "",
        "now": NOW,
    }
    decision = decide(**{**values, **changes})
    return decision.put, decision.reason


@pytest.mark.parametrize(
    ("changes", "put", "words"),
    [
        ({}, False, "nothing to do"),
        ({"last_put": LastPut("", None)}, True, "never sent"),
        ({"wanted_digest": "d2"}, True, "changed"),
        ({"seen_apps": {}}, True, "restarted"),
        ({"seen_apps": {"gateway": "RUNNING"}}, True, "missing on Ray: model-a"),
        ({"seen_apps": {"gateway": "RUNNING", "model-a": "DELETING"}}, True, "missing on Ray: model-a"),
        (
            {"seen_apps": {"gateway": "RUNNING", "model-a": "RUNNING", "model-old": "RUNNING"}},
            True,
            "not wanted any more: model-old",
        ),
        ({"seen_apps": {"gateway": "RUNNING", "model-a": "DEPLOYING"}}, False, "still deploying"),
        (
            {"seen_apps": {"gateway": "RUNNING"}, "last_put": LastPut("d1", NOW - 10)},
            False,
            "sent recently",
        ),
        ({"wanted_digest": "bad", "rejected_digest": "bad"}, False, "rejected"),
    ],
)
def test_decides_and_says_why(changes: dict, put: bool, words: str) -> None:
    assert decided(**changes)[0] is put
    assert words in decided(**changes)[1]


def test_an_unchanged_document_is_never_repeated_while_an_app_is_building() -> None:
    for age in (1.0, 30.0, 90.0, 3600.0):
        put, _ = decided(
            seen_apps={"gateway": "RUNNING", "model-a": "DEPLOYING"}, last_put=LastPut("d1", NOW - age)
        )
        assert not put


def test_a_rejected_document_is_tried_again_once_it_changed() -> None:
    assert decided(wanted_digest="d3", rejected_digest="d2")[0]


def test_apps_of_others_are_found_also_another_consoles_and_imperative_ones_are_left_alone() -> None:
    apps = [
        SeenApp("gateway", "RUNNING", source="declarative", installation="ours"),
        SeenApp("model-a", "RUNNING", source="declarative", installation="ours"),
        SeenApp("model-b", "RUNNING", source="declarative", installation="another console"),
        SeenApp("shop", "RUNNING", source="declarative"),
        SeenApp("notebook", "RUNNING", source="imperative"),
    ]
    assert foreign_apps(apps, installation="ours") == ["model-b", "shop"]
