"""What builds inherit from the host: package indexes, local wheel directories, version caps, and trusted certificates.

Builds reach packages the way the host does. The host's pip configuration (files and `PIP_*`) and `UV_*` become environment variables
of RUN steps only; directories and files they name are mounted read-only at the same path. uv knows nothing of pip's configuration,
so what it needs is derived from it.

Certificates. During a build the host's bundle of trusted authorities is mounted and the usual variables point at it. For run time,
authorities that the administrator added to the host (`/usr/local/share/ca-certificates`) are written into the base image itself, and
the base's ENV points the tools that bring their own list of authorities (uv, requests) at the system's bundle; so every image built on
it trusts them, without a mount. On a host without such additions no image's certificates are touched.
"""

from __future__ import annotations

import configparser
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

SYSTEM_BUNDLE = "/etc/ssl/certs/ca-certificates.crt"
_BUNDLES = (SYSTEM_BUNDLE, "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/ca-bundle.pem", "/etc/ssl/cert.pem")
_ADDED_AUTHORITIES = Path("/usr/local/share/ca-certificates")

_BUNDLE_VARIABLES = (
    "SSL_CERT_FILE",
    "REQUESTS_CA_BUNDLE",
    "CURL_CA_BUNDLE",
    "PIP_CERT",
    "GIT_SSL_CAINFO",
    "NODE_EXTRA_CA_CERTS",
)
RUNTIME_BUNDLE_VARIABLES = ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE")
"""Set in a base image's ENV when the host has added authorities."""

_PIP_OPTIONS = frozenset(
    [
        "INDEX_URL",
        "EXTRA_INDEX_URL",
        "NO_INDEX",
        "FIND_LINKS",
        "TRUSTED_HOST",
        "CONSTRAINT",
        "PROXY",
        "TIMEOUT",
        "DEFAULT_TIMEOUT",
        "RETRIES",
        "PREFER_BINARY",
        "ONLY_BINARY",
        "NO_BINARY",
        "DISABLE_PIP_VERSION_CHECK",
    ]
)
"""Options of pip that say where packages come from. Others (targets, users, caches) would change what a step does."""

_UV_OPTIONS = frozenset(
    [
        "INDEX_URL",
        "DEFAULT_INDEX",
        "EXTRA_INDEX_URL",
        "INDEX",
        "FIND_LINKS",
        "INDEX_STRATEGY",
        "NO_INDEX",
        "CONSTRAINT",
        "INSECURE_HOST",
        "HTTP_TIMEOUT",
        "HTTP_RETRIES",
        "NATIVE_TLS",
        "SYSTEM_CERTS",
        "OFFLINE",
        "CONCURRENT_DOWNLOADS",
    ]
)


@dataclass(frozen=True)
class PackageSources:
    """`environment` for pip and uv, and the host paths that it refers to (to be mounted read-only at the same place)."""

    environment: dict[str, str]
    paths: tuple[Path, ...]


def package_sources(environ: Mapping[str, str] | None = None) -> PackageSources:
    """How the host's pip and uv find packages."""
    environ = os.environ if environ is None else environ
    pip = _pip_options(environ)
    uv = {
        name.removeprefix("UV_"): value
        for name, value in environ.items()
        if name.startswith("UV_") and name.removeprefix("UV_") in _UV_OPTIONS and value
    }
    if not uv.keys() & {"INDEX_URL", "DEFAULT_INDEX"} and "INDEX_URL" in pip:
        uv["DEFAULT_INDEX"] = pip["INDEX_URL"]
    if not uv.keys() & {"EXTRA_INDEX_URL", "INDEX"} and "EXTRA_INDEX_URL" in pip:
        uv["INDEX"] = pip["EXTRA_INDEX_URL"]
        # pip looks for the best version in all indexes; uv's own default stops at the first one that has the package.
        uv.setdefault("INDEX_STRATEGY", "unsafe-best-match")
    if "FIND_LINKS" not in uv and "FIND_LINKS" in pip:
        uv["FIND_LINKS"] = ",".join(pip["FIND_LINKS"].split())
    if "CONSTRAINT" not in uv and "CONSTRAINT" in pip:
        uv["CONSTRAINT"] = pip["CONSTRAINT"]
    environment = {f"PIP_{name}": value for name, value in pip.items()} | {
        f"UV_{name}": value for name, value in uv.items()
    }
    return PackageSources(environment, tuple(dict.fromkeys(_local_paths(environment))))


def certificate_bundle(environ: Mapping[str, str] | None = None) -> Path | None:
    """The file with all authorities the host trusts, None when there is none."""
    environ = os.environ if environ is None else environ
    for name in (environ.get("SSL_CERT_FILE", ""), environ.get("REQUESTS_CA_BUNDLE", ""), *_BUNDLES):
        if name and os.path.isfile(name):
            return Path(name)
    return None


def certificate_environment(path: str) -> dict[str, str]:
    """Points every common tool at the bundle `path`."""
    return dict.fromkeys(_BUNDLE_VARIABLES, path)


def added_authorities() -> tuple[Path, ...]:
    """Certificates (PEM) that the administrator added to the host's trusted ones."""
    return tuple(path for path in sorted(_ADDED_AUTHORITIES.rglob("*.crt")) if path.is_file())


def _pip_options(environ: Mapping[str, str]) -> dict[str, str]:
    """pip's options by their upper-case names; variables win over files, later files over earlier ones, as pip does it."""
    options: dict[str, str] = {}
    for path in _pip_files(environ):
        # pip itself reads its files without interpolation.
        parser = configparser.RawConfigParser()
        try:
            parser.read(path, encoding="utf-8")
        except (OSError, configparser.Error, UnicodeDecodeError):
            continue
        for section in ("global", "install"):
            if parser.has_section(section):
                for key, value in parser.items(section):
                    options[key.upper().replace("-", "_")] = " ".join(value.split())
    for name, value in environ.items():
        if name.startswith("PIP_"):
            options[name.removeprefix("PIP_").upper()] = value
    return {name: value for name, value in options.items() if name in _PIP_OPTIONS and value}


def _pip_files(environ: Mapping[str, str]) -> Iterator[Path]:
    custom = environ.get("PIP_CONFIG_FILE", "")
    if custom == os.devnull:
        return
    for directory in reversed(environ.get("XDG_CONFIG_DIRS", "/etc/xdg").split(":")):
        yield Path(directory, "pip", "pip.conf")
    yield Path("/etc/pip.conf")
    home = Path(environ.get("HOME", "") or os.path.expanduser("~"))
    yield home / ".pip" / "pip.conf"
    yield Path(environ.get("XDG_CONFIG_HOME", "") or home / ".config") / "pip" / "pip.conf"
    if custom:
        yield Path(custom)


def _local_paths(environment: Mapping[str, str]) -> Iterator[Path]:
    for name, value in environment.items():
        option = name.partition("_")[2]
        if option not in (
            "FIND_LINKS",
            "CONSTRAINT",
            "INDEX_URL",
            "EXTRA_INDEX_URL",
            "DEFAULT_INDEX",
            "INDEX",
        ):
            continue
        for word in re.split(r"[\s,]+", value):
            # uv's named indexes: `name=url`
            url = word.partition("=")[2] if re.match(r"^[\w.-]+=\w+://", word) else word
            path = Path(unquote(urlsplit(url).path)) if url.startswith("file://") else Path(url)
            if not path.is_absolute() or not path.exists():
                continue
            # The pages of a local index may link to files beside it.
            is_index = option not in ("FIND_LINKS", "CONSTRAINT") and path.name == "simple"
            yield path.parent if is_index else path
