"""Options that several commands share."""

from __future__ import annotations

import enum
from pathlib import Path
from typing import Annotated, Any

import typer

from stoker.config import Settings
from stoker.datadir import DataDir


class RuntimeName(str, enum.Enum):
    RUNSC = "runsc"
    PROCESS = "process"


class LogLevel(str, enum.Enum):
    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


Data = Annotated[
    Path | None,
    # readable=False: that it cannot be read is explained in our own words.
    typer.Option(
        help="Directory that holds everything the server keeps.", metavar="DIR", show_default=False, readable=False
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
Host = Annotated[str | None, typer.Option(help="Address on which clients are served.", show_default="127.0.0.1")]
Port = Annotated[
    int | None, typer.Option(help="Port on which clients are served; 0 picks a free one.", show_default="7690")
]
Runtime = Annotated[
    RuntimeName | None,
    typer.Option(
        help="What containers run in: gVisor sandboxes (runsc), or plain processes without isolation (process).",
        show_default="runsc",
    ),
]
FakeGpus = Annotated[
    str | None,
    typer.Option(
        help="Declare GPUs that are not there, so that apps asking for them run on the CPU. Development only.",
        metavar="MODEL:COUNT,...",
        show_default=False,
    ),
]
Level = Annotated[LogLevel | None, typer.Option("--log-level", help="Least severe level shown.", show_default="info")]


def load_settings(**flags: Any) -> Settings:
    """Settings with flags on top, enums unwrapped. Raises InvalidArgument."""
    plain = {name: value.value if isinstance(value, enum.Enum) else value for name, value in flags.items()}
    return Settings.load(**plain)


def data_dir(data: Path | None) -> DataDir:
    """The data directory that the flag, the environment or stoker.toml names."""
    return DataDir(load_settings(data=data).data)


def server_flags(
    host: str | None,
    port: int | None,
    runtime: RuntimeName | None,
    fake_gpus: str | None,
    log_level: LogLevel | None,
) -> list[str]:
    """The options that were given, as arguments for another `stoker up`."""
    given = {
        "--host": host,
        "--port": port,
        "--runtime": runtime and runtime.value,
        "--fake-gpus": fake_gpus,
        "--log-level": log_level and log_level.value,
    }
    return [argument for flag, value in given.items() if value is not None for argument in (flag, str(value))]
