"""Memory that callers share: each has an account, and who wants more than there is waits for a turn."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable


class Budget:
    """Bytes. Accounts that wait are served in turn, so that one with a long queue does not hold up the others."""

    def __init__(self, limit: int, each: int, share: int) -> None:
        """limit: of all accounts together. each: of one account. share: what an account gets also when the limit is used up, so that those who
        hold much cannot lock out those who hold little."""
        self.limit = limit
        self.each = each
        self.share = share
        self.held = 0
        self._waiting: OrderedDict[Account, None] = OrderedDict()  # accounts, the next one first
        self._serving = False

    def account(self) -> Account:
        return Account(self)

    def enqueue(self, account: Account) -> None:
        self._waiting.setdefault(account)

    def serve(self) -> None:
        """Gives out what has become free: one turn to each account that waits, and again until nothing fits."""
        if self._serving or not self._waiting:
            return
        self._serving = True
        try:
            idle = 0  # accounts in a row that could be given nothing
            while self._waiting and idle < len(self._waiting):
                account = next(iter(self._waiting))
                idle = 0 if account.grant() else idle + 1
                if account.waits:
                    self._waiting.move_to_end(account)
                else:
                    del self._waiting[account]
        finally:
            self._serving = False


class Turn:
    """A place in the queue of an account."""

    __slots__ = ("granted", "size", "then")

    def __init__(self, size: int, then: Callable[[], None]) -> None:
        self.size = size
        self.then = then
        self.granted = False


class Account:
    """What one caller holds of a budget."""

    def __init__(self, budget: Budget) -> None:
        self.budget = budget
        self.held = 0
        self._turns: OrderedDict[Turn, None] = OrderedDict()

    @property
    def waits(self) -> bool:
        return bool(self._turns)

    @property
    def is_crowded(self) -> bool:
        """Whether it holds so much that nothing should be begun for it that may need more."""
        budget = self.budget
        return self.held > budget.each // 2 or (budget.held >= budget.limit and self.held > budget.share)

    def take(self, size: int) -> bool:
        """Holds `size` more bytes; False when there is no room. Passes those who wait for more."""
        if not self._fits(size):
            return False
        self._hold(size)
        return True

    def wait(self, size: int, then: Callable[[], None]) -> Turn:
        """Calls `then` once `size` more bytes are held."""
        turn = Turn(size, then)
        self._turns[turn] = None
        self.budget.enqueue(self)
        self.budget.serve()
        return turn

    def leave(self, turn: Turn) -> None:
        """Gives up a turn, or what it has brought."""
        if turn.granted:
            self.give(turn.size)
        else:
            self._turns.pop(turn, None)
            self.budget.serve()  # the next one may want less

    def give(self, size: int) -> None:
        """Bytes that are held no longer."""
        self.held -= size
        self.budget.held -= size
        self.budget.serve()

    def grant(self) -> bool:
        """Called by the budget: serves the first who waits. Whether it could."""
        turn = next(iter(self._turns), None)
        if turn is None or not self._fits(turn.size):
            return False
        del self._turns[turn]
        self._hold(turn.size)
        turn.granted = True
        turn.then()
        return True

    def _fits(self, size: int) -> bool:
        budget, mine = self.budget, self.held + size
        # Who holds nothing may have more than its limit, or would wait for ever.
        return (mine <= budget.each or not self.held) and (budget.held + size <= budget.limit or mine <= budget.share)

    def _hold(self, size: int) -> None:
        self.held += size
        self.budget.held += size
