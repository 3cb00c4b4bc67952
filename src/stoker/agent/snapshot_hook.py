"""Runs in every Python of a container that takes or uses a memory snapshot, before anything else: it is mounted there as `sitecustomize`.

Never imported by the server, and free of dependencies, for it runs on the image's own Python. It gives memory back before the client asks
for the snapshot, and renews after a restore what must differ between containers: the environment and the state of random generators.
Whatever fails here is left as it was: without this file snapshots work, only less well.
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress

TYPE_CHECKING = False  # without an import of `typing`: this adds to the start of every Python
if TYPE_CHECKING:
    from typing import Any

_HERE = os.path.dirname(os.path.abspath(__file__))
_TASK = os.path.join(os.path.dirname(os.environ.get("MODAL_RESTORE_STATE_PATH", "/__modal/task/x")), "snapshot.json")


def _read_task() -> dict[str, Any]:
    """What the node says to this container: {"env": its whole environment, "reseed": whether to reseed}."""
    with suppress(Exception), open(_TASK, encoding="utf-8") as file:
        import json

        task: dict[str, Any] = json.load(file)
        return task
    return {}


def _trim() -> None:
    """Gives unused memory back, which would otherwise be saved and restored."""
    with suppress(Exception):
        import gc

        gc.collect()
        import ctypes

        ctypes.CDLL(None).malloc_trim(0)


def _renew(before: dict[str, Any]) -> None:
    """Called in the restored container (and in the saved one, which goes on). before: what `_read_task` gave before the snapshot."""
    task = _read_task()
    with suppress(Exception):
        # The client takes over capital names with a value only.
        env = task["env"]
        for name in set(before.get("env", ())) - set(env):
            os.environ.pop(name, None)
        os.environ.update(env)
    with suppress(Exception):
        if "ssl" in sys.modules:
            sys.modules["ssl"].RAND_add(os.urandom(48), 48.0)
    if not task.get("reseed"):
        return
    with suppress(Exception):
        sys.modules["random"].seed()
    with suppress(Exception):
        sys.modules["numpy.random"].seed()
    with suppress(Exception):
        sys.modules["torch"].seed()


def _around_maybe_snapshot(module: Any) -> None:
    original = module.maybe_snapshot

    def maybe_snapshot(function_def: Any, *args: Any, **kwargs: Any) -> Any:
        if not function_def.is_checkpointing_function or os.environ.get("MODAL_ENABLE_SNAP_RESTORE") != "1":
            return original(function_def, *args, **kwargs)
        before = _read_task()
        _trim()
        result = original(function_def, *args, **kwargs)
        _renew(before)
        return result

    module.maybe_snapshot = maybe_snapshot


def _around_memory_restore(module: Any) -> None:
    """Clients before 1.6, which have no `maybe_snapshot`."""
    manager = module._ContainerIOManager
    original = manager.memory_restore

    async def memory_restore(self: Any, *args: Any, **kwargs: Any) -> Any:
        before = _read_task()
        result = await original(self, *args, **kwargs)
        _renew(before)
        return result

    manager.memory_restore = memory_restore


_HOOKS = {
    "modal._runtime.user_code_imports": _around_maybe_snapshot,
    "modal._runtime.container_io_manager": _around_memory_restore,
}


class _Finder:
    """Lets the modules of `_HOOKS` load as ever and then changes them."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        hook = _HOOKS.get(name)
        if hook is None:
            return None
        import importlib.machinery

        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        if spec is None or spec.loader is None:
            return None
        loader: Any = spec.loader
        load = loader.exec_module

        def exec_module(module: Any) -> None:
            load(module)
            with suppress(Exception):
                hook(module)

        loader.exec_module = exec_module
        return spec


def _next_sitecustomize() -> None:
    """The `sitecustomize` that this one hides, if there is one."""
    sys.path[:] = [path for path in sys.path if os.path.abspath(path) != _HERE]
    ours = sys.modules.pop("sitecustomize")
    with suppress(ModuleNotFoundError):
        __import__("sitecustomize")
    sys.modules.setdefault("sitecustomize", ours)  # Python complains when there is none after this


def _forget_server() -> None:
    """In a forked child: puts nothing in the place of connections to the server that it inherited. They are its parent's, and a container in
    which one is held cannot be saved. The numbers stay taken, for the child may still close what it thinks they are."""
    with suppress(Exception):
        server = os.environ["MODAL_SERVER_URL"].removeprefix("unix://")
        connections = [number for number in map(int, os.listdir("/proc/self/fd")) if _peer(number) == server]
        if connections:
            nothing = os.open(os.devnull, os.O_RDWR)
            for number in connections:
                os.dup2(nothing, number, inheritable=False)
            os.close(nothing)


def _peer(number: int) -> Any:
    """Where the socket of that number is connected to; None for what is none, or not connected."""
    with suppress(OSError):
        if os.readlink(f"/proc/self/fd/{number}").startswith("socket:"):
            with sys.modules["socket"].socket(fileno=os.dup(number)) as connection:
                return connection.getpeername()
    return None


if __name__ == "sitecustomize":
    os.register_at_fork(after_in_child=_forget_server)
    sys.meta_path.insert(0, _Finder())
    _next_sitecustomize()
