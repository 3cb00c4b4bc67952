"""Values that clients send as text or in parts, of which any may be nonsense."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence
from typing import Any, TypeVar

from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from stoker.errors import InvalidArgument

_MOST_ENTRIES = 10_000  # of the lists that an app is made of
_AT_ONCE = 1_000  # entries of a list that are dealt with before others have their turn

T = TypeVar("T")


def cursor(text: str) -> int:
    """A place in a list, as a client gives back what it was told; the begin for anything else."""
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 19 else 0


def seconds(timestamp: Timestamp) -> float:
    """Since the epoch. Raises InvalidArgument."""
    try:
        return timestamp.ToNanoseconds() / 1e9
    except ValueError as error:
        raise InvalidArgument(f"This is no time: {error}.") from None


def at_most(entries: Sequence[T], most: int, what: str) -> Sequence[T]:
    """The entries of a list, of which two bytes may be one. Raises InvalidArgument when there are more than anybody needs."""
    if len(entries) > most:
        raise InvalidArgument(f"{len(entries)} {what} in one request are too many: it may have {most}.")
    return entries


def check_entries(message: Message) -> None:
    """Raises InvalidArgument when the lists of a message, and of those in it, have more entries than any app is made of."""
    if _entries(message, _MOST_ENTRIES) > _MOST_ENTRIES:
        raise InvalidArgument(
            f"The lists of one {message.DESCRIPTOR.name} have {_MOST_ENTRIES} entries at most, all together."
        )


def _entries(message: Message, most: int) -> int:
    """How many, or just some number above `most`."""
    count = 0
    for field, value in message.ListFields():
        items: Iterable[Any] = ()
        if field.is_repeated:
            count += len(value)
            items = value.values() if hasattr(value, "values") else value
        elif field.message_type is not None:
            items = (value,)
        if count > most:
            break
        for item in items:
            if not isinstance(item, Message):
                break  # nor is any other of the list
            count += _entries(item, most - count)
            if count > most:
                break
    return count


async def in_turns(entries: Sequence[T]) -> AsyncIterator[T]:
    """The entries of a list that may be as long as it likes; others have their turn in between."""
    for number, entry in enumerate(entries, 1):
        yield entry
        if number % _AT_ONCE == 0:
            await asyncio.sleep(0)
