"""What a stage of a Dockerfile does, step by step, and the settings of the image at its end. Pure: nothing is run or read here."""

from __future__ import annotations

import platform
import posixpath
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from stoker.errors import ImageBuildFailed
from stoker.images.dockerfile import Heredoc, Instruction, Stage, assignments, command, expand, json_words, words
from stoker.nodes.builds import ImageConfig

INSIDE = "/run/stoker"
"""Where a build's own directory appears in RUN steps; never part of the image."""

DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_WITHOUT_EFFECT = frozenset({"LABEL", "EXPOSE", "STOPSIGNAL", "HEALTHCHECK", "MAINTAINER", "VOLUME"})
"""Settings that mean nothing to a function."""
_MODE = re.compile(r"^0?[0-7]{3,4}$")
_SHARING = ("shared", "private", "locked")


@dataclass(frozen=True)
class RunMount:
    """One `--mount` of RUN. `source` is a path in `origin` ("" is the context, else a stage or an image), or what a cache or secret is
    called."""

    kind: Literal["bind", "cache", "tmpfs", "secret"]
    target: str
    source: str = ""
    origin: str = ""
    writable: bool = False
    required: bool = False


@dataclass(frozen=True)
class Run:
    """`argv` with `env` (of the image and of arguments) in `cwd` as `user`."""

    argv: tuple[str, ...]
    env: Mapping[str, str]
    cwd: str
    user: str = ""
    mounts: tuple[RunMount, ...] = ()
    network: bool = True


@dataclass(frozen=True)
class Copy:
    """`items` of `origin` ("" is the context, else a stage or an image) and `documents` to the absolute path `target`.

    `owner` ("user:group") and `mode` are empty for what docker takes by itself. `unpack`: archives are unpacked there. Items
    may be URLs; `checksum` (sha256:...) is that of the only one."""

    items: tuple[str, ...]
    target: str
    origin: str = ""
    owner: str = ""
    mode: str = ""
    unpack: bool = False
    checksum: str = ""
    documents: tuple[Heredoc, ...] = ()


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
    """`scripts` are files that `Run` actions expect in the build's own directory. `config` is the image's in the end, without what is
    found out about its Python."""

    config: ImageConfig
    steps: list[Step] = field(default_factory=list)
    scripts: dict[str, str] = field(default_factory=dict)

    @property
    def changes_files(self) -> bool:
        """Whether there is more than settings."""
        return any(not isinstance(step.action, Setting) for step in self.steps)

    @property
    def runs(self) -> bool:
        return any(isinstance(step.action, Run) for step in self.steps)


def origins(stage: Stage, values: Mapping[str, str]) -> Iterator[str]:
    """The stages and images that the instructions of a stage take files from. Raises ImageBuildFailed."""
    for instruction in stage.instructions:
        for flag in instruction.flags:
            name, _, text = flag.removeprefix("--").partition("=")
            if name == "from":
                yield expand(text, values)
            elif name == "mount" and (mount := _run_mount(instruction, expand(text, values), "/")).origin:
                yield mount.origin


def make(stage: Stage, base: ImageConfig, build_args: Mapping[str, str], arguments: Mapping[str, str]) -> Plan:
    """The plan of `stage` on an image with the settings `base`. arguments: those from before the first FROM.

    Raises ImageBuildFailed for an instruction that is wrong or not offered."""
    maker = _Maker(base, build_args, arguments)
    for instruction in stage.instructions:
        maker.plan.steps.append(Step(instruction, maker.action(instruction)))
    return maker.plan


