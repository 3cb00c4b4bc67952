"""Values in portions: a statement has a limited number of parameters, a long transaction keeps others waiting, and so does a long answer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeVar

T = TypeVar("T")


def batches(values: Sequence[T], size: int = 500) -> Iterator[Sequence[T]]:
    """All of them in order, up to `size` at a time."""
    return (values[start : start + size] for start in range(0, len(values), size))
