"""Text that came from somebody else, in our own messages."""

from __future__ import annotations

_MOST = 80  # characters


def shown(text: str) -> str:
    """In quotes, with what cannot be printed escaped, and cut: what a message costs must not depend on who sent what."""
    return repr(text) if len(text) <= _MOST else repr(text[:_MOST]) + "..."
