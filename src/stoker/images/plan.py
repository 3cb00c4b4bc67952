"""The steps of a layer that need no help of buildah: those of one stage that only run commands and copy files as root.

That is all the client itself ever writes. Everything else (several stages, ADD, other users, wild cards, options of RUN, ...) has no
plan and is left to buildah.
"""

from __future__ import annotations

import json
import posixpath
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from stoker.images.dockerfile import Dockerfile, Instruction, assignments, expand, words
from stoker.images.recipe import INSIDE, heredoc_script

_SETTINGS = frozenset({"CMD", "ENTRYPOINT", "LABEL", "EXPOSE", "STOPSIGNAL", "HEALTHCHECK", "MAINTAINER"})
_UV = re.compile(r"^--from=(ghcr\.io/astral-sh/uv(?::\S+)?)$")
_DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True)
class Run:
    """`argv` with `env` (of the image and of arguments) in `cwd`."""

    argv: tuple[str, ...]
    env: Mapping[str, str]
    cwd: str


@dataclass(frozen=True)
class Copy:
    """`items` of the context, or of the image `image` when that is not empty, to the absolute path `target`."""

    items: tuple[str, ...]
    target: str
    image: str = ""


@dataclass(frozen=True)
class MakeDirectory:
    """The directory of WORKDIR."""

    target: str


@dataclass(frozen=True)
class Setting:
    """Only changes the image's settings."""


Action = Run | Copy | MakeDirectory | Setting


@dataclass(frozen=True)
class Step:
    instruction: Instruction
    action: Action


@dataclass
class Plan:
    """`scripts` are files that `Run` actions expect in the build's own directory."""

    steps: list[Step] = field(default_factory=list)
    scripts: dict[str, str] = field(default_factory=dict)

    @property
    def settings(self) -> str:
        """The Dockerfile of what only changes settings, without FROM."""
        kept = [step.instruction.text for step in self.steps if not isinstance(step.action, Run | Copy)]
        return "".join(f"{text}\n" for text in kept)

    @property
    def images(self) -> frozenset[str]:
        """Other images that `Copy` actions take files from."""
        return frozenset(
            step.action.image for step in self.steps if isinstance(step.action, Copy) and step.action.image
        )

    @property
    def environment(self) -> Mapping[str, str]:
        """What the last RUN step sees."""
        return next((step.action.env for step in reversed(self.steps) if isinstance(step.action, Run)), {})


def make(source: Dockerfile, base: Mapping[str, Any], build_args: Mapping[str, str]) -> Plan | None:
    """The plan on top of an image whose docker settings are `base`; None when there is none, or nothing to run or copy."""
    stage = source.final
    if len(source.stages) != 1 or stage.source.flags or stage.image == "scratch":
        return None
    if (
        (base.get("User") or "root") not in ("root", "0", "0:0", "root:root")
        or base.get("OnBuild")
        or base.get("Volumes")
    ):
        return None
    maker = _Maker(base, build_args)
    for instruction in stage.instructions:
        action = maker.action(instruction)
        if action is None:
            return None
        maker.plan.steps.append(Step(instruction, action))
    useful = any(isinstance(step.action, Run | Copy) for step in maker.plan.steps)
    return maker.plan if useful else None


class _Maker:
    """Follows the instructions: what the environment, the directory and the shell are at each of them."""

    def __init__(self, base: Mapping[str, Any], build_args: Mapping[str, str]) -> None:
        self.plan = Plan()
        self._env = dict(entry.partition("=")[::2] for entry in base.get("Env") or ())
        self._arguments: dict[str, str] = {}
        self._build_args = build_args
        self._cwd = base.get("WorkingDir") or "/"
        self._shell = tuple(base.get("Shell") or ("/bin/sh", "-c"))

    def action(self, instruction: Instruction) -> Action | None:
        """None when the instruction is beyond this module."""
        keyword, value = instruction.keyword, instruction.value
        if keyword == "RUN":
            return self._run(instruction)
        if keyword == "COPY":
            return self._copy(instruction)
        if keyword == "ENV":
            self._env |= assignments(value, self._values)
        elif keyword == "ARG":
            return self._argument(value)
        elif keyword == "WORKDIR":
            self._cwd = posixpath.normpath(posixpath.join(self._cwd, " ".join(words(value, self._values))))
            return MakeDirectory(self._cwd)
        elif keyword == "SHELL":
            shell = _json_words(value)
            if not shell:
                return None
            self._shell = shell
        elif keyword not in _SETTINGS:
            return None
        return Setting()

    @property
    def _values(self) -> dict[str, str]:
        return self._arguments | self._env

    def _run(self, instruction: Instruction) -> Run | None:
        if instruction.flags:
            return None
        text = instruction.arguments
        argv: tuple[str, ...]
        if instruction.heredocs:
            name = f"step-{len(self.plan.scripts)}"
            self.plan.scripts[name] = script = heredoc_script(instruction)
            argv = (*self._shell, f"{'' if script.startswith('#!') else '. '}{INSIDE}/{name}")
        else:
            argv = _json_words(text) or (*self._shell, text)
        env = {"PATH": _DEFAULT_PATH, "HOME": "/root", **self._values}
        return Run(argv, env, self._cwd)

    def _copy(self, instruction: Instruction) -> Copy | None:
        image = ""
        for flag in instruction.flags:
            if not (match := _UV.match(flag)):
                return None
            image = match.group(1)
        paths = _json_words(instruction.arguments)
        paths = tuple(expand(path, self._values) for path in paths or instruction.arguments.split())
        if instruction.heredocs or len(paths) < 2 or any(set(path) & set("*?[\"'\\") for path in paths):
            return None
        *items, target = paths
        if image and items != ["/uv"]:
            return None
        inside = tuple(posixpath.normpath(f"/{item}").lstrip("/") or "." for item in items)
        whole = posixpath.join(self._cwd, target)
        return Copy(inside, whole, image)

    def _argument(self, value: str) -> Setting | None:
        for word in words(value, self._values):
            name, separator, default = word.partition("=")
            if name in self._build_args:
                self._arguments[name] = self._build_args[name]
            elif separator:
                self._arguments[name] = default
            elif name.lower().endswith("_proxy"):
                return None
        return Setting()


def _json_words(value: str) -> tuple[str, ...]:
    """The words of the JSON form, empty for the other form."""
    if not value.lstrip().startswith("["):
        return ()
    try:
        parsed = json.loads(value)
    except ValueError:
        return ()
    return tuple(parsed) if isinstance(parsed, list) and all(isinstance(word, str) for word in parsed) else ()
