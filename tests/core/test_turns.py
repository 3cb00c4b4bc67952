"""Who gets what is free: nobody waits for ever, and who holds much does not keep others from having anything."""

from __future__ import annotations

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from stoker.core.turns import PATIENCE, Holding, Turns, fits, make_room

CAPACITY = {"gpu": 4, "memory": 100}


class Machine:
    """Grants as an engine does: what fits, unless it is another's turn."""

    def __init__(self) -> None:
        self.turns = Turns()
        self.leases: list[tuple[float, str, dict[str, int]]] = []  # (end, owner, amounts)
        self.now = 0.0

    def free(self) -> dict[str, int]:
        return {name: total - sum(a.get(name, 0) for *_, a in self.leases) for name, total in CAPACITY.items()}

    def share(self, owner: str) -> float:
        held = [a for _, o, a in self.leases if o == owner]
        return max(sum(a.get(name, 0) for a in held) / total for name, total in CAPACITY.items())

    def ask(self, owner: str, needs: dict[str, int], seconds: float) -> bool:
        free = self.free()
        if not fits(needs, free) or self.turns.first(self.now, owner, needs, free, self.share) is not None:
            self.turns.wait(self.now, owner, [needs])
            return False
        self.turns.leave(owner)
        self.leases.append((self.now + seconds, owner, needs))
        assert all(amount >= 0 for amount in self.free().values())
        return True

    def pass_time(self, seconds: float) -> None:
        self.now += seconds
        self.leases = [lease for lease in self.leases if lease[0] > self.now]


@settings(max_examples=60)
@given(st.integers(0, 10**6), st.integers(1, 6), st.integers(2, 4), st.booleans())
def test_small_requests_do_not_starve_a_big_one(seed: int, crowd: int, big: int, newcomers: bool) -> None:
    """Others ask all the time, and there are always more of them; the big one comes within its patience and the running time of what is there."""
    chance, machine, longest = random.Random(seed), Machine(), 20.0
    number = 0
    while machine.now < PATIENCE + longest + 10:
        order = [f"small-{i}" for i in range(crowd)]
        if newcomers:
            number += 1
            order.append(f"new-{number}")
        chance.shuffle(order)
        for owner in order:
            for _ in range(chance.randint(1, 4)):
                machine.ask(owner, {"gpu": 1}, chance.uniform(1, longest))
        if machine.now > 1 and machine.ask("big", {"gpu": big}, 1.0):
            return
        machine.pass_time(1.0)
    raise AssertionError("the big request never got its turn")


@settings(max_examples=60)
@given(st.integers(0, 10**6), st.lists(st.integers(1, 4), min_size=2, max_size=5))
def test_everybody_gets_something(seed: int, sizes: list[int]) -> None:
    """Functions of all sizes that want more than there is, for ever."""
    chance, machine = random.Random(seed), Machine()
    got = dict.fromkeys(range(len(sizes)), 0)
    while machine.now < len(sizes) * (PATIENCE + 25):
        for i in chance.sample(range(len(sizes)), len(sizes)):
            while machine.ask(str(i), {"gpu": sizes[i]}, chance.uniform(1, 20)):
                got[i] += 1
        machine.pass_time(1.0)
    assert all(got.values()), got


def test_who_holds_nothing_comes_before_who_holds_much() -> None:
    machine = Machine()
    while machine.ask("greedy", {"gpu": 1}, 10 + len(machine.leases)):
        pass
    machine.pass_time(1)
    assert not machine.ask("modest", {"gpu": 1}, 10)
    machine.pass_time(9.5)  # one is free
    assert not machine.ask("greedy", {"gpu": 1}, 10), "it asks first, and it waited first"
    assert machine.ask("modest", {"gpu": 1}, 10)


def test_who_does_not_ask_any_more_is_forgotten() -> None:
    machine = Machine()
    machine.ask("a", {"gpu": 4}, 40)
    machine.ask("b", {"gpu": 4}, 1)
    machine.pass_time(41)
    assert machine.ask("c", {"gpu": 1}, 10)


def test_nothing_is_kept_for_who_waits_for_those_that_wait() -> None:
    """A small request whose caller holds what the big one lacks goes first: that would not come back before."""
    machine = Machine()
    machine.ask("caller", {"gpu": 1}, 1000)
    for _ in range(4):
        assert not machine.ask("big", {"gpu": 4}, 1)
        machine.pass_time(PATIENCE / 3)
    free, held = machine.free(), [{"gpu": 1}]
    assert machine.turns.first(machine.now, "called", {"gpu": 1}, free, machine.share) == "big"
    assert machine.turns.first(machine.now, "called", {"gpu": 1}, free, machine.share, [{"memory": 50}]) == "big"
    assert machine.turns.first(machine.now, "called", {"gpu": 1}, free, machine.share, held) is None
    waiting = machine.turns
    waiting.wait(machine.now, "big", [{"gpu": 3}])
    assert waiting.first(machine.now, "called", {"gpu": 1}, free, machine.share, held) == "big", "it can have it now"


def holding(name: str, gpus: int, *, busy: bool = False, since: float = 0.0, share: float = 0.5) -> Holding:
    return Holding(name, {"gpu": gpus, "memory": 10}, busy, since, share)


def test_idle_containers_make_room_the_longest_idle_first() -> None:
    held = [holding("young", 1, since=9), holding("old", 1, since=1), holding("busy", 4, busy=True)]
    assert make_room({"gpu": 1}, held, 0.0, take_busy=False) == ["old"]
    assert make_room({"gpu": 2}, held, 0.0, take_busy=False) == ["old", "young"]
    assert make_room({"gpu": 3}, held, 0.0, take_busy=False) == [], "nothing ends in vain"


def test_busy_ones_make_room_only_for_who_holds_less() -> None:
    held = [holding("a", 1, busy=True, share=0.75), holding("b", 1, busy=True, share=0.25)]
    assert make_room({"gpu": 1}, held, 0.25, take_busy=True) == ["a"]
    assert make_room({"gpu": 1}, held, 0.75, take_busy=True) == []
    assert make_room({"gpu": 1}, [*held, holding("idle", 1)], 0.0, take_busy=True) == ["idle"]


@given(
    st.lists(st.tuples(st.integers(0, 4), st.booleans(), st.floats(0, 9), st.floats(0, 1)), max_size=6),
    st.integers(0, 8),
    st.booleans(),
)
def test_no_more_ends_than_must(held: list[tuple[int, bool, float, float]], missing: int, take_busy: bool) -> None:
    holdings = [holding(str(i), g, busy=b, since=s, share=h) for i, (g, b, s, h) in enumerate(held)]
    chosen = make_room({"gpu": missing}, holdings, 0.5, take_busy=take_busy)
    freed = [h for h in holdings if h.container_id in chosen]
    assert all(not h.busy or (take_busy and h.share > 0.5) for h in freed)
    total = sum(h.amounts["gpu"] for h in freed)
    assert not chosen or total >= missing
    assert all(total - h.amounts["gpu"] < missing for h in freed), "each of them is needed"
