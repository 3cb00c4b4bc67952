"""What a rule is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from stoker.advice.app import App
from stoker.advice.finding import Finding

Check = Callable[[App], Iterator[Finding]]


@dataclass(frozen=True)
class Rule:
    """`title` is the mistake in a few words, as the docs head their section with it."""

    id: str
    name: str
    title: str
    check: Check
