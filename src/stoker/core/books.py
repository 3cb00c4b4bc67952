"""What a pool knows: the inputs and containers of one function."""

from __future__ import annotations

import enum
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from stoker.core.affinity import factor_of
from stoker.core.retries import RetryPolicy


@dataclass(frozen=True)
class PoolSettings:
    """How a function wants its inputs run."""

    max_concurrent_inputs: int = 1
    batch_max_size: int = 1
    batch_linger: float = 0.0  # seconds
    timeout: float = 300.0  # seconds of one attempt
    retry: RetryPolicy = field(default_factory=RetryPolicy)
    max_inputs_per_container: int = 0  # 0: no limit; 1: single use
    spread: bool = False  # give an input to the emptiest container instead of the fullest


class ContainerState(str, enum.Enum):
    STARTING = "starting"  # launched, has not asked for inputs yet
    READY = "ready"
    DRAINING = "draining"  # finishes what it runs, gets nothing new


@dataclass
class PooledContainer:
    id: str
    definition_id: str
    started_at: float
    state: ContainerState = ContainerState.STARTING
    ready_at: float = 0.0
    running: dict[str, float] = field(default_factory=dict)  # input id -> start of the attempt
    polling: int = 0  # how many inputs the open poll may take; 0: no open poll
    idle_since: float = 0.0
    heard_at: float = 0.0  # when it last asked for inputs, got some, or reported one
    served: int = 0  # inputs given so far
    waits: Counter[str] = field(default_factory=Counter)  # for results of other calls, by which of its inputs waits
    outdated: bool = False  # containers of a newer definition take its place
    excused: bool = False  # it had more than is allowed when the settings changed
    factor: int = field(init=False)  # see `affinity.py`

    def __post_init__(self) -> None:
        self.factor = factor_of(self.id)

    def room(self, settings: PoolSettings) -> int:
        """How many more inputs may run in it."""
        slots = settings.max_concurrent_inputs * max(1, settings.batch_max_size)
        room = slots - len(self.running)
        if settings.max_inputs_per_container:
            room = min(room, settings.max_inputs_per_container - self.served)
        return room


@dataclass(slots=True)
class PooledInput:
    id: str
    call_id: str
    attempts: int = 0  # attempts begun and ended without success, as the container is told (retry_count)
    failures: int = 0  # of these, failed by the user's code or by timeout
    lost: int = 0  # of these, lost with their container
    returned: int = 0  # deliveries that did not arrive
    pinned: bool = False  # something of the attempt was seen outside: there must not be another
    hurried: bool = False  # an input of the same function runs, and cannot end before this one has
    waiting_since: float = 0.0


class Books(NamedTuple):
    """All that a pool knows, to be looked at."""

    settings: PoolSettings
    inputs: Mapping[str, PooledInput]
    containers: Mapping[str, PooledContainer]
    waiting: Mapping[str, None]  # the ids, in the order in which they are to run
    delayed: Sequence[tuple[float, str]]  # inputs whose time has not come, the first of all at the front
    where: Mapping[str, str]  # running input -> container
    backlog: int  # inputs that no container runs yet, as the pool counts them
