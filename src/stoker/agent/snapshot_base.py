"""The program that is saved as the base of an image: imports the client, says so, and after a restore becomes the container it is told to be.

Runs on the image's own Python and is free of dependencies. Until it is told, nothing of any function may touch it: no environment, no
arguments, no directory of user code on the path.
"""

from __future__ import annotations

import os
import sys
import time

TYPE_CHECKING = False  # without an import of `typing`, as in the program it stands for
if TYPE_CHECKING:
    from typing import Any

READY = "stoker: the base is ready"
TASK = "/__modal/task/base.json"
_ENTRYPOINT = "modal._container_entrypoint"


def load() -> None:
    """Imports what every container of a function imports before it reads its arguments."""
    import importlib
    from contextlib import suppress

    importlib.import_module(_ENTRYPOINT)
    with suppress(ImportError):
        importlib.import_module("cbor2")  # what the client imports with its first input, if it has it
    del sys.modules[_ENTRYPOINT]  # runs as the main module later


def wait() -> dict[str, Any]:
    """What this container shall be: {"env": its whole environment, "directory": where it starts}."""
    import json

    while not os.path.exists(TASK):
        time.sleep(0.005)
    with open(TASK, encoding="utf-8") as file:
        task: dict[str, Any] = json.load(file)
        return task


def become(task: dict[str, Any]) -> None:
    """This process is as one that was started with the environment, as `python -m modal._container_entrypoint`."""
    import importlib
    import random
    import runpy

    env = task["env"]
    for name in set(os.environ) - set(env):
        del os.environ[name]
    os.environ.update(env)
    time.tzset()
    os.chdir(task["directory"])
    # As Python itself makes it: the directory for `-m`, then PYTHONPATH, then its own.
    own = [path for path in sys.path if path not in _given_paths]
    sys.path[:] = [os.getcwd(), *env.get("PYTHONPATH", "").split(":"), *own]
    sys.dont_write_bytecode = bool(env.get("PYTHONDONTWRITEBYTECODE"))
    importlib.invalidate_caches()
    random.seed()
    if "ssl" in sys.modules:
        sys.modules["ssl"].RAND_add(os.urandom(48), 48.0)
    sys.argv = ["-m"]
    runpy.run_module(_ENTRYPOINT, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    _given_paths = {os.path.dirname(os.path.abspath(__file__)), *os.environ.get("PYTHONPATH", "").split(":")}
    sys.dont_write_bytecode = True
    load()
    print(READY, flush=True)
    become(wait())
