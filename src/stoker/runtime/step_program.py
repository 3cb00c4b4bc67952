"""Starts one command of a build in an OCI runtime. A program of its own, run as root:

    python -I -S step_program.py JOB

It must be the first process of a mount and a process namespace of its own: all that it mounts and starts ends with it. JOB is a JSON file (see
`Job`), which is removed at once, since it may hold secrets. What went wrong before the command ran is written to JOB.failed and ends the
program with 125; else it exits as the command did (128 + n for signal n).

Nothing of the image is run here; that is the business of the OCI runtime."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any, TypedDict

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))

from stoker.runtime import linux
from stoker.runtime.accounts import account
from stoker.runtime.chroot import Refused, in_root, make_directories, mount_point, remove_empty

NOT_STARTED = 125
_HELD = "/tmp/.stoker-step"
"""gVisor mounts memory at /tmp when that is empty."""


class Mount(TypedDict):
    """`layers` (uppermost first; a single one may be a file) appear at `target`; none: memory. `inside`: the path in them that does.

    access: "ro", "rw", or "scratch", which may be written to and loses that."""

    target: str
    layers: list[str]
    inside: str
    access: str


class Job(TypedDict):
    """`place` is a directory that everybody can pass through, for the mounts. `layers` (uppermost first) with `directory`/upper on top are
    "/"; `directory`/overlay and `directory`/scratch are room on the same file system.

    config: that of the OCI runtime, without the root, what is mounted from the host, and the numbers of the user. command: the
    runtime, to which the bundle's directory and `name` are added. user: "name:group" or numbers, empty for root. first_user: where the users of the command begin
    on the host; None: they are the host's, and the runtime takes care of that."""

    place: str
    directory: str
    layers: list[str]
    mounts: list[Mount]
    config: dict[str, Any]
    command: list[str]
    name: str
    user: str
    cwd: str
    first_user: int | None


def main(path: str) -> int:
    with open(path) as file:
        job: Job = json.load(file)
    os.unlink(path)
    os.umask(0o022)
    try:
        return _Step(job).run()
    except (OSError, Refused) as error:
        with open(f"{path}.failed", "w") as file:
            file.write(str(error))
        return NOT_STARTED


class _Step:
    def __init__(self, job: Job) -> None:
        self._job = job
        self._place = job["place"]
        self._owner = job["first_user"] or 0
        self._namespace = -1
        self._clones = 0
        self._made: list[str] = []

    def run(self) -> int:
        job = self._job
        linux.mount("tmpfs", self._place, "tmpfs", linux.MS_NODEV, "mode=755")
        if job["first_user"] is not None:
            self._namespace = linux.user_namespace(job["first_user"], 65536)
        below = [self._clone(layer) for layer in job["layers"]]
        root = self._overlay(below, self._clone(job["directory"]))
        try:
            self._prepare(root)
            code = subprocess.call([*job["command"], f"--bundle={self._bundle(root)}", job["name"]])
            return code if code >= 0 else 128 - code
        finally:
            in_root(root, lambda: remove_empty(self._made), owner=self._owner)

    def _prepare(self, root: str) -> None:
        job, config = self._job, self._job["config"]
        places = [mount["destination"] for mount in config["mounts"]]
        for place in places:
            if not any(place.startswith(f"{other}/") for other in places):
                self._mount_point(root, place, is_file=False)
        for wanted in job["mounts"]:
            config["mounts"].append(self._mount(root, wanted))
        if job["first_user"] is None:
            self._mount_point(root, _HELD, is_file=False)
        in_root(root, lambda: make_directories(job["cwd"]) and None, owner=self._owner)
        config["process"] |= in_root(root, lambda: _process(config["process"], job["user"]))

    def _bundle(self, root: str) -> str:
        bundle = f"{self._place}/bundle"
        os.mkdir(bundle)
        self._job["config"]["root"] = {"path": root, "readonly": False}
        # Not readable by others: it holds the secrets.
        with open(os.open(f"{bundle}/config.json", os.O_CREAT | os.O_WRONLY, 0o600), "w") as file:
            json.dump(self._job["config"], file)
        return bundle

    def _mount(self, root: str, wanted: Mount) -> dict[str, Any]:
        """The OCI runtime's entry for a mount."""
        if not wanted["layers"]:
            target = self._mount_point(root, wanted["target"], is_file=False)
            return {"destination": target, "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "nodev"]}
        source = self._source(wanted)
        target = self._mount_point(root, wanted["target"], is_file=not os.path.isdir(source))
        options = ["rbind", "ro" if wanted["access"] == "ro" else "rw", "nosuid", "nodev"]
        return {"destination": target, "type": "bind", "source": source, "options": options}

    def _source(self, wanted: Mount) -> str:
        layers = [self._clone(layer) for layer in wanted["layers"]]
        source = layers[0] if len(layers) == 1 else self._overlay(layers)
        if wanted["inside"]:
            directory = os.open(source, os.O_PATH | os.O_DIRECTORY)
            held = linux.open_in(directory, wanted["inside"])
            source = self._new_place(is_file=not os.path.isdir(f"/proc/self/fd/{held}"))
            linux.mount(f"/proc/self/fd/{held}", source, flags=linux.MS_BIND)
        if wanted["access"] == "scratch" and os.path.isdir(source):
            room = f"{self._job['directory']}/scratch/{self._clones}"
            for name in ("upper", "overlay"):
                os.makedirs(f"{room}/{name}")
            return self._overlay([source], self._clone(room))
        return source

    def _clone(self, source: str) -> str:
        """Where `source` appears as the command's users are to see it."""
        target = self._new_place(is_file=not os.path.isdir(source))
        linux.clone_mount(source, target, self._namespace)
        return target

    def _overlay(self, layers: list[str], room: str = "") -> str:
        """Where `layers` (uppermost first) lie on each other, below `room`/upper when there is one."""
        target = self._new_place(is_file=False)
        # The layer must mean the same wherever it is mounted later: no references from one layer into another.
        options = "index=off,redirect_dir=off,metacopy=off"
        if room:
            options += f",upperdir={room}/upper,workdir={room}/overlay"
        elif len(layers) == 1:
            layers = [*layers, self._new_place(is_file=False)]
        # Short names relative to the working directory: all must fit into one page.
        os.chdir(self._place)
        below = ":".join(os.path.relpath(layer, self._place) for layer in layers)
        with linux.owning_as(self._owner):
            linux.mount("overlay", target, "overlay", linux.MS_NODEV, f"lowerdir={below},{options}")
        return target

    def _new_place(self, *, is_file: bool) -> str:
        self._clones += 1
        path = f"{self._place}/{self._clones}"
        if is_file:
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        else:
            os.mkdir(path)
        return path

    def _mount_point(self, root: str, target: str, *, is_file: bool) -> str:
        """The path of `target` inside, without links; adds what had to be made for it to what goes later."""
        real, new = in_root(root, lambda: mount_point(target, is_file), owner=self._owner)
        self._made += new
        return str(real)


def _process(process: dict[str, Any], user: str) -> dict[str, Any]:
    """In a root: what the OCI runtime must know of the user."""
    found = account(user or "0")
    env = process["env"]
    if not any(entry.startswith("HOME=") for entry in env):
        env = [*env, f"HOME={found.home}"]
    return {"user": {"uid": found.uid, "gid": found.gid, "additionalGids": found.others}, "env": env}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
