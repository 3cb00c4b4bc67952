"""The server's own log shows where something failed, and never the values that were at hand."""

from __future__ import annotations

import subprocess
import sys

import pytest

_PROGRAM = """
import structlog
from stoker.cli.log import configure_logging
from stoker.config import Settings

configure_logging(Settings(log_format=FORMAT))

def fail(secret):
    request = {"password": secret}
    raise ValueError("it broke")

try:
    fail("hunter" + "2")
except ValueError:
    structlog.get_logger("test").exception("rpc failed")
"""


@pytest.mark.parametrize("form", ["pretty", "json"])
def test_a_traceback_shows_no_values(form: str) -> None:
    program = _PROGRAM.replace("FORMAT", repr(form))
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "it broke" in done.stderr and "in fail" in done.stderr
    assert "hunter2" not in done.stderr
