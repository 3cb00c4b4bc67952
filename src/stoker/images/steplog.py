"""What the user reads of a build: buildah's output with our own steps and its bookkeeping left out."""

from __future__ import annotations

import re
from collections import deque

from stoker.images.base import LogSink
from stoker.images.recipe import Recipe

_STEP = re.compile(r"^(?:\[\d+/\d+\] )?STEP \d+/\d+: (.*)$")
_COMMIT = re.compile(r"^(?:\[\d+/\d+\] )?COMMIT\b")
_FRAME = re.compile(r"^(?:Error: |error |subprocess exited with status )")
_STATUS = re.compile(r"exit status (\d+)")
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


class BuildahLog:
    """Called with each line that buildah prints; passes on what belongs to the user's steps."""

    def __init__(self, recipe: Recipe, log: LogSink) -> None:
        self._recipe = recipe
        self.transcript = Transcript(recipe.steps, log)
        self._command = False
        self._hidden = True
        self._errors: deque[str] = deque(maxlen=5)

    def __call__(self, line: str) -> None:
        if match := _STEP.match(line):
            self._begin(match.group(1))
        elif _COMMIT.match(line):
            self._hidden = True
        elif _FRAME.match(line):
            self._errors.append(line)
        elif not self._hidden:
            self.transcript.line(line)

    def failure(self, code: int) -> str:
        """The message for a build that ended with `code`."""
        status = _STATUS.search("\n".join(self._errors))
        if self._command and status is not None:
            return self.transcript.failure(int(status.group(1)))
        # Not a command of the user that failed but the step itself (a file to copy is missing, ...).
        reason = re.sub(r'^Error: (?:building at STEP ".*?": )?', "", self._errors[-1]) if self._errors else ""
        return self.transcript.failure(None, reason or f"buildah ended with exit code {code}")

    def _begin(self, text: str) -> None:
        shown = self._recipe.shown.get(text, text)
        self._hidden = shown is None
        if shown is None:
            return
        for local, name in self._recipe.names.items():
            shown = shown.replace(local, name)
        self._command = shown.startswith("RUN")
        self.transcript.begin(shown)
