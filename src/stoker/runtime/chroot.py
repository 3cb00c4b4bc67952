"""Work in a child process whose "/" is another directory, so that links in there can lead nowhere else.

No program of that directory is ever run here, and no Python module of it imported."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from typing import Any

from stoker.runtime import linux


class Refused(Exception):
    """What was to be done in there cannot be done; the sentence is for the user."""


def in_root(root: str, work: Callable[[], Any], *, owner: int = 0) -> Any:
    """What `work` returns (JSON) in a child that is chrooted to `root`. Raises Refused with what an OSError or Refused said.

    owner: the user and group to whom belongs what it makes."""
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        answer: dict[str, Any] = {"refused": "it ended early"}
        try:
            os.close(reader)
            sys.meta_path.clear()  # the modules of the new root are not ours
            os.chroot(root)
            os.chdir("/")
            with linux.owning_as(owner):
                answer = {"result": work()}
        except OSError as error:
            answer = {"refused": f"{error.filename or ''}: {error.strerror}".lstrip(": ")}
        except Refused as error:
            answer = {"refused": str(error)}
        except BaseException as error:
            answer = {"refused": f"{type(error).__name__}: {error}"}
        finally:
            try:
                _write(writer, json.dumps(answer).encode())
            finally:
                os._exit(0)
    os.close(writer)
    with open(reader, "rb") as file:
        text = file.read()
    os.waitpid(child, 0)
    answer = json.loads(text or b'{"refused": "it was killed"}')
    if "refused" in answer:
        raise Refused(answer["refused"])
    return answer["result"]


def mount_point(target: str, is_file: bool) -> tuple[str, list[str]]:
    """In a root: (`target` without links, what had to be made for it)."""
    real = os.path.realpath(target)
    if os.path.exists(real):
        return real, []
    if not is_file:
        return real, make_directories(real)
    made = make_directories(os.path.dirname(real))
    os.close(os.open(real, os.O_CREAT | os.O_WRONLY, 0o644))
    return real, [*made, real]


def make_directories(directory: str) -> list[str]:
    """In a root: makes `directory` and returns what did not exist, outermost first."""
    made: list[str] = []
    directory = os.path.realpath(directory)
    while directory not in ("", "/") and not os.path.isdir(directory):
        made.insert(0, directory)
        directory = os.path.dirname(directory)
    for path in made:
        os.mkdir(path, 0o755)
    return made


def remove_empty(paths: list[str]) -> None:
    """In a root: removes of `paths` (outermost first) what is still empty."""
    for path in reversed(paths):
        try:
            if os.path.isdir(path):
                os.rmdir(path)
            elif os.path.getsize(path) == 0:
                os.unlink(path)
        except OSError:
            pass  # somebody put something there


def _write(descriptor: int, data: bytes) -> None:
    while data:
        data = data[os.write(descriptor, data) :]
