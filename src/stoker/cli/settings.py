"""`stoker settings` (hidden): the reference of all settings, written from their own descriptions."""

from __future__ import annotations

import sys

from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from stoker.config import Settings

_HEAD = """\
# Settings

A setting comes from the first of these places that names it:

1. the flag of the command, where there is one (`stoker up --help`),
2. the environment variable `STOKER_<NAME>`; lists and tables are written there as JSON,
3. `stoker.toml` in the directory in which the command is started,
4. the default.

```toml
# stoker.toml
port = 7690
runtime = "runsc"

[registry_mirrors]
"registry.example.org" = "mirror.example.org:5000"
```

| Setting | Environment variable | Type | Default | Meaning |
| --- | --- | --- | --- | --- |
"""

_FOOT = """
This page is generated: change the descriptions in `src/stoker/config.py`, then run `make docs`.
"""


def settings() -> None:
    """Print the reference of all settings as Markdown (docs/settings.md)."""
    sys.stdout.write(settings_page())


def settings_page() -> str:
    """The whole of docs/settings.md."""
    rows = (_row(name, field) for name, field in Settings.model_fields.items())
    return _HEAD + "".join(rows) + _FOOT


def _row(name: str, field: FieldInfo) -> str:
    kind = _type_name(field.annotation)
    meaning = (field.description or "").replace("|", "\\|")
    return f"| `{name}` | `STOKER_{name.upper()}` | {kind} | {_default(name, field)} | {meaning} |\n"


def _type_name(annotation: object) -> str:
    choices = getattr(annotation, "__args__", None)
    if getattr(annotation, "__origin__", None) is None and isinstance(annotation, type):
        return {"str": "text", "int": "integer", "float": "number", "bool": "true or false", "Path": "path"}.get(
            annotation.__name__, annotation.__name__
        )
    if choices and all(isinstance(choice, str) for choice in choices):
        return " or ".join(f"`{choice}`" for choice in choices)
    if getattr(annotation, "__origin__", None) is dict:
        return "table of text"
    return "list of text"


def _default(name: str, field: FieldInfo) -> str:
    if name == "data":
        return "`/var/lib/stoker` for root on Linux, else the user's data directory"
    value = field.default
    if value is PydanticUndefined or value in ("", None):
        return "empty"
    return f"`{value}`"
