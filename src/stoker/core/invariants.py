"""What is always true of a pool between two events, and what of it is not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import NamedTuple

from stoker.core.books import Books, PooledContainer

_MOST = 10  # violations that are told; one fault may show in many inputs


class Violation(NamedTuple):
    what: str
    ids: tuple[str, ...] = ()  # the inputs and containers it is about

    def __str__(self) -> str:
        return f"{', '.join(self.ids)} {self.what}" if self.ids else self.what


class BrokenInvariant(Exception):
    """The books of a pool do not agree: a fault of the server's own. `violations` and `story` are sentences."""

    def __init__(self, violations: list[str], story: list[str]) -> None:
        super().__init__("\n".join(["A pool broke its invariants:", *violations, "What had happened:", *story]))
        self.violations = violations
        self.story = story


def violations(books: Books) -> list[Violation]:
    """Some of the invariants that do not hold, at most ten; empty when all do. Work: in proportion to the pool's inputs and containers."""
    found = (_of_places(books), _of_inputs(books), _of_containers(books), _of_progress(books))
    return list(islice((violation for part in found for violation in part), _MOST))


def _of_places(books: Books) -> Iterator[Violation]:
    """Each input is in exactly one place. One that was cancelled is in none but the container that still runs it."""
    planned = Counter(input_id for _, input_id in books.delayed)
    seen = Counter(books.waiting.keys())
    for input_id, times in planned.items():
        if input_id in books.inputs:  # else it has ended before its time
            seen[input_id] += times
    for container in books.containers.values():
        seen.update(container.running.keys())
        for input_id in container.running:
            if books.where.get(input_id) != container.id:
                yield Violation("is run where the index does not say so", (input_id, container.id))
    for input_id, times in seen.items():
        if times > 1:
            yield Violation(f"is in {times} places", (input_id,))
        if input_id not in books.inputs and input_id not in books.where:
            yield Violation("waits and has ended", (input_id,))
    for input_id in books.inputs.keys() - seen.keys():
        yield Violation("is nowhere", (input_id,))
    running = sum(len(container.running) for container in books.containers.values())
    if running != len(books.where):
        yield Violation(f"{running} inputs run, and the index has {len(books.where)}")
    ended = len(books.where.keys() - books.inputs.keys())
    backlog = len(books.waiting) + sum(1 for input_id in planned if input_id in books.inputs)
    if books.backlog != backlog or len(books.inputs) != backlog + running - ended:
        yield Violation(
            f"{len(books.inputs)} inputs are not the sum: {backlog} of a backlog of {books.backlog}, {running} that run, less {ended}"
        )
    if any(books.delayed[0] > each for each in books.delayed):
        yield Violation("is planned before what is taken for the first", (min(books.delayed)[1],))


def _of_inputs(books: Books) -> Iterator[Violation]:
    for input_id, item in books.inputs.items():
        if item.id != input_id:
            yield Violation("are one input", (input_id, item.id))
        if item.failures + item.lost > item.attempts or min(item.failures, item.lost, item.returned) < 0:
            yield Violation(
                f"has {item.failures} failures and {item.lost} losses in {item.attempts} attempts", (input_id,)
            )


def _of_containers(books: Books) -> Iterator[Violation]:
    settings = books.settings
    slots = settings.max_concurrent_inputs * max(1, settings.batch_max_size)
    most = settings.max_inputs_per_container
    for container in books.containers.values():
        here = (container.id,)
        if not container.excused and len(container.running) > slots:
            yield Violation(f"runs {len(container.running)} inputs and may run {slots}", here)
        if not container.excused and most and container.served > most:
            yield Violation(f"got {container.served} inputs and may get {most}", here)
        if container.served < len(container.running):
            yield Violation(f"runs {len(container.running)} inputs and got {container.served}", here)
        if container.polling and container.state != "ready":
            yield Violation(f"asks for inputs and is {container.state.value}", here)
        if container.state == "starting" and (container.running or container.served):
            yield Violation("runs inputs before it is up", here)
        if any(times <= 0 for times in container.waits.values()):
            yield Violation("waits for less than nothing", here)


def _of_progress(books: Books) -> Iterator[Violation]:
    """Who could run does: no input waits beside an open poll of a container with room, but for the company in a batch."""
    asking = [c for c in books.containers.values() if c.polling and c.state == "ready" and c.room(books.settings) > 0]
    if asking and len(books.waiting) >= _longest_wait(books, asking):
        yield Violation(f"ask in vain, though {len(books.waiting)} inputs wait", tuple(c.id for c in asking[:_MOST]))


def _longest_wait(books: Books, asking: Iterable[PooledContainer]) -> int:
    """How many inputs are enough for any of the containers."""
    if books.settings.batch_max_size <= 1:
        return 1
    return max(min(c.polling, c.room(books.settings), books.settings.batch_max_size) for c in asking)
