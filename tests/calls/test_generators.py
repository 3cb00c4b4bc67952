"""Generators with the official client: what was yielded comes, also before an error, and a slow caller fills no memory."""

from __future__ import annotations

import subprocess
import sys
import time

import psutil
import pytest

from tests.conftest import RunningServer

MIB = 1 << 20


@pytest.fixture(scope="module")
def generators(server: RunningServer) -> RunningServer:
    server.modal("deploy", "generators.py")
    return server


BREAKS = """
import asyncio, modal

async def received(name, count, size):
    got = []
    try:
        async for item in modal.Function.from_name("generators", name).remote_gen.aio(count, size):
            got.append(item if isinstance(item, int) else len(item))
    except ValueError as error:
        return got, str(error)

async def main():
    for name in ("breaks", "breaks_async"):
        # The last item travels with the answer, in a blob, or fills the windows of the connection.
        for count, size in ((1, 1), (3, 100), (50, 2_000), (2, 3_000_000), (20, 1_500_000), (5, 20_000_000)):
            results = await asyncio.gather(*(received(name, count, size) for _ in range(10 if size < 10_000_000 else 2)))
            for result in results:
                assert result == ([*range(count - 1), size], f"after {count} items"), (name, count, size, result)
    relay = modal.Function.from_name("generators", "relay")
    assert await asyncio.gather(*(relay.remote.aio(3, 3_000_000) for _ in range(5))) == [(3, "after 3 items")] * 5

asyncio.run(main())
print("all came")
"""


def test_what_was_yielded_before_an_error_comes(generators: RunningServer) -> None:
    assert "all came" in generators.python(BREAKS, timeout=280).stdout


SLOW = """
import sys, modal
received = 0
for number, data in modal.Function.from_name("generators", "much").remote_gen(500, 1 << 20):
    assert number == received and len(data) == 1 << 20
    received += 1
    if received in (5, 100):
        print("it stops reading", flush=True)
        sys.stdin.readline()
print(received)
"""


def test_a_slow_caller_fills_no_memory(generators: RunningServer) -> None:
    """500 MB are yielded as fast as they can be, while the caller has stopped reading, and then reads on."""
    process = psutil.Process(generators.pid)
    generators.python(SLOW.replace("500", "30").replace("(5, 100)", "()"))  # what the server needs for it at all
    before = most = process.memory_info().rss
    with subprocess.Popen(
        [sys.executable, "-c", SLOW], env=generators.env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as caller:
        assert caller.stdin is not None and caller.stdout is not None
        for _ in range(2):
            assert caller.stdout.readline() == "it stops reading\n"
            most = max(most, _settled(process))
            caller.stdin.write("go on\n")
            caller.stdin.flush()
        while caller.poll() is None:
            most = max(most, process.memory_info().rss)
            time.sleep(0.05)
        assert caller.stdout.read() == "500\n"
    assert most - before < 120 * MIB, f"the server grew by {(most - before) // MIB} MiB"


def _settled(process: psutil.Process) -> int:
    """The memory of a process when that grows no more: its maximum until then."""
    most, since = process.memory_info().rss, time.monotonic()
    while time.monotonic() - since < 3.0:
        time.sleep(0.1)
        now = process.memory_info().rss
        if now > most + MIB:
            most, since = now, time.monotonic()
    return most
