"""One step of a build, inside the file system that the layers below and the new layer form. A program of its own.

    python -I -S inside.py JOB

runs as the first process of an own mount and process namespace, in a directory of links 0, 1, ... to the layers below. JOB is a JSON
file (removed at once, since it may hold secrets) with `root` (an empty directory), `layers` (their number), `upper` and `work` (the
new layer), and what to do:

  - `run`: `argv` with exactly `env` in the directory `cwd`, with `binds` ([host path, path inside, writable]) mounted meanwhile;
  - `copy`: `items` ([host directory, path in it]) to `target`, with docker's rules for COPY; everything belongs to root;
  - `mkdir`: the directory `target`.

It exits with the code of the command (128 + n for signal n). Mount points that had to be made are removed again. Nothing here may
import the package: the interpreter starts without it.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import stat
import sys
from collections.abc import Callable
from typing import Any

_MS_RDONLY, _MS_NOSUID, _MS_NODEV, _MS_NOEXEC = 1, 2, 4, 8
_MS_REMOUNT, _MS_BIND, _MS_REC, _MNT_DETACH = 32, 4096, 16384, 2
_PR_CAPBSET_DROP = 24
_KEPT_CAPABILITIES = {0, 1, 3, 4, 5, 6, 7, 8, 10, 13, 18, 27, 29, 31}
"""What docker leaves to root: chown, dac_override, fowner, fsetid, kill, setgid, setuid, setpcap, net_bind_service, net_raw,
sys_chroot, mknod, audit_write, setfcap."""

_libc = ctypes.CDLL(None, use_errno=True)


def main(path: str) -> int:
    with open(path) as file:
        job = json.load(file)
    os.unlink(path)
    os.umask(0o022)
    root = job["root"]
    below = ":".join(str(index) for index in range(job["layers"]))
    # The layer must mean the same wherever it is mounted later: no references from one layer into another.
    options = f"lowerdir={below},upperdir={job['upper']},workdir={job['work']},index=off,redirect_dir=off,metacopy=off"
    _mount("overlay", root, "overlay", 0, options)
    if job["do"] == "copy":
        sources = [(os.open(directory, os.O_RDONLY | os.O_DIRECTORY), item) for directory, item in job["items"]]
        return int(_in_root(root, lambda: _copy(sources, job["target"])))
    if job["do"] == "mkdir":
        return int(_in_root(root, lambda: len(_missing(job["target"])) * 0))
    return _run(root, job)


def _run(root: str, job: dict[str, Any]) -> int:
    binds: list[tuple[str, str, bool]] = [("/dev", "/dev", True), ("/sys", "/sys", False)]
    binds += [(path, path, False) for path in ("/etc/resolv.conf", "/etc/hosts") if os.path.exists(path)]
    binds += [(source, target, writable) for source, target, writable in job["binds"]]
    made: list[str] = []
    mounted: list[str] = []
    place = _prepare(root, "/proc", False, made)
    mounted.append(place)
    _mount("proc", place, "proc", _MS_NOSUID | _MS_NODEV | _MS_NOEXEC)
    for source, target, writable in binds:
        place = _prepare(root, target, os.path.isfile(source), made)
        mounted.append(place)
        _mount(source, place, "", _MS_BIND | (_MS_REC if source == "/dev" else 0))
        if not writable:
            _mount("", place, "", _MS_REMOUNT | _MS_BIND | _MS_RDONLY)
    code = _wait(_start(root, job))
    for place in reversed(mounted):
        _libc.umount2(place.encode(), _MNT_DETACH)
    _in_root(root, lambda: _remove_empty(made))
    return code


def _prepare(root: str, target: str, is_file: bool, made: list[str]) -> str:
    """The host path of the mount point `target`; adds what had to be made for it to `made`."""
    real, new = _in_root(root, lambda: _mount_point(target, is_file))
    made += new
    return f"{root}{real}"


def _start(root: str, job: dict[str, Any]) -> int:
    child = os.fork()
    if child:
        return child
    code = 127
    try:
        os.setsid()
        os.chroot(root)
        os.makedirs(job["cwd"], exist_ok=True)
        os.chdir(job["cwd"])
        for number in (signal.SIGPIPE, signal.SIGXFSZ):
            signal.signal(number, signal.SIG_DFL)
        for capability in set(range(64)) - _KEPT_CAPABILITIES:
            _libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0)
        os.execvpe(job["argv"][0], job["argv"], job["env"])
    except FileNotFoundError:
        os.write(2, f"{job['argv'][0]}: not found in the image\n".encode())
    except OSError as error:
        os.write(2, f"{job['argv'][0]}: {error.strerror}\n".encode())
        code = 126
    finally:
        os._exit(code)


def _wait(child: int) -> int:
    # As the first process of the namespace this one also inherits what the command leaves running; it ends with us.
    while True:
        pid, status = os.wait()
        if pid == child:
            code = os.waitstatus_to_exitcode(status)
            return code if code >= 0 else 128 - code


def _in_root(root: str, work: Callable[[], Any]) -> Any:
    """What `work` returns in a child whose "/" is `root`: links of the image can then lead nowhere else."""
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        code = 1
        try:
            os.chroot(root)
            os.chdir("/")
            os.write(writer, json.dumps(work()).encode())
            code = 0
        except OSError as error:
            os.write(2, f"{error.filename or ''}: {error.strerror}\n".lstrip(": ").encode())
        finally:
            os._exit(code)
    os.close(writer)
    with open(reader, "rb") as file:
        answer = file.read()
    _, status = os.waitpid(child, 0)
    if status:
        sys.exit(1)
    return json.loads(answer)


def _mount_point(target: str, is_file: bool) -> tuple[str, list[str]]:
    """(`target` without links, what had to be made for it)."""
    real = os.path.realpath(target)
    if os.path.exists(real):
        return real, []
    if not is_file:
        return real, _missing(real)
    made = _missing(os.path.dirname(real))
    os.close(os.open(real, os.O_CREAT | os.O_WRONLY, 0o644))
    return real, [*made, real]


def _missing(directory: str) -> list[str]:
    """Makes `directory` and returns what did not exist, outermost first."""
    made: list[str] = []
    directory = os.path.realpath(directory)
    while directory not in ("", "/") and not os.path.isdir(directory):
        made.insert(0, directory)
        directory = os.path.dirname(directory)
    for path in made:
        os.mkdir(path, 0o755)
    return made


def _remove_empty(paths: list[str]) -> int:
    for path in reversed(paths):
        try:
            if os.path.isdir(path):
                os.rmdir(path)
            elif os.path.getsize(path) == 0:
                os.unlink(path)
        except OSError:
            pass  # the step put something there
    return 0


def _copy(sources: list[tuple[int, str]], target: str) -> int:
    into = target.endswith(("/", "/.")) or len(sources) > 1 or os.path.isdir(target)
    for directory, item in sources:
        try:
            mode = os.stat(item, dir_fd=directory).st_mode
        except OSError:
            os.write(2, f"{item}: no such file or directory in the build context\n".encode())
            return 1
        if stat.S_ISDIR(mode):
            _missing(os.path.normpath(target))
            _copy_tree(os.open(item, os.O_RDONLY | os.O_DIRECTORY, dir_fd=directory), target)
            continue
        path = os.path.join(target, os.path.basename(item)) if into else target
        _missing(os.path.dirname(os.path.normpath(path)))
        _copy_file(directory, item, path)
    return 0


def _copy_tree(directory: int, target: str) -> None:
    for name in sorted(os.listdir(directory)):
        path = os.path.join(target, name)
        info = os.stat(name, dir_fd=directory, follow_symlinks=False)
        if stat.S_ISDIR(info.st_mode):
            if not os.path.isdir(path):
                if os.path.lexists(path):
                    os.unlink(path)
                os.mkdir(path)
                os.chmod(path, stat.S_IMODE(info.st_mode))
            inner = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=directory)
            _copy_tree(inner, path)
        elif stat.S_ISLNK(info.st_mode):
            _make_way(path)
            os.symlink(os.readlink(name, dir_fd=directory), path)
        elif stat.S_ISREG(info.st_mode):
            _copy_file(directory, name, path)
    os.close(directory)


def _copy_file(directory: int, name: str, path: str) -> None:
    _make_way(path)
    with (
        open(os.open(name, os.O_RDONLY, dir_fd=directory), "rb", buffering=0) as source,
        open(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "wb", buffering=0) as target,
    ):
        info = os.fstat(source.fileno())
        while os.sendfile(target.fileno(), source.fileno(), None, 1 << 30):
            pass
        os.fchmod(target.fileno(), stat.S_IMODE(info.st_mode))
        os.utime(target.fileno(), ns=(info.st_mtime_ns, info.st_mtime_ns))


def _make_way(path: str) -> None:
    if os.path.lexists(path) and (os.path.islink(path) or not os.path.isdir(path)):
        os.unlink(path)


def _mount(source: str, target: str, kind: str, flags: int, options: str = "") -> None:
    if _libc.mount(source.encode(), target.encode(), kind.encode(), flags, options.encode() or None):
        number = ctypes.get_errno()
        raise OSError(number, f"mounting {source} failed: {os.strerror(number)}", target)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
