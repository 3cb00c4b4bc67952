"""The basic calls through the unmodified client, in processes and in sandboxes."""

from __future__ import annotations

import pytest

from tests.conftest import RunningServer


@pytest.fixture(params=["process", "runsc"])
def any_server(request: pytest.FixtureRequest) -> RunningServer:
    server: RunningServer = request.getfixturevalue("server" if request.param == "process" else "sandboxes")
    return server


def test_every_kind_of_call(any_server: RunningServer) -> None:
    done = any_server.modal("run", "basics.py", timeout=280)
    assert "all is well" in done.stdout
    assert "caught broken on purpose" in done.stdout
    assert "squaring 7" in done.stdout
    assert "goodbye Ada" in done.stdout
