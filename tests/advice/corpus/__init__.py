"""Apps as people write them, with the rules that have something right to say about each; each app in several ways of writing.

The rules must find what is named here and nothing else. An app comes from what public apps look like; none is a copy of one.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import NamedTuple

from tests.advice.corpus import idioms, jobs, language, media, web
from tests.advice.corpus.styles import STYLES


class Written(NamedTuple):
    """`right` has the ids of the rules that must speak."""

    name: str
    style: str
    right: frozenset[str]
    text: str


def apps() -> Iterator[Written]:
    """All of them, in all styles."""
    for group in (language, media, jobs, web, idioms):
        for name, (right, text) in group.APPS.items():
            for style, rewrite in STYLES.items():
                written = rewrite(ast.parse(text)) if rewrite is not None else text
                yield Written(name, style, frozenset(right.split()), written)
