"""What an image is made from, and what is known of it when it is made."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

AuthKind = Literal["static", "aws", "gcp"]


@dataclass(frozen=True)
class RegistryAuth:
    """Credentials for a private base image."""

    kind: AuthKind
    secret: Mapping[str, str]  # REGISTRY_USERNAME/REGISTRY_PASSWORD, AWS_*, SERVICE_ACCOUNT_JSON


@dataclass(frozen=True)
class FunctionStep:
    """A function of the client's that makes the layer: its source with its settings, the global variables it uses, and its arguments."""

    definition: str
    globals: bytes = b""
    arguments: bytes = b""


@dataclass(frozen=True)
class ImageSpec:
    """One layer as the client sends it: a Dockerfile whose `FROM base` names an image built before.

    The image's id is computed from this (see `fingerprint`), so it must hold all that the result depends on, and no secret values.
    """

    commands: tuple[str, ...]
    bases: Mapping[str, str]  # tag in the Dockerfile -> image id
    context_files: Mapping[str, bytes] = field(default_factory=dict)
    context_mount_id: str = ""
    builder_version: str = ""
    build_args: Mapping[str, str] = field(default_factory=dict)
    secret_ids: tuple[str, ...] = ()
    nonce: str = ""  # set for force_build, so that the result is a new image
    function: FunctionStep | None = None  # makes the layer, in place of commands

    def fingerprint(self) -> bytes:
        """Canonical bytes for a content-addressed id."""
        document = asdict(self) | {
            "context_files": {name: data.hex() for name, data in sorted(self.context_files.items())}
        }
        step = document.pop("function")
        if step is not None:
            document["function"] = {k: v.hex() if isinstance(v, bytes) else v for k, v in step.items()}
        return json.dumps(document, sort_keys=True).encode()


@dataclass(frozen=True)
class ContextRef:
    """What a build needs beyond the spec and may not influence the id."""

    mount_id: str = ""
    """The mount with the files of the context; empty for none."""
    python: str = ""
    """The name of a context mount whose files the builder itself has: a standalone Python."""
    secret_env: Mapping[str, str] = field(default_factory=dict)
    """Visible to RUN steps only, never stored in the image."""
    registry_auth: RegistryAuth | None = None
    confined: bool = False
    """Asked for by a container: nothing of the build may touch what others rely on."""


@dataclass(frozen=True)
class ImageConfig:
    """What is known of a built image. Serialised to the database as JSON."""

    env: dict[str, str] = field(default_factory=dict)
    entrypoint: tuple[str, ...] = ()
    cmd: tuple[str, ...] = ()
    workdir: str = ""
    user: str = ""  # of build steps; functions run as root
    shell: tuple[str, ...] = ()  # of build steps in the shell form; empty for /bin/sh -c
    python_version: str = ""  # "3.11.2"; empty when the image has no `python`
    libc: str = "glibc"  # or "musl"
    libc_version: str = ""
    python_packages: dict[str, str] = field(default_factory=dict)
    builder_version: str = ""

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> ImageConfig:
        document: dict[str, Any] = json.loads(text)
        for name in ("entrypoint", "cmd", "shell"):
            document[name] = tuple(document.get(name, ()))
        return cls(**document)


@dataclass(frozen=True)
class Leftover:
    """What nobody uses any more: an image (by id), a base or a Python; `size` in bytes on the disk."""

    kind: Literal["image", "base", "python"]
    name: str
    size: int
