"""Which container an affinity key belongs to, by rendezvous hashing."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Protocol, TypeVar

_64_BITS = (1 << 64) - 1


class Place(Protocol):
    factor: int  # see `factor_of`


PlaceT = TypeVar("PlaceT", bound=Place)


def factor_of(place_id: str) -> int:
    """What keys are multiplied with for a place: made from its id, odd."""
    return _number(place_id.encode()) | 1


def drawn_to(affinity: bytes, places: Iterable[PlaceT]) -> PlaceT:
    """Every key has an order of its own of all places, and the first one here is it. So a container that is full or gone sends its keys to all
    others evenly, and a new one takes its share from each."""
    key = _number(affinity)
    return max(places, key=lambda place: key * place.factor & _64_BITS)  # a hash for each place, of one multiplication


def _number(text: bytes) -> int:
    return int.from_bytes(hashlib.sha256(text).digest()[:8], "big")
