"""Whose turn it is when resources are short. Pure: what is free and the time in, a verdict out.

Amounts are counted by resource, in whole units ("cpu_milli", "memory_mib", "gpu:H100"). A function that asks in vain waits. Of those that wait,
the one that holds least comes first (by its dominant share: the largest part it holds of any one resource); whoever has waited longer than the
patience comes before all others, in the order in which they came, and what is freed is kept for it until it fits. So small requests cannot
starve a big one, and a function with many containers cannot starve one that has none. Nothing is kept from a function whose result is waited
for by what the big one needs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

PATIENCE = 30.0  # seconds
_STALE = 15.0  # seconds after which whoever does not ask again is taken to want nothing any more

Amounts = Mapping[str, int]


@dataclass
class _Waiter:
    owner: str
    alternatives: Sequence[Amounts]  # any of them will do
    since: float
    asked_at: float


class Turns:
    def __init__(self, patience: float = PATIENCE) -> None:
        self._patience = patience
        self._waiting: dict[str, _Waiter] = {}

    def wait(self, now: float, owner: str, alternatives: Sequence[Amounts]) -> None:
        """Asked in vain. Whoever waits must ask again within 15 seconds."""
        known = self._known(now, owner)
        self._waiting[owner] = _Waiter(owner, alternatives, known.since if known else now, now)

    def leave(self, owner: str) -> bool:
        """Got something, or wants nothing any more; True when it was waiting."""
        return self._waiting.pop(owner, None) is not None

    def waited(self, now: float, owner: str) -> float:
        """Seconds."""
        known = self._known(now, owner)
        return now - known.since if known else 0.0

    def first(
        self,
        now: float,
        owner: str,
        needs: Amounts,
        free: Amounts,
        share: Callable[[str], float],
        held: Sequence[Amounts] = (),
    ) -> str | None:
        """Who must get something before `owner` may take `needs`, None when nobody. share: the dominant share somebody holds. held: by those
        who wait for the owner. Nothing is kept from it for whoever lacks what they hold: they would never give it back."""
        left = {name: amount - needs.get(name, 0) for name, amount in free.items()}
        mine = self._key(now, self._known(now, owner) or _Waiter(owner, (), now, now), share)
        for waiter in list(self._waiting.values()):
            if waiter.owner == owner or now - waiter.asked_at > _STALE or self._key(now, waiter, share) >= mine:
                continue
            if _fits_any(waiter.alternatives, free):
                if not _fits_any(waiter.alternatives, left):
                    return waiter.owner
            elif now - waiter.since >= self._patience and _compete(needs, waiter.alternatives, free):
                if any(_compete(amounts, waiter.alternatives, free) for amounts in held):
                    continue
                return waiter.owner
        return None

    def _known(self, now: float, owner: str) -> _Waiter | None:
        known = self._waiting.get(owner)
        return known if known is not None and now - known.asked_at <= _STALE else None

    def _key(self, now: float, waiter: _Waiter, share: Callable[[str], float]) -> tuple[int, float, float, str]:
        if now - waiter.since >= self._patience:
            return (0, waiter.since, 0.0, waiter.owner)
        return (1, share(waiter.owner), waiter.since, waiter.owner)


@dataclass(frozen=True)
class Holding:
    """A container that could make room. share: what its owner holds, as in `Turns`."""

    container_id: str
    amounts: Amounts
    busy: bool
    idle_since: float
    share: float


def make_room(missing: Amounts, holdings: Iterable[Holding], share: float, *, take_busy: bool) -> list[str]:
    """Containers that must end so that what is missing becomes free; none when they would not suffice.

    Idle ones first, the longest idle before others. Busy ones only when `take_busy`, and only of owners that hold more than `share`, what the
    one that waits holds; the greatest share first."""
    order = sorted(
        (h for h in holdings if not h.busy or (take_busy and h.share > share)),
        key=lambda h: (h.busy, -h.share if h.busy else h.idle_since, h.idle_since),
    )
    lacking = {name: amount for name, amount in missing.items() if amount > 0}
    chosen: list[Holding] = []
    for holding in order:
        if not any(amount > 0 for amount in lacking.values()):
            break
        if any(lacking[name] > 0 and holding.amounts.get(name, 0) > 0 for name in lacking):
            chosen.append(holding)
            lacking = {name: amount - holding.amounts.get(name, 0) for name, amount in lacking.items()}
    if any(amount > 0 for amount in lacking.values()):
        return []
    # Those chosen early may have become superfluous by bigger ones that came later.
    for holding in list(chosen):
        if all(amount + holding.amounts.get(name, 0) <= 0 for name, amount in lacking.items()):
            chosen.remove(holding)
            lacking = {name: amount + holding.amounts.get(name, 0) for name, amount in lacking.items()}
    return [holding.container_id for holding in chosen]


def fits(needs: Amounts, free: Amounts) -> bool:
    return all(amount <= free.get(name, 0) for name, amount in needs.items())


def lacking(needs: Amounts, free: Amounts) -> dict[str, int]:
    """What is not there of `needs`."""
    return {name: amount - free.get(name, 0) for name, amount in needs.items() if amount > free.get(name, 0)}


def _fits_any(alternatives: Iterable[Amounts], free: Amounts) -> bool:
    return any(fits(needs, free) for needs in alternatives)


def _compete(needs: Amounts, alternatives: Iterable[Amounts], free: Amounts) -> bool:
    """Whether taking `needs` would take some of what another lacks."""
    return any(needs.get(name, 0) > 0 for wanted in alternatives for name in lacking(wanted, free))
