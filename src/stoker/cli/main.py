"""The command `stoker`: gathers the commands and turns errors of the family into one line and an exit code."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from stoker.cli import (
    builds,
    canary,
    check,
    console,
    doctor,
    down,
    env,
    fsck,
    gc,
    new,
    run,
    settings,
    simulate,
    snapshots,
    status,
    token,
    tune,
    up,
    version,
)
from stoker.errors import StokerError

cli = typer.Typer(
    name="stoker",
    help="A self-hosted server for Modal apps: run them unchanged on your own machines and GPUs.",
    epilog="Start with `stoker doctor --fix`, then `stoker up`, then `stoker run modal run app.py` in another terminal.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        version.print_version()
        raise typer.Exit()


@cli.callback()
def root(
    show: Annotated[
        bool,
        typer.Option("--version", help="Print the version and exit.", callback=_print_version, is_eager=True),
    ] = False,
) -> None:
    del show


cli.command()(up.up)
cli.command()(down.down)
cli.command()(env.env)
cli.command(
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "allow_interspersed_args": False}
)(run.run)
cli.command()(status.status)
cli.command()(canary.canary)
cli.command()(doctor.doctor)
cli.command()(gc.gc)
cli.command()(fsck.fsck)
cli.command()(check.check)
cli.command()(new.new)
cli.command()(tune.tune)
cli.command()(simulate.simulate)
cli.add_typer(token.cli, name="token")
cli.add_typer(snapshots.cli, name="snapshots")
cli.add_typer(builds.cli, name="builds")
cli.command()(version.version)
cli.command("settings", hidden=True)(settings.settings)


def app() -> None:
    """The entry point. Exit codes: 0 done, 1 failed, 2 used wrongly; `stoker run` has those of its command."""
    try:
        cli(prog_name="stoker")  # also when run as `python -m stoker`
    except StokerError as error:
        console.print_error(str(error))
        sys.exit(1)
    except BrokenPipeError:
        # Whoever read our output has gone (`stoker status | head`); nothing more can be said there.
        sys.stderr.close()
        sys.exit(1)


if __name__ == "__main__":
    app()
