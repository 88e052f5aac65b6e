"""Which deployments a name leads to, in which order, and what the list of models shows of it."""

from collections import Counter
from typing import Any

import pytest

from serving.cluster.listing import card, cards
from serving.cluster.naming import renaming
from serving.cluster.routes import attempts, route_of
from serving.cluster.table import Table, read_table
from serving.gateway_paths import CHAT, COMPLETIONS, EMBEDDINGS, TOKENIZE, not_supported


def anybody(name: str) -> bool:
    return True


def model(**more: Any) -> dict[str, Any]:
    return {"app": "model-x", "revision": 1, "state": "serve", "hold_s": 5, "created": 7, **more}


def table(**aliases: Any) -> Table:
    models = {"a": model(), "b": model(), "c": model(), "off": model(state="stopped")}
    return read_table({"models": {**models, "tuned": model(adapters=["fr", "de"])}, "aliases": aliases})


def names(found: Table, asked: str) -> list[str]:
    route = route_of(found, asked, may_use=anybody)
    return [] if route is None else [entry.name for entry in route.candidates]


def test_a_deployment_is_itself_and_nothing_else_is_known() -> None:
    assert names(table(), "a") == ["a"]
    assert route_of(table(), "nobody", may_use=anybody) is None
    assert route_of(table(), "a:fr", may_use=anybody) is None
    assert route_of(table(), "a:", may_use=anybody) is None


def test_an_adapter_is_asked_of_its_deployment_under_its_own_name() -> None:
    route = route_of(table(), "tuned:fr", may_use=anybody)
    assert route is not None
    assert (route.adapter, route.alias, route.candidates[0].name) == ("fr", "", "tuned")
    assert next(attempts(route)).served_as == ()


def test_targets_come_first_by_weight_then_the_fallback_in_order() -> None:
    alias = {
        "targets": [{"deployment": "a", "weight": 3}, {"deployment": "b", "weight": 1}],
        "fallback": ["off", "c"],
    }
    found = table(best=alias)
    first: Counter[str] = Counter()
    for _ in range(4000):
        order = names(found, "best")
        assert sorted(order[:2]) == ["a", "b"] and order[2:] == ["off", "c"]
        first[order[0]] += 1
    assert first["a"] / 4000 == pytest.approx(0.75, abs=0.04)


def test_an_attempt_knows_the_engines_name_and_whether_another_follows() -> None:
    found = table(best={"targets": [{"deployment": "a", "weight": 1}], "fallback": ["c"]})
    route = route_of(found, "best", may_use=anybody)
    assert route is not None
    first, second = attempts(route)
    assert (first.served_as, second.served_as) == (("a",), ("c",))
    assert [first.passes_by(status) for status in (200, 400, 429, 500, 503)] == [
        False,
        False,
        True,
        True,
        True,
    ]
    assert not any(second.passes_by(status) for status in (429, 500))


def test_what_cannot_be_read_or_leads_nowhere_is_left_out() -> None:
    found = table(
        none={"targets": []},
        heavy={"targets": [{"deployment": "a", "weight": 0}]},
        odd=5,
        lost={"targets": [{"deployment": "gone", "weight": 1}]},
        half={"targets": [{"deployment": "gone", "weight": 1}], "fallback": ["a"]},
    )
    assert found.unreadable == 3
    assert route_of(found, "lost", may_use=anybody) is None
    assert names(found, "half") == ["a"]


def test_a_deployment_goes_before_an_alias_of_its_name() -> None:
    assert names(table(a={"targets": [{"deployment": "b", "weight": 1}]}), "a") == ["a"]


def test_the_list_shows_deployments_adapters_and_aliases_that_serve() -> None:
    found = table(
        best={"targets": [{"deployment": "off", "weight": 1}], "fallback": ["a"], "created": 9},
        asleep={"targets": [{"deployment": "off", "weight": 1}]},
    )
    listed = {one["id"]: one for one in cards(found, may_use=anybody)}
    assert sorted(listed) == ["a", "b", "best", "c", "tuned", "tuned:de", "tuned:fr"]
    assert listed["tuned:fr"]["parent"] == "tuned" and listed["best"]["created"] == 9
    for asked in ("a", "best", "tuned:de", "off"):
        route = route_of(found, asked, may_use=anybody)
        assert route is not None
        assert card(found, asked, route)["id"] == asked


class Request:
    def __init__(self, model: str) -> None:
        self.model = model


def test_an_answer_carries_the_name_that_was_asked_for() -> None:
    request = Request("best")
    rename = renaming(request, served="a")
    assert request.model == "a"
    answer = b'{"id":"x","model":"a","text":"\\"model\\":\\"a\\"","model":"a"}'
    assert rename(answer) == b'{"id":"x","model":"best","text":"\\"model\\":\\"a\\"","model":"a"}'


@pytest.mark.parametrize("served", [None, "a"])
def test_without_another_name_the_very_bytes_pass(served: str | None) -> None:
    request, answer = Request("a"), b'{"model":"a"}'
    assert renaming(request, served=served)(answer) is answer and request.model == "a"


@pytest.mark.parametrize(
    ("answered", "words"),
    [
        ({CHAT, COMPLETIONS, TOKENIZE}, "generates text"),
        ({EMBEDDINGS, TOKENIZE}, "makes embeddings"),
        ({TOKENIZE}, "neither"),
    ],
)
def test_a_refusal_says_what_the_model_does(answered: set[str], words: str) -> None:
    message = not_supported("/v1/score", answered=answered)
    assert words in message and all(path in message for path in answered)


def test_what_a_key_may_not_use_is_not_there_for_it() -> None:
    found = table(
        best={"targets": [{"deployment": "a", "weight": 1}], "fallback": ["b"]},
        other={"targets": [{"deployment": "c", "weight": 1}]},
    )

    def only_b(name: str) -> bool:
        return name == "b"

    route = route_of(found, "best", may_use=only_b)
    assert route is not None and [entry.name for entry in route.candidates] == ["b"]
    for asked in ("a", "other", "tuned:fr"):
        assert route_of(found, asked, may_use=only_b) is None
    assert {one["id"] for one in cards(found, may_use=only_b)} == {"b", "best"}
