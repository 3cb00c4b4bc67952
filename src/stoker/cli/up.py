"""`stoker up`: starts the server, in the foreground or detached."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable
from typing import Annotated

import typer
from rich.panel import Panel
from rich.text import Text

from stoker.cli import console
from stoker.cli.launch import launch
from stoker.cli.log import configure_logging
from stoker.cli.options import Data, FakeGpus, Host, Level, Port, Runtime, load_settings, server_flags
from stoker.cli.readiness import Outcome, send_outcome
from stoker.config import Settings
from stoker.datadir import DataDir
from stoker.errors import StokerError


def up(
    data: Data = None,
    host: Host = None,
    port: Port = None,
    runtime: Runtime = None,
    fake_gpus: FakeGpus = None,
    detach: Annotated[
        bool, typer.Option("--detach", "-d", help="Return once the server is ready; it runs on until `stoker down`.")
    ] = False,
    log_level: Level = None,
    ready_fd: Annotated[int | None, typer.Option(hidden=True)] = None,
    lifeline_fd: Annotated[int | None, typer.Option(hidden=True)] = None,
) -> None:
    """Start the server.

    It runs until Ctrl-C or SIGTERM: then running inputs may finish, and nothing is left behind. A second Ctrl-C ends them at once.

    Examples:

    - `stoker up`: sandboxes of gVisor; needs root on Linux
    - `stoker up --runtime process`: without root, or on macOS; isolates nothing
    - `stoker up --detach --port 0`: in the background, on a free port
    - `stoker up --fake-gpus H100:1,L40S:1`: GPU apps on the CPU, for development
    """
    settings = load_settings(data=data, host=host, port=port, runtime=runtime, fake_gpus=fake_gpus, log_level=log_level)
    if detach:
        _warn(settings)
        launched = launch(DataDir(settings.data), server_flags(host, port, runtime, fake_gpus, log_level), tied=False)
        _announce(launched.outcome, settings, detached=True)
    elif ready_fd is None:
        _warn(settings)
        _serve(settings, lambda outcome: _announce(outcome, settings, detached=False), None)
    else:
        _serve_for_parent(settings, ready_fd, lifeline_fd)


def _serve(settings: Settings, ready: Callable[[Outcome], None], lifeline: int | None) -> None:
    # Imported here: the other commands shall not wait for the whole server to load.
    from stoker.cli.serve import serve

    configure_logging(settings)
    serve(
        settings,
        lambda server: ready(Outcome(server.url, server.http_url, settings.runtime, server.new_token)),
        lifeline,
    )


def _serve_for_parent(settings: Settings, ready_fd: int, lifeline: int | None) -> None:
    """Started by another command, which shows the outcome to the user: the log must not hold the first token."""
    for descriptor in (ready_fd, lifeline):
        if descriptor is not None:
            os.set_inheritable(descriptor, False)
    told = False

    def tell(outcome: Outcome) -> None:
        nonlocal told
        if not told:
            told = True
            send_outcome(ready_fd, outcome)

    try:
        _serve(settings, tell, lifeline)
    except StokerError as error:
        tell(Outcome(error=str(error)))
        raise


def _warn(settings: Settings) -> None:
    """Says loudly, and before anything runs, what this server does not do."""
    if settings.fake_gpus:
        _panel(
            "DEVELOPMENT ONLY: declared GPUs",
            f"These GPUs are not there: {settings.fake_gpus}. Apps that ask for them are scheduled and run on the CPU. "
            "CUDA will not be found. Never serve others this way.",
        )
    if settings.runtime == "process":
        _panel(
            "No isolation",
            "Containers are plain processes of this user: they read and write this machine's files, share its network, see each "
            "other, and have no limits. Images are not built; apps run in the server's own Python. Run only code that you trust.",
        )


def _panel(title: str, text: str) -> None:
    err = console.err()
    panel = Panel(Text(text), title=title, title_align="left", border_style="bold yellow", width=min(err.width, 100))
    err.print(panel, soft_wrap=False)  # or the panel would cut its text off


def _announce(outcome: Outcome, settings: Settings, *, detached: bool) -> None:
    """The readiness line and what to do next."""
    out = console.out()
    given = "" if "data" not in settings.model_fields_set else f" --data {shlex.quote(str(settings.data))}"
    out.print(Text.assemble(("Stoker is ready", "bold green"), f" at {outcome.url} (HTTP at {outcome.http_url})"))
    out.print(f"  runtime   {outcome.runtime}", markup=False)
    out.print(f"  data      {settings.data}", markup=False)
    if detached:
        out.print(f"  log       {DataDir(settings.data).server_log}", markup=False)
    if outcome.token:
        token_id, secret = outcome.token
        out.print(
            f"  token     {token_id} / {secret}   (shown this once; `stoker env` prints it on this machine)",
            markup=False,
        )
    out.print("Next:", style="bold")
    out.print(f"  stoker run{given} modal run app.py    run an app here", markup=False)
    out.print(f'  eval "$(stoker env{given})"           or point this shell\'s modal client here', markup=False)
    out.print(f"  stoker down{given}" if detached else "  Ctrl-C here stops the server", markup=False)
    out.file.flush()
