"""`stoker new`: a starter app, made from one of the examples."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

import stoker
from stoker.cli import console
from stoker.cli.options import Json
from stoker.errors import AlreadyExists, InvalidArgument, NotFound

_ONLINE = "https://github.com/stoker-dev/stoker/tree/main/examples/"
_TEXT = {".py", ".md", ".json", ".yaml", ".yml", ".toml", ".txt"}
_STEPS = 3  # commands of the README that are shown as the next ones


def new(
    example: Annotated[
        str | None,
        typer.Argument(
            metavar="EXAMPLE", help="Which one; --list shows them.", autocompletion=lambda: sorted(_library())
        ),
    ] = None,
    directory: Annotated[
        Path | None, typer.Argument(metavar="DIR", help="Where to write it.", show_default="EXAMPLE")
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="What to call the app and its Volumes.", show_default="that of the directory")
    ] = None,
    list_examples: Annotated[bool, typer.Option("--list", help="List the examples and end.")] = False,
    json: Json = False,
) -> None:
    """Write a starter app into a directory: ordinary Modal code to change as you like.

    Examples:

    - `stoker new --list`
    - `stoker new diffusion my-app/`
    - `stoker new batch embeddings/ --name nightly-embeddings`
    """
    library = _library()
    if list_examples or example is None:
        _print_list(library, json)
        return
    if example not in library:
        raise NotFound(f"There is no example {example!r}. There are {', '.join(sorted(library))}.")
    target = directory or Path(example)
    name = _checked(name) if name else _name_of(target)
    _refuse_to_overwrite(target)
    written = list(_write(library[example], target, example, name))
    steps = [f"cd {target}", *_commands((target / "README.md").read_text())]
    if json:
        console.print_json(
            {"example": example, "directory": str(target), "name": name, "files": written, "next": steps}
        )
        return
    out = console.out()
    out.print(f"Wrote the app {name} to {target}: {', '.join(written)}", markup=False)
    out.print("\nNext:", style="bold")
    for step in steps:
        out.print(f"  {step}", markup=False)
    out.print(f"\n{target / 'README.md'} says what it does and how to tune it.", markup=False)


def _library() -> dict[str, Path]:
    """The examples by name. They are in the installed package, or beside `src` in a checkout."""
    package = Path(stoker.__file__).parent
    for root in (package / "examples", package.parents[1] / "examples"):
        found = {path.parent.name: path.parent for path in root.glob("*/README.md")}
        if found:
            return found
    return {}


def _print_list(library: dict[str, Path], json: bool) -> None:
    titles = {name: _title(library[name] / "README.md") for name in sorted(library)}
    if json:
        console.print_json([{"name": name, "title": title} for name, title in titles.items()])
        return
    for name, title in titles.items():
        console.out().print(f"{name:<12} {title}", markup=False)


def _title(readme: Path) -> str:
    return next((line[2:].strip() for line in readme.read_text().splitlines() if line.startswith("# ")), "")


def _name_of(directory: Path) -> str:
    """A name for the app from that of the directory."""
    name = re.sub(r"[^A-Za-z0-9_.-]+", "-", directory.resolve().name).strip("-.")
    return _checked(name)


def _checked(name: str) -> str:
    """Raises InvalidArgument for what the client would refuse; some room is left for endings like "-models"."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,39}", name):
        raise InvalidArgument(
            f"{name!r} cannot be the name of an app: it takes up to 40 letters, digits, dashes, dots and underscores. Give one with --name."
        )
    return name


def _refuse_to_overwrite(target: Path) -> None:
    if target.is_dir() and any(target.iterdir()):
        raise AlreadyExists(f"{target} is not empty, and nothing in it shall be overwritten. Name another directory.")
    if target.exists() and not target.is_dir():
        raise AlreadyExists(f"{target} is a file. Name a directory.")


def _write(source: Path, target: Path, example: str, name: str) -> Iterator[str]:
    """Copies the example's files, told what the app is called now; yields their paths below the target."""
    for file in sorted(source.rglob("*")):
        inside = file.relative_to(source)
        if not file.is_file() or any(part in {"__pycache__", "out"} or part.startswith(".") for part in inside.parts):
            continue
        copy = target / inside
        copy.parent.mkdir(parents=True, exist_ok=True)
        if file.suffix in _TEXT:
            copy.write_text(_adapted(file.read_text(), target, example, name))
            shutil.copymode(file, copy)
        else:
            shutil.copy(file, copy)
        yield str(inside)


def _adapted(text: str, target: Path, example: str, name: str) -> str:
    """Names and paths of the repository made those of the starter."""
    text = re.sub(r"(?m)^ +make demo\b.*\n", "", text).replace(" (`make demo`)", "")
    text = text.replace(f"cd examples/{example}\n", f"cd {target}\n").replace(f"examples/{example}/", "")
    text = text.replace("REPOSITORY = HERE.parents[1]", "REPOSITORY = HERE")
    return text.replace(f"example-{example}", name).replace("](../", f"]({_ONLINE}")


def _commands(readme: str) -> list[str]:
    """The first commands that the README shows for this server."""
    shown = re.findall(r"(?m)^    (stoker (?:up|run) .*)$", readme)
    return [re.sub(r"\s+#.*", "", command).strip() for command in shown][:_STEPS]
