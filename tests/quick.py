"""Which tests are quick: those that start no process, so that they need no root, no image, no sandbox and no server of their own.

Nobody keeps a list. Whether a test can start one is read from its code, that of its fixtures, and that of all they call in `tests`. What is found
neither way (Stoker's own code starts processes, too) is caught when it happens: `pytest -m quick` lets no process start.
"""

from __future__ import annotations

import asyncio
import inspect
import os
import sys
import types
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest

from stoker.runtime.process import ProcessRuntime
from stoker.runtime.runsc import RunscRuntime

_STARTERS: tuple[Any, ...] = (
    ProcessRuntime,
    RunscRuntime,
    asyncio.create_subprocess_exec,
    asyncio.create_subprocess_shell,
    anyio.run_process,
    anyio.open_process,
    pytest.FixtureRequest.getfixturevalue,
    os.fork,
    os.posix_spawn,
    os.system,
    os.execv,
)
_TESTS = Path(__file__).parent
_MODULES = ("subprocess", "multiprocessing", "pty")
_EVENTS = {
    "subprocess.Popen",
    "os.fork",
    "os.forkpty",
    "os.posix_spawn",
    "os.spawn",
    "os.system",
    "os.exec",
    "pty.spawn",
}
_SLOW_MARKS = ("e2e", "matrix", "processes")


class Selection:
    """Says of tests whether they are quick. Remembers what it has read."""

    def __init__(self) -> None:
        self._starts: dict[int, bool] = {}
        self._read: list[Any] = []  # keeps what `_starts` knows by identity

    def is_quick(self, item: pytest.Item) -> bool:
        if any(item.get_closest_marker(mark) for mark in _SLOW_MARKS):
            return False
        code = [getattr(item, "obj", None), getattr(item, "cls", None), *_fixtures(item)]
        return not any(self.starts_processes(each) for each in code)

    def starts_processes(self, thing: Any) -> bool:
        """Whether what a function, class or module of the tests refers to can start a process."""
        known = self._starts.get(id(thing))
        if known is None:
            self._starts[id(thing)] = False  # for what refers to itself
            self._read.append(thing)
            known = self._starts[id(thing)] = any(
                _is_starter(each) or (_is_ours(each) and self.starts_processes(each)) for each in _references(thing)
            )
        return known


@contextmanager
def no_processes() -> Iterator[None]:
    """Whatever starts a process meanwhile fails."""
    _guard.on = True
    try:
        yield
    finally:
        _guard.on = False


class _Guard:
    """An audit hook. It cannot be taken away again, so it is installed at its first use."""

    def __init__(self) -> None:
        self._installed = self._on = False

    @property
    def on(self) -> bool:
        return self._on

    @on.setter
    def on(self, on: bool) -> None:
        self._on = on
        if on and not self._installed:
            self._installed = True
            sys.addaudithook(self._hear)

    def _hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self._on and event in _EVENTS:
            raise RuntimeError(f"a quick test starts a process ({event}). Mark it with `pytest.mark.processes`")


_guard = _Guard()


def _fixtures(item: pytest.Item) -> Iterator[Any]:
    """The functions of a test's fixtures, found where pytest finds them: in its module, and in the conftest of each folder above."""
    above = list(item.path.parents)
    conftests = [
        (above.index(Path(file).parent), plugin)
        for plugin in item.config.pluginmanager.get_plugins()
        if (file := getattr(plugin, "__file__", None))
        and Path(file).name == "conftest.py"
        and Path(file).parent in above
    ]
    places = [getattr(item, "module", None), *(plugin for _, plugin in sorted(conftests, key=lambda pair: pair[0]))]
    for name in getattr(item, "fixturenames", ()):
        fixture = next((vars(place)[name] for place in places if place is not None and name in vars(place)), None)
        if fixture is not None:
            yield inspect.unwrap(fixture)


def _is_starter(thing: Any) -> bool:
    return _module_of(thing).partition(".")[0] in _MODULES or any(thing is starter for starter in _STARTERS)


def _is_ours(thing: Any) -> bool:
    """Whether something was written in the tests."""
    file = getattr(sys.modules.get(_module_of(thing)), "__file__", None)
    return file is not None and _TESTS in Path(file).parents


def _module_of(thing: Any) -> str:
    name = thing.__name__ if isinstance(thing, types.ModuleType) else getattr(thing, "__module__", None)
    return name if isinstance(name, str) else ""


def _references(thing: Any) -> Iterator[Any]:
    """The values of the global names in the code of a function, or of all functions of a class. Of a module that is named, those of its attributes
    that the code names, too."""
    if isinstance(thing, type):
        for base in thing.__mro__:
            if _is_ours(base):
                for value in vars(base).values():
                    yield from _references(getattr(value, "fget", None) or value)
        return
    function = (
        inspect.unwrap(getattr(thing, "__func__", thing)) if callable(thing) or hasattr(thing, "__func__") else thing
    )
    if not isinstance(function, types.FunctionType):
        return
    names = set(_names(function.__code__))
    if "getfixturevalue" in names:
        yield pytest.FixtureRequest.getfixturevalue  # of which fixture, only the run shows
    for name in names:
        value = function.__globals__.get(name, sys.modules.get(name) if name in _MODULES else None)
        if isinstance(value, types.ModuleType):
            yield value
            for attribute in names & vars(value).keys():
                yield vars(value)[attribute]
        elif value is not None:
            yield inspect.unwrap(value) if callable(value) else value


def _names(code: types.CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _names(constant)
