"""What deployments have cost so far, for a reader that asks every second. Reads only.

Of replicas that have ended only the sum is kept, reckoned once for each; what is loaded are those that live
and those that ended since the last reading, so that this does not grow with the number that ever lived. The
figures are those of console/costs.py to the last digit. Must keep nothing that a new process cannot reckon.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from django.db.models import Q

from console import costs
from console.models import Replica
from serving import cost
from serving.cost import Life, Price

Row = tuple[int, int, float, float | None, int]


@dataclass(frozen=True)
class SpentBook:
    """Settled sums in trillionths of a dollar, by deployment id, and the book of all other lives. Holds for
    moments from `until` (epoch seconds) on."""

    until: float
    settled: dict[int, int]
    others: costs.CostBook

    def units_by_deployment(self, *, end: float) -> dict[int, int]:
        """Trillionths of a dollar up to `end`, by deployment id. Raises ValueError for one before `until`."""
        if end < self.until:
            raise ValueError("what was spent before the settled time is not known here")
        spent = dict(self.settled)
        for pk, units in self.others.units_by_deployment(end=end).items():
            spent[pk] = spent.get(pk, 0) + units
        return spent


class SettledCosts:
    """One reader's settled sums."""

    def __init__(self) -> None:
        self._start_over()

    def book(self, *, until: float) -> SpentBook:
        """The book for moments from `until` (epoch seconds) on, which should not go back. Two queries."""
        prices = costs.prices_by_deployment()
        if self._prices_changed(prices):
            self._start_over()
        rows = self._rows()
        if any(pk <= self._newest and pk not in self._unsettled for pk, *_ in rows):
            # A replica that was settled lives again, or one was stored late: nothing kept can be trusted.
            self._start_over()
            rows = self._rows()
        lives = self._settle(rows, prices=prices, until=until)
        return SpentBook(until, dict(self._settled), costs.CostBook(lives, prices))

    def _start_over(self) -> None:
        self._settled: dict[int, int] = {}
        self._last_end: dict[int, float] = {}
        self._used: dict[int, list[Price]] = {}
        self._newest = 0
        self._unsettled: set[int] = set()

    def _rows(self) -> list[Row]:
        wanted = Q(ended_at=None) | Q(pk__gt=self._newest) | Q(pk__in=self._unsettled)
        rows = Replica.objects.filter(wanted, deployment__isnull=False)
        return list(rows.values_list("pk", "deployment_id", "started_at", "ended_at", "accelerators"))

    def _settle(
        self, rows: Sequence[Row], *, prices: dict[int, list[Price]], until: float
    ) -> dict[int, list[Life]]:
        """Add the lives that ended by `until` to the sums; the others, by deployment id."""
        others: dict[int, list[Life]] = {}
        unsettled: set[int] = set()
        for pk, owner, started_at, ended_at, accelerators in rows:
            life = Life(started_at, ended_at, accelerators)
            if ended_at is None or ended_at > until:
                unsettled.add(pk)
                others.setdefault(owner, []).append(life)
                continue
            units = cost.cost_units(life, prices=prices.get(owner, ()), end=ended_at)
            self._settled[owner] = self._settled.get(owner, 0) + units
            self._last_end[owner] = max(self._last_end.get(owner, ended_at), ended_at)
        self._unsettled = unsettled
        self._newest = max((self._newest, *(row[0] for row in rows)))
        self._used = {owner: _that_matter(prices, owner, end) for owner, end in self._last_end.items()}
        return others

    def _prices_changed(self, prices: dict[int, list[Price]]) -> bool:
        """Whether a price was written into the time that is settled."""
        return any(
            _that_matter(prices, owner, end) != self._used[owner] for owner, end in self._last_end.items()
        )


def _that_matter(prices: dict[int, list[Price]], owner: int, end: float) -> list[Price]:
    """The prices that a life up to `end` was reckoned with; the first holds before its time too."""
    own = prices.get(owner, [])
    return [price for i, price in enumerate(own) if i == 0 or price.from_at < end]
