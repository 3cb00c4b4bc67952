"""Parts of libraries that are not promised to stay, and that are used all the same: they are there in every version that pyproject.toml allows.

hpack is used by what it promises only. `make matrix` tries the oldest and the newest version of each library, and every Python that is at hand.
"""

from __future__ import annotations

import asyncio
import inspect
import os
import subprocess
import sys
from asyncio import unix_events
from importlib.metadata import version
from pathlib import Path

import pytest
import uvicorn
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from uvicorn.server import ServerState

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
REQUIREMENTS = {r.name: r for r in map(Requirement, PROJECT["dependencies"])}

# Of uvicorn, by class: what stoker.gateway calls, reads or overrides beyond what `asyncio.Protocol` has.
_OF_HTTP = {
    "client", "cycle", "flow", "headers", "loop", "parser", "pipeline", "transport", "url",
    "handle_websocket_upgrade", "on_body", "on_header", "on_headers_complete", "on_message_begin", "on_message_complete",
    "on_response_complete", "on_url", "send_400_response", "_should_upgrade", "_start_asgi_task", "_unset_keepalive_if_required",
}  # fmt: skip
_OF_WEBSOCKET = {"client", "conn", "frames", "loop", "read_paused", "transport"}
_OF_CYCLE = {"disconnected", "message_event", "response_complete", "response_started"}

_OF_ASYNCIO = """
import inspect
from asyncio.unix_events import _UnixSubprocessTransport as transport
made = inspect.signature(transport.__init__)
made.bind(*"self loop protocol args shell stdin stdout stderr bufsize".split(), waiter=None, env={})
inspect.signature(transport._process_exited).bind("self", 0)
assert inspect.iscoroutinefunction(transport._wait)
"""


def test_uvicorn_has_them() -> None:
    async def main() -> None:
        config = uvicorn.Config(lambda: None, lifespan="off", log_config=None)
        config.load()
        http = HttpToolsProtocol(config, ServerState(), {})
        http.on_message_begin()
        websocket = WebSocketsSansIOProtocol(config, ServerState(), {})
        websocket.transport = None  # set when it is connected
        assert {name for name in _OF_HTTP if not hasattr(http, name)} == set()
        assert {name for name in _OF_WEBSOCKET if not hasattr(websocket, name)} == set()
        assert list(http.pipeline) == []

    asyncio.run(main())
    # Both ways to the start of a request go through it, or a request to an @app.server would be taken for one of a function.
    start = inspect.signature(HttpToolsProtocol._start_asgi_task)
    assert list(start.parameters) == ["self", "cycle", "app"]
    for caller in (HttpToolsProtocol.on_headers_complete, HttpToolsProtocol.on_response_complete):
        assert "self._start_asgi_task(" in inspect.getsource(caller)
    source = inspect.getsource(RequestResponseCycle)
    assert {name for name in _OF_CYCLE if f"self.{name}" not in source} == set()


def test_asyncio_has_them() -> None:
    assert hasattr(unix_events, "_UnixSubprocessTransport")
    exec(_OF_ASYNCIO, {})


def test_no_version_is_allowed_that_nobody_has_seen() -> None:
    specifier = REQUIREMENTS["uvicorn"].specifier
    assert {"<", ">="} <= {one.operator for one in specifier}
    assert version("uvicorn") in specifier
    pythons = SpecifierSet(PROJECT["requires-python"])
    assert "3.13" in pythons and "3.14" not in pythons  # asyncio's transport of a program is private


@pytest.mark.matrix
@pytest.mark.parametrize("resolution", ["lowest", "highest"])
@pytest.mark.parametrize(
    ("library", "tests"),
    [
        ("uvicorn", ["tests/test_private_parts.py", "-k", "uvicorn_has"]),
        ("hpack", ["tests/protocol/test_rfc9113.py", "tests/protocol/test_transport.py", "-k", "7541 or decode"]),
    ],
)
def test_the_oldest_and_the_newest_version_will_do(
    library: str, tests: list[str], resolution: str, tmp_path: Path
) -> None:
    uv = str(Path(sys.executable).parent / "uv")
    wanted = f"{library}{REQUIREMENTS[library].specifier}"
    install = [uv, "pip", "install", "--quiet", "--no-deps", "--resolution", resolution, "--target", str(tmp_path)]
    subprocess.run([*install, "--python", sys.executable, wanted], check=True)
    env = os.environ | {"PYTHONPATH": str(tmp_path)}
    subprocess.run([sys.executable, "-m", "pytest", "-q", *tests], cwd=ROOT, env=env, check=True)


@pytest.mark.matrix
@pytest.mark.parametrize("number", ["3.10", "3.11", "3.12", "3.13"])
def test_every_python_will_do(number: str) -> None:
    uv = str(Path(sys.executable).parent / "uv")
    found = subprocess.run([uv, "python", "find", number], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    if found.returncode:
        pytest.skip(f"Python {number} is not at hand")
    subprocess.run([found.stdout.strip(), "-c", _OF_ASYNCIO], check=True)
