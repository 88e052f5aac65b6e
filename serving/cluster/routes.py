"""From the name a caller gives to the engines that may answer: deployments, aliases, adapters. Pure.

A name is looked up as a deployment, then as an alias, then as `deployment:adapter`. An alias has targets with
weights and an ordered fallback; the first candidate is drawn by weight, and what cannot answer is followed by
the next: the other targets, again by weight, then the fallback as it is written.
"""

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from serving.cluster.table import ModelEntry, Table

ADAPTER_MARK = ":"


@dataclass(frozen=True)
class AliasEntry:
    """One alias: deployments with weights (1 or more), then those tried when none of them can answer."""

    name: str
    targets: tuple[tuple[str, int], ...]
    fallback: tuple[str, ...]
    created: int


@dataclass(frozen=True)
class Route:
    """Where one request may go, in the order of trying. `alias` and `adapter` are empty where not used."""

    candidates: tuple["ModelEntry", ...]
    alias: str = ""
    adapter: str = ""


@dataclass(frozen=True)
class Attempt:
    """One candidate's turn. `served_as` holds the engine's own name where the caller's is another."""

    entry: "ModelEntry"
    served_as: tuple[str, ...]
    is_last: bool

    def passes_by(self, status: int) -> bool:
        """Whether an answer of the engine with this HTTP status leaves the turn to the next candidate."""
        return not self.is_last and (status >= 500 or status == 429)


def attempts(route: Route) -> Iterator[Attempt]:
    """The candidates in the order of trying."""
    last = len(route.candidates) - 1
    for at, entry in enumerate(route.candidates):
        yield Attempt(entry, (entry.name,) if route.alias else (), is_last=at == last)


def route_of(table: "Table", asked: str, *, may_use: Callable[[str], bool]) -> Route | None:
    """The route of a name, or None for one that nothing stands behind which the caller `may_use`."""
    entry = table.models.get(asked)
    if entry is not None:
        return Route((entry,)) if may_use(asked) else None
    alias = table.aliases.get(asked)
    if alias is not None:
        names = [name for name in _in_order(alias) if name in table.models and may_use(name)]
        return Route(tuple(table.models[name] for name in names), alias=asked) if names else None
    name, mark, adapter = asked.partition(ADAPTER_MARK)
    entry = table.models.get(name)
    if mark and entry is not None and adapter in entry.adapters and may_use(name):
        return Route((entry,), adapter=adapter)
    return None


def read_alias(name: str, entry: Any) -> AliasEntry:
    """One alias of the configuration. Raises KeyError, TypeError or ValueError for what is none."""
    targets = tuple((str(one["deployment"]), int(one["weight"])) for one in entry["targets"])
    if not targets or any(weight < 1 for _, weight in targets):
        raise ValueError("an alias needs targets with weights")
    fallback = tuple(str(one) for one in entry.get("fallback") or ())
    return AliasEntry(name, targets, fallback, int(entry.get("created", 0)))


def _in_order(alias: AliasEntry) -> list[str]:
    """Deployments in the order of trying: drawn by weight without putting back, then the fallback."""
    if len(alias.targets) == 1:
        return [alias.targets[0][0], *alias.fallback]
    return [*_drawn(alias.targets), *alias.fallback]


def _drawn(targets: Sequence[tuple[str, int]]) -> list[str]:
    left = list(targets)
    drawn = []
    while left:
        at = random.choices(range(len(left)), weights=[weight for _, weight in left])[0]
        drawn.append(left.pop(at)[0])
    return drawn
