"""The generated table of RPCs says what the code does."""

from __future__ import annotations

from pathlib import Path

from stoker.protocol.compatibility import compatibility_table

_PAGE = Path(__file__).parents[2] / "docs" / "compatibility.md"


def test_the_page_is_current() -> None:
    assert _PAGE.read_text() == compatibility_table(), "docs/compatibility.md is stale: run `make docs`"
