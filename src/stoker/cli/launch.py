"""Starting a server as a process of its own: for good (`up --detach`) or for the duration of a command (`run`)."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import dataclass

from stoker.cli.readiness import Outcome, receive_outcome
from stoker.datadir import DataDir
from stoker.errors import FailedPrecondition

_TAIL_LINES = 20


@dataclass
class Launched:
    """A server that was started and is ready. With a lifeline it ends when this process does, however that ends."""

    process: subprocess.Popen[bytes]
    outcome: Outcome
    lifeline: int | None

    def stop(self) -> None:
        """Asks the server to drain and waits until it has ended. A KeyboardInterrupt meanwhile makes it hurry."""
        while self.process.poll() is None:
            try:
                self.process.send_signal(signal.SIGTERM)
                self.process.wait()
            except KeyboardInterrupt:
                continue
        if self.lifeline is not None:
            os.close(self.lifeline)
            self.lifeline = None


def launch(data: DataDir, flags: list[str], *, tied: bool) -> Launched:
    """Starts `stoker up` with these flags in a new session and waits until it is ready.

    `tied` says that the server shall not outlive this process. Raises FailedPrecondition with the server's own sentence, or, when it
    ended without one, with the end of its log.
    """
    data.create()
    start = data.server_log.stat().st_size if data.server_log.exists() else 0
    ready_reader, ready_writer = os.pipe()
    lifeline_reader, lifeline_writer = os.pipe() if tied else (None, None)
    inherited = [ready_writer] + ([lifeline_reader] if lifeline_reader is not None else [])
    extra = ["--ready-fd", str(ready_writer)]
    if lifeline_reader is not None:
        extra += ["--lifeline-fd", str(lifeline_reader)]
    with data.open_log() as log:
        process = subprocess.Popen(
            [*_stoker(), "up", "--data", str(data.path), *flags, *extra],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            pass_fds=inherited,
            start_new_session=True,
        )
    for descriptor in inherited:
        os.close(descriptor)
    try:
        outcome = receive_outcome(ready_reader)
    except BaseException:
        process.terminate()
        process.wait()
        raise
    if outcome is None or outcome.error:
        code = process.wait()
        if outcome is not None:
            raise FailedPrecondition(outcome.error)
        raise FailedPrecondition(
            f"The server ended with exit code {code} before it was ready. "
            f"The end of its log, {data.server_log}:\n{_tail(data, start)}"
        )
    return Launched(process, outcome, lifeline_writer)


def _stoker() -> list[str]:
    # -P: a directory named `stoker` in the working directory must not be taken for the package.
    return [sys.executable, *(["-P"] if sys.version_info >= (3, 11) else []), "-m", "stoker"]


def _tail(data: DataDir, start: int) -> str:
    with data.server_log.open("rb") as log:
        log.seek(start)
        lines = log.read().decode(errors="replace").splitlines()
    return "\n".join(lines[-_TAIL_LINES:]) or "(nothing was logged)"
