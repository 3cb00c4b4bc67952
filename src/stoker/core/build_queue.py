"""Which image builds run, wait, and end. Pure: what happens and the time in, actions out.

There are so many slots. Builds start in the order in which they were asked for. A build that nobody waits for any more is let go on while nobody
needs its slot, and is ended for one that somebody waits for; before it has begun it is ended at once. Builds that containers ask for leave a
slot to those of clients.
"""

from __future__ import annotations

from dataclasses import dataclass

GRACE = 30.0  # seconds without anybody after which nobody waits for a build: clients come back after a pause in their connection
ABANDONED = "Nobody waited for this build any more. Run or deploy the app again: it then begins anew."
MADE_ROOM = "Nobody waited for this build any more, and another one needed its slot. Run or deploy the app again: it then begins anew."


@dataclass(frozen=True)
class Start:
    id: str


@dataclass(frozen=True)
class End:
    """`reason` is a sentence for whoever asks for the image later."""

    id: str
    reason: str


Action = Start | End


@dataclass
class Build:
    """`watched_at`: when somebody last waited for it."""

    id: str
    confined: bool  # asked for by a container
    asked_at: float
    watched_at: float
    watchers: int = 0
    running: bool = False
    ending: bool = False


class BuildQueue:
    def __init__(self, slots: int) -> None:
        self.slots = slots
        self.builds: dict[str, Build] = {}  # in the order of asking

    def ask(self, now: float, id: str, *, confined: bool) -> list[Action]:
        self.builds[id] = Build(id, confined, now, now)
        return self.check(now)

    def watch(self, now: float, id: str) -> None:
        """Somebody waits for a build, or asks for it again."""
        if (build := self.builds.get(id)) is not None:
            build.watchers, build.watched_at = build.watchers + 1, now

    def unwatch(self, now: float, id: str) -> None:
        if (build := self.builds.get(id)) is not None:
            build.watchers, build.watched_at = build.watchers - 1, now

    def ended(self, now: float, id: str) -> list[Action]:
        self.builds.pop(id, None)
        return self.check(now)

    def check(self, now: float) -> list[Action]:
        """What is due. Each action is given out once."""
        actions: list[Action] = []
        for build in self.builds.values():
            if not build.running and not build.ending and self._is_abandoned(build, now):
                build.ending = True
                actions.append(End(build.id, ABANDONED))
        waiting = [build for build in self.builds.values() if not build.running and not build.ending]
        for build in waiting:
            if self._has_room(build):
                build.running = True
                actions.append(Start(build.id))
        return actions + self._room_for([build for build in waiting if not build.running], now)

    def next_check(self, now: float) -> float | None:
        """Seconds until time alone makes something due; None when it does not."""
        unwatched = [b.watched_at for b in self.builds.values() if not b.watchers and not b.ending]
        later = [at + GRACE - now for at in unwatched if at + GRACE > now]
        return min(later, default=None)

    def ahead_of(self, id: str) -> int:
        """How many builds that wait come before this one."""
        waiting = [build.id for build in self.builds.values() if not build.running and not build.ending]
        return waiting.index(id) if id in waiting else 0

    def _room_for(self, waiting: list[Build], now: float) -> list[Action]:
        actions: list[Action] = []
        ending = sum(build.running and build.ending for build in self.builds.values())
        for build in waiting[ending:]:
            # One of its own kind, when that is what keeps it from its slot.
            others = [
                other
                for other in self.builds.values()
                if other.running and not other.ending and self._is_abandoned(other, now)
                if not build.confined or other.confined or self._running() < self.slots
            ]
            if others:
                others[0].ending = True
                actions.append(End(others[0].id, MADE_ROOM))
        return actions

    def _has_room(self, build: Build) -> bool:
        if build.confined and self._running(confined_only=True) >= max(1, self.slots - 1):
            return False
        return self._running() < self.slots

    def _running(self, *, confined_only: bool = False) -> int:
        return sum(build.running and (build.confined or not confined_only) for build in self.builds.values())

    def _is_abandoned(self, build: Build, now: float) -> bool:
        return not build.watchers and now - build.watched_at >= GRACE
