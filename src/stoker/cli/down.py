"""`stoker down`: stops the server of a data directory and waits until it has gone."""

from __future__ import annotations

import signal
from typing import Annotated

import typer

from stoker.cli import console
from stoker.cli.options import Data, data_dir
from stoker.cli.processes import OtherProcess
from stoker.datadir import DataDir
from stoker.errors import FailedPrecondition, NotFound, PermissionDenied


def down(
    data: Data = None,
    now: Annotated[bool, typer.Option("--now", help="Do not let running inputs finish.")] = False,
    timeout: Annotated[float, typer.Option(help="Seconds to wait for the end.", min=0)] = 60.0,
) -> None:
    """Stop the server: running inputs may finish, and nothing is left behind.

    Examples:

    - `stoker down`
    - `stoker down --now --data ~/stoker`
    """
    directory = data_dir(data)
    process = _holder(directory)
    try:
        process.signal(signal.SIGTERM)
        if now:
            # The server takes a second signal as a request to hurry. It must be another one: two that are alike may arrive as one.
            process.signal(signal.SIGINT)
        if not process.wait(timeout):
            raise FailedPrecondition(
                f"The server (pid {process.pid}) is still stopping after {timeout:g} s. "
                f"`stoker down --now` ends running inputs; its log is {directory.server_log} if it was started with --detach."
            )
    except PermissionError:
        raise PermissionDenied(
            f"The server (pid {process.pid}) belongs to another user. Run `stoker down` as that user, or with sudo."
        ) from None
    except ProcessLookupError:
        pass  # it ended by itself just now, which is what was wanted
    finally:
        process.close()
    console.out().print(f"Stopped the server of {directory.path}.", markup=False)


def _holder(directory: DataDir) -> OtherProcess:
    """The process that holds the directory. Raises NotFound when nobody does."""
    pid = directory.holder()
    if pid is not None:
        try:
            process = OtherProcess(pid)
        except ProcessLookupError:
            pass
        else:
            # Asked again, now that the handle is ours: the number may have been given to another process in between.
            if directory.holder() == pid:
                return process
            process.close()
    raise NotFound(f"No server runs on {directory.path}. (Another one? Name its directory with --data.)")
