"""What the user reads of a build."""

from __future__ import annotations

from collections import deque

from stoker.images.base import LogSink

_KEPT_LINES = 50


class Transcript:
    """The steps of one build as the user sees them: announced, with their output, and how one failed."""

    def __init__(self, steps: int, log: LogSink) -> None:
        self._steps = steps
        self._log = log
        self._count = 0
        self._step = ""
        self._tail: deque[str] = deque(maxlen=_KEPT_LINES)

    def begin(self, text: str) -> None:
        """The next step; `text` is the instruction as the user wrote it."""
        self._step = text
        self._count += 1
        self._tail.clear()
        self._log(f"Step {self._count}/{self._steps}: {text}\n")

    def line(self, text: str) -> None:
        """A line of output of the step."""
        self._tail.append(text)
        self._log(text + "\n")

    def failure(self, code: int | None, reason: str = "") -> str:
        """The message for a failed build: the step, its exit code when it was a command, and the end of what it said."""
        how = "failed" if code is None else f"failed with exit code {code}"
        head = f"Step {self._count}/{self._steps} of the image {how}: {self._step}" if self._step else ""
        return "\n".join(filter(None, [head, reason, *self._tail]))
