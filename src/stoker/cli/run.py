"""`stoker run CMD...`: a command whose `modal` client is pointed at the server, which is started for the duration if none runs."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import FrameType
from typing import Annotated

import typer

from stoker.cli import console
from stoker.cli.client import find_server, require_server
from stoker.cli.launch import launch
from stoker.cli.options import Data, FakeGpus, Host, Level, Port, Runtime, data_dir, load_settings, server_flags
from stoker.errors import FailedPrecondition

_PASSED_ON = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)
_NOT_FOUND, _NOT_EXECUTABLE = 127, 126


def run(
    command: Annotated[list[str], typer.Argument(metavar="CMD...", help="The command and its arguments.")],
    data: Data = None,
    host: Host = None,
    port: Port = None,
    runtime: Runtime = None,
    fake_gpus: FakeGpus = None,
    log_level: Level = None,
) -> None:
    """Run a command with its modal client pointed at the server.

    If no server runs on the data directory, one is started for the duration, with the options given here (on a free port unless
    --port is given). The exit code is the command's own: 127 when it was not found, 128+n when signal n ended it.

    Examples:

    - `stoker run modal run app.py`
    - `stoker run --runtime process -- python my_client.py --verbose`
    """
    load_settings(data=data, host=host, port=port, runtime=runtime, fake_gpus=fake_gpus, log_level=log_level)
    directory = data_dir(data)
    flags = server_flags(host, port, runtime, fake_gpus, log_level)
    connection = find_server(directory)
    if connection is not None:
        if flags:
            raise FailedPrecondition(
                f"A server already runs on {directory.path} (pid {connection.server.pid}), so {' '.join(flags)} would have no effect. "
                "Leave these options out, or stop it with `stoker down`."
            )
        raise typer.Exit(_execute(command, connection.environment()))
    if directory.holder() is not None:
        require_server(directory, data)  # raises what to do about a server that is starting or stopping
    launched = launch(directory, flags if port is not None else [*flags, "--port", "0"], tied=True)
    try:
        code = _execute(command, require_server(directory, data).environment())
    finally:
        launched.stop()
    raise typer.Exit(code)


def _execute(command: list[str], variables: Mapping[str, str]) -> int:
    """Runs the command, passes signals on to it, and returns its exit code as a shell would."""
    with _signals_passed_on() as started:
        try:
            process = subprocess.Popen(command, env={**os.environ, **variables})
        except FileNotFoundError:
            console.print_error(f"{command[0]}: command not found")
            return _NOT_FOUND
        except OSError as error:
            console.print_error(f"{command[0]}: {error.strerror}")
            return _NOT_EXECUTABLE
        started(process)
        code = process.wait()
    return 128 - code if code < 0 else code


@contextmanager
def _signals_passed_on() -> Iterator[Callable[[subprocess.Popen[bytes]], None]]:
    """From here on signals are for the command; those that come before it is `started` are kept for it."""
    command: subprocess.Popen[bytes] | None = None
    early: list[int] = []

    def pass_on(number: int, frame: FrameType | None) -> None:
        if command is None:
            early.append(number)
        # The terminal sends Ctrl-C to the whole foreground group, so to the command too, for which two mean "at once".
        elif number not in (signal.SIGINT, signal.SIGQUIT) or not _in_foreground():
            command.send_signal(number)

    def started(process: subprocess.Popen[bytes]) -> None:
        nonlocal command
        command = process
        for number in early:
            command.send_signal(number)

    before = {number: signal.getsignal(number) for number in _PASSED_ON}
    try:
        for number, handler in before.items():
            if handler != signal.SIG_IGN:  # what we were told to ignore (nohup), the command ignores too
                signal.signal(number, pass_on)
        yield started
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _in_foreground() -> bool:
    """Whether this process is in the foreground group of its terminal."""
    try:
        terminal = os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY)
    except OSError:
        return False
    try:
        return os.tcgetpgrp(terminal) == os.getpgrp()
    except OSError:
        return False
    finally:
        os.close(terminal)
