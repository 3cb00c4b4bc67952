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


class StepLog:
    """Called with each line that buildah prints; passes on what belongs to the user's steps."""

    def __init__(self, recipe: Recipe, log: LogSink) -> None:
        self._recipe = recipe
        self._log = log
        self._count = 0
        self._step = ""
        self._hidden = True
        self._tail: deque[str] = deque(maxlen=_KEPT_LINES)
        self._errors: deque[str] = deque(maxlen=5)

    def __call__(self, line: str) -> None:
        if match := _STEP.match(line):
            self._begin(match.group(1))
        elif _COMMIT.match(line):
            self._hidden = True
        elif _FRAME.match(line):
            self._errors.append(line)
        elif not self._hidden:
            self._tail.append(line)
            self._log(line + "\n")

    def failure(self, code: int) -> str:
        """The message for a failed build: which step, how, and the end of what it said."""
        errors = "\n".join(self._errors)
        status = _STATUS.search(errors)
        if self._step.split(" ", 1)[0] != "RUN" or status is None:
            # Not a command of the user that failed but the step itself (a file to copy is missing, ...).
            reason = re.sub(r'^Error: (?:building at STEP ".*?": )?', "", errors.splitlines()[-1]) if errors else ""
            detail = reason or f"buildah ended with exit code {code}"
            where = f"Step {self._count}/{self._recipe.steps} of the image failed: {self._step}\n" if self._step else ""
            return "\n".join(filter(None, [f"{where}{detail}", *self._tail]))
        head = f"Step {self._count}/{self._recipe.steps} of the image failed with exit code {status.group(1)}: {self._step}"
        return "\n".join([head, *self._tail])

    def _begin(self, text: str) -> None:
        if text in self._recipe.shown:
            shown = self._recipe.shown[text]
            if shown is None:
                self._hidden = True
                return
            text = shown
        for local, name in self._recipe.names.items():
            text = text.replace(local, name)
        self._hidden = False
        self._step = text
        self._count += 1
        self._tail.clear()
        self._log(f"Step {self._count}/{self._recipe.steps}: {text}\n")
