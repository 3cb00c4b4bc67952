"""The Debian mirror that the host itself uses, read from its own apt configuration (both formats)."""

from __future__ import annotations

import re
import shlex
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

_ONE_LINE = re.compile(r"^deb\s+(?:\[([^\]]*)\]\s+)?(\S+)\s+(\S+)\s+(\S.*)$")
_CODENAMES = frozenset({"bullseye", "bookworm", "trixie", "forky", "sid", "stable", "oldstable", "testing", "unstable"})
_DEFAULT_KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")

_INHERITED = (
    "Acquire::Check-Valid-Until",
    "Acquire::Check-Date",
    "Acquire::Retries",
    "Acquire::AllowInsecureRepositories",
)
_INHERITED_PREFIXES = ("Acquire::http::", "Acquire::https::")


@dataclass(frozen=True)
class Source:
    """One `deb` entry: `suite` is a codename or a codename with `-updates`, `-security`."""

    uri: str
    suite: str
    components: tuple[str, ...]
    signed_by: str = ""
    trusted: bool = False


def host_sources(root: Path = Path("/")) -> tuple[Source, ...]:
    """The host's sources of Debian packages; empty on other distributions."""
    directory = root / "etc/apt"
    found: list[Source] = []
    for path in [directory / "sources.list", *sorted((directory / "sources.list.d").glob("*"))]:
        if not path.is_file():
            continue
        text = path.read_text(errors="replace")
        if path.suffix == ".list":
            found += _one_line_format(text)
        elif path.suffix == ".sources":
            found += _deb822_format(text)
    return tuple(
        source for source in found if source.suite.partition("-")[0] in _CODENAMES and "main" in source.components
    )


def sources_for(suite: str, host: Iterable[Source]) -> tuple[Source, ...]:
    """`host`'s mirrors for another release: the same addresses and kinds (main, updates, security) with the codename exchanged.

    sid has neither updates nor security."""
    result: dict[tuple[str, str], Source] = {}
    for source in host:
        kind = source.suite.partition("-")[2]
        if kind not in ("", "updates", "security") or (kind and suite in ("sid", "unstable")):
            continue
        keyring = source.signed_by
        if not keyring.startswith("/") and _DEFAULT_KEYRING.exists():
            keyring = str(_DEFAULT_KEYRING)
        name = f"{suite}-{kind}" if kind else suite
        result.setdefault((source.uri, name), Source(source.uri, name, source.components, keyring, source.trusted))
    return tuple(result.values())


def line(source: Source) -> str:
    """The source in the one-line format."""
    options = [f"signed-by={source.signed_by}"] if source.signed_by else []
    options += ["trusted=yes"] if source.trusted else []
    inside = f"[{' '.join(options)}] " if options else ""
    return f"deb {inside}{source.uri} {source.suite} {' '.join(source.components)}"


def inherited_options() -> dict[str, str]:
    """The host's apt options that say how the mirror is reached (proxies, validity checks), without local paths to other files."""
    try:
        dump = subprocess.run(
            ["apt-config", "dump"],
            capture_output=True,
            text=True,
            timeout=20,
            check=True,
            stdin=subprocess.DEVNULL,
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return {}
    options = {}
    for text in dump.splitlines():
        name, _, value = text.rstrip(";").partition(" ")
        if name in _INHERITED or name.startswith(_INHERITED_PREFIXES):
            options[name] = value.strip('"')
    return {name: value for name, value in options.items() if value and not value.startswith("/")}


def _one_line_format(text: str) -> Iterator[Source]:
    for raw in text.splitlines():
        match = _ONE_LINE.match(raw.partition("#")[0].strip())
        if match:
            options = dict(word.partition("=")[::2] for word in shlex.split(match.group(1) or ""))
            components = tuple(match.group(4).split())
            yield _source(match.group(2), match.group(3), components, options.get("signed-by", ""), options)


def _deb822_format(text: str) -> Iterator[Source]:
    for stanza in re.split(r"\n\s*\n", text):
        fields: dict[str, str] = {}
        name = ""
        for raw in stanza.splitlines():
            if raw.startswith("#"):
                continue
            if raw[:1] in (" ", "\t") and name:
                fields[name] += "\n" + raw.strip()
            elif ":" in raw:
                name, _, value = raw.partition(":")
                name = name.strip().lower()
                fields[name] = value.strip()
        if "deb" not in fields.get("types", "").split() or fields.get("enabled", "yes").lower() in (
            "no",
            "false",
        ):
            continue
        for uri in fields.get("uris", "").split():
            for suite in fields.get("suites", "").split():
                components = tuple(fields.get("components", "").split())
                yield _source(uri, suite, components, fields.get("signed-by", ""), fields)


def _source(uri: str, suite: str, components: tuple[str, ...], signed_by: str, options: Mapping[str, str]) -> Source:
    return Source(uri, suite, components, signed_by, options.get("trusted", "").lower() in ("yes", "true"))
