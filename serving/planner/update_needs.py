"""What is held while an engine is updated, and what callers notice. Pure.

Ray Serve replaces replicas in batches and without surge: it stops a batch and asks for its successors at
once. The stopped ones keep their accelerators until their streams have ended, DRAIN_S at most. Where nothing
else is free, the successors wait for exactly these; where there is room, both are held for that while.
"""

from __future__ import annotations

from dataclasses import dataclass

from serving.render import DRAIN_S

BATCH_SHARE = 0.2
"""Ray Serve's rolling update: this share of the replicas at a time, at least one."""


@dataclass(frozen=True)
class Fleet:
    """Replicas of one engine definition; `per_replica` accelerators each (CPU cores where it has none)."""

    accelerator_type: str | None
    per_replica: int
    replicas: int

    @property
    def held(self) -> int:
        """All of them together."""
        return self.per_replica * self.replicas


@dataclass(frozen=True)
class UpdateNeeds:
    """Accelerators (or cores) of the new engine's type during an update. `least` must be there for it to
    come to an end, `most` is held for a while where there is room. `old_type`: what else stays held until the
    last old replica is gone, as (type, count). `words` says it, and what callers notice."""

    least: int
    most: int
    words: str
    old_type: tuple[str | None, int] | None = None


def update_needs(old: Fleet | None, new: Fleet) -> UpdateNeeds:
    """What the change from `old` (None or no replicas: nothing runs) to `new` holds while it is under way."""
    if old is None or not old.replicas:
        return UpdateNeeds(new.held, new.held, "Nothing runs yet: only what it needs itself.")
    batch = max(1, int(BATCH_SHARE * new.replicas))
    if old.accelerator_type == new.accelerator_type:
        least = max(old.held, new.held)
        most = max(old.held + batch * new.per_replica, batch * old.per_replica + new.held)
        more = most - least
        room = (
            f"{_amount(new, least)}, and {_amount(new, more)} more for up to {DRAIN_S} s where they are"
            " free: old replicas keep theirs until their streams have ended."
        )
        return UpdateNeeds(least, most, f"{room} {_noticed(new, batch)}")
    room = (
        f"{_amount(new, new.held)} beside {_amount(old, old.held)} of the old replicas, which stay held"
        f" until the last of them has ended its streams, up to {DRAIN_S} s each."
    )
    return UpdateNeeds(new.held, new.held, f"{room} {_noticed(new, batch)}", (old.accelerator_type, old.held))


def _noticed(new: Fleet, batch: int) -> str:
    if new.replicas <= 1:
        return "Callers wait from the stop until the successor is ready, and get 503 where that is too long."
    return (
        f"{batch} of {new.replicas} replicas at a time: callers notice the smaller capacity; streams that"
        f" run longer than {DRAIN_S} s are cut off."
    )


def _amount(fleet: Fleet, count: int) -> str:
    if fleet.accelerator_type is None:
        return f"{count} CPU core{'' if count == 1 else 's'}"
    return f"{count} × {fleet.accelerator_type}"
