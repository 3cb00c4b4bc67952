"""What the server's log says of a pool in which something goes wrong, with the story of it (`core/story.py`)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import structlog

from stoker.core.actions import Finish, Outcome
from stoker.core.checked_pool import CheckedPool
from stoker.core.invariants import BrokenInvariant
from stoker.core.pool import Pool
from stoker.services.functions.spec import Function

BROKEN = "a pool broke its invariants"
"""What the log says of a fault in the books. Tests look for it."""

_MOST_STORIES = 5  # of inputs that go wrong together
_MANY_RETURNS = 10  # deliveries of one input that did not arrive; it is told of each time it was so many more
_log = structlog.get_logger(__name__)


def plain_pool(function: Function) -> Pool:
    return Pool(function.active.spec.pool)


def checked_pool(function: Function) -> Pool:
    """A pool that says in the log when its books do not agree, once."""

    def tell(broken: BrokenInvariant) -> None:
        _log.error(
            BROKEN,
            function=function.id,
            violations=broken.violations,
            story=broken.story,
        )

    return CheckedPool(function.active.spec.pool, tell)


def tell_lost(pool: Pool, finishes: Iterable[Finish]) -> None:
    """Says of inputs that they ended with their container."""
    lost = [finish for finish in finishes if finish.outcome is Outcome.LOST]
    for finish in lost[:_MOST_STORIES]:
        _log.warning(
            "an input is given up", input=finish.input_id, call=finish.call_id, story=_story(pool, finish.input_id)
        )
    if len(lost) > _MOST_STORIES:
        _log.warning("more inputs are given up", number=len(lost) - _MOST_STORIES)


def tell_returned(pool: Pool, input_ids: Sequence[str]) -> None:
    """Says of inputs that were given back that this happens again and again."""
    for input_id in input_ids[:_MOST_STORIES]:
        item = pool.inputs.get(input_id)
        if item is not None and item.returned and item.returned % _MANY_RETURNS == 0:
            _log.warning(
                "an input is given back often", input=input_id, times=item.returned, story=_story(pool, input_id)
            )


def _story(pool: Pool, input_id: str) -> list[str]:
    return [str(step) for step in pool.story(input_id)]