class _Maker:
    """Follows the instructions: what the environment, the directory, the user and the shell are at each of them."""

    def __init__(self, base: ImageConfig, build_args: Mapping[str, str], arguments: Mapping[str, str]) -> None:
        self.plan = Plan(base)
        self._build_args = build_args
        self._global = {**_platform_arguments(), **arguments}
        self._arguments: dict[str, str] = {}
        self._has_cmd = False

    def action(self, instruction: Instruction) -> Action:
        keyword, value = instruction.keyword, instruction.value
        if keyword == "RUN":
            return self._run(instruction)
        if keyword in ("COPY", "ADD"):
            return self._copy(instruction)
        if keyword == "ENV":
            self._set(env={**self._config.env, **assignments(value, self._values)})
        elif keyword == "ARG":
            self._declare(value)
        elif keyword == "WORKDIR":
            path = posixpath.normpath(posixpath.join(self._cwd, self._one_word(value)))
            self._set(workdir=path)
            return MakeDirectory(path)
        elif keyword == "USER":
            self._set(user=self._one_word(value))
        elif keyword == "SHELL":
            shell = json_words(value)
            if not shell:
                raise _wrong(instruction, 'SHELL takes a list, such as ["/bin/bash", "-c"]')
            self._set(shell=shell)
        elif keyword == "CMD":
            self._has_cmd = True
            self._set(cmd=command(value, self._shell))
        elif keyword == "ENTRYPOINT":
            # A command of the base was meant for its own entrypoint.
            self._set(entrypoint=command(value, self._shell), **({} if self._has_cmd else {"cmd": ()}))
        elif keyword == "ONBUILD":
            raise _wrong(instruction, "ONBUILD is not offered; put its step into the images that need it")
        elif keyword not in _WITHOUT_EFFECT:
            raise _wrong(instruction, f"there is no instruction {keyword}")
        return Setting()

    @property
    def _config(self) -> ImageConfig:
        return self.plan.config

    @property
    def _cwd(self) -> str:
        return self._config.workdir or "/"

    @property
    def _shell(self) -> tuple[str, ...]:
        return self._config.shell or ("/bin/sh", "-c")

    @property
    def _values(self) -> dict[str, str]:
        return self._arguments | self._config.env

    def _set(self, **changes: object) -> None:
        self.plan.config = replace(self._config, **changes)  # type: ignore[arg-type]

    def _one_word(self, value: str) -> str:
        return " ".join(words(value, self._values))

    def _run(self, instruction: Instruction) -> Run:
        mounts, network = [], True
        for name, text in self._flags(instruction):
            if name == "mount":
                mounts.append(_run_mount(instruction, text, self._cwd))
            elif name == "network" and text in ("none", "default"):
                network = text == "default"
            else:
                raise _wrong(instruction, f"--{name}={text} is not offered for RUN; leave it out")
        if instruction.heredocs:
            file = f"step-{len(self.plan.scripts)}"
            self.plan.scripts[file] = script = _heredoc_script(instruction)
            argv = (*self._shell, f"{'' if script.startswith('#!') else '. '}{INSIDE}/{file}")
        else:
            argv = command(instruction.arguments, self._shell)
        env = {"PATH": DEFAULT_PATH, **self._values}
        return Run(argv, env, self._cwd, self._config.user, tuple(mounts), network)

    def _copy(self, instruction: Instruction) -> Copy:
        known = {"chown": "", "chmod": "", "link": ""} | (
            {"from": ""} if instruction.keyword == "COPY" else {"checksum": ""}
        )
        for name, text in self._flags(instruction):
            if name not in known:
                raise _wrong(instruction, f"--{name} is not offered for {instruction.keyword}; leave it out")
            known[name] = text
        if known["chmod"] and not _MODE.match(known["chmod"]):
            raise _wrong(instruction, "--chmod takes an octal number, such as 0755")
        arguments, documents = instruction.arguments, instruction.heredocs
        paths = json_words(arguments)
        if paths is not None:
            paths = tuple(expand(path, self._values) for path in paths)
        else:
            for document in documents:
                arguments = arguments.replace(document.token, "", 1)
            paths = tuple(words(arguments, self._values))
        if len(paths) + len(documents) < 2 or not paths:
            raise _wrong(instruction, "it needs something to copy and a place to copy it to")
        *items, target = paths
        if instruction.keyword == "ADD" and any(_is_git(item) for item in items):
            raise _wrong(instruction, "ADD of a git repository is not offered; use RUN git clone")
        return Copy(
            items=tuple(item if _is_url(item) else item.lstrip("/") or "." for item in items),
            target=posixpath.join(self._cwd, target),
            origin=known.get("from", ""),
            owner=known["chown"],
            mode=known["chmod"],
            unpack=instruction.keyword == "ADD",
            checksum=known.get("checksum", ""),
            documents=documents,
        )

    def _flags(self, instruction: Instruction) -> Iterator[tuple[str, str]]:
        for flag in instruction.flags:
            name, _, text = flag.removeprefix("--").partition("=")
            yield name, expand(text, self._values)

    def _declare(self, value: str) -> None:
        for word in words(value, self._values):
            name, separator, default = word.partition("=")
            if name in self._build_args:
                self._arguments[name] = self._build_args[name]
            elif separator:
                self._arguments[name] = default
            elif name in self._global:
                self._arguments[name] = self._global[name]


def _run_mount(instruction: Instruction, text: str, cwd: str) -> RunMount:
    options = dict(part.partition("=")[::2] for part in text.split(","))
    kind = options.pop("type", "bind")

    def option(*names: str, default: str = "") -> str:
        return next((found for name in names if (found := options.get(name)) is not None), default)

    target = option("target", "dst", "destination")
    target = posixpath.normpath(posixpath.join(cwd, target)) if target else ""
    source = option("source", "src")
    writable = "rw" in options or "readwrite" in options
    if kind == "secret":
        name = option("id") or posixpath.basename(target) or source
        required = option("required", default="false" if "required" not in options else "true") in ("true", "")
        return RunMount("secret", target or f"/run/secrets/{name}", name, required=required)
    if kind not in ("bind", "cache", "tmpfs"):
        raise _wrong(instruction, f"--mount=type={kind} is not offered; a key can come as type=secret")
    if not target:
        raise _wrong(instruction, "a --mount needs a target")
    if kind == "bind":
        return RunMount("bind", target, source or "/", option("from"), writable)
    if kind == "cache":
        if option("sharing", default="shared") not in _SHARING:
            raise _wrong(instruction, f"sharing is one of {', '.join(_SHARING)}")
        return RunMount("cache", target, option("id", default=target), writable=True)
    return RunMount("tmpfs", target, writable=True)


def _heredoc_script(instruction: Instruction) -> str:
    """A RUN step with here-documents as the text of a script."""
    first = instruction.heredocs[0]
    if instruction.arguments == first.token:
        return first.body
    documents = (f"{heredoc.body}{heredoc.name}\n" for heredoc in instruction.heredocs)
    return "".join((instruction.arguments, "\n", *documents))


def _platform_arguments() -> dict[str, str]:
    machine = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
    return {
        f"{side}{name}": value
        for side in ("BUILD", "TARGET")
        for name, value in {"PLATFORM": f"linux/{machine}", "OS": "linux", "ARCH": machine, "VARIANT": ""}.items()
    }


def _is_url(item: str) -> bool:
    return item.startswith(("http://", "https://"))


def _is_git(item: str) -> bool:
    return item.startswith(("git@", "git://", "ssh://")) or (_is_url(item) and item.partition("#")[0].endswith(".git"))


def _wrong(instruction: Instruction, why: str) -> ImageBuildFailed:
    return ImageBuildFailed(f"`{instruction.keyword} {instruction.value}` cannot be carried out: {why}.")
