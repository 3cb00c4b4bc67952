"""Not one byte that a program prints is lost, whatever the program, its size and pace, and however slow the reader."""

from __future__ import annotations

import asyncio
import hashlib
import shutil
import subprocess
from pathlib import Path

import pytest

from stoker.nodes.endings import ExitKind
from stoker.runtime import init
from stoker.runtime.base import BindMount, ContainerSpec
from stoker.runtime.output import OutputPipes
from tests.runtime.conftest import PYTHON, Bench, new_id

pytestmark = pytest.mark.anyio

UNBUFFERED = {"PATH": "/usr/bin:/bin", "PYTHONUNBUFFERED": "1"}
LINE = b"x" * 1_000_000 + b"\n"
LINES = b"".join(b"%06d" % i + b"y" * 6_000 + b"\n" for i in range(1_500))
BINARY = bytes(range(256)) * 8_000
PYTHON_PROGRAMS = {
    "line": ("print('x' * 1_000_000)", LINE),
    "lines": ("for i in range(1_500): print(f'{i:06d}' + 'y' * 6_000)", LINES),
    "binary": ("import sys; sys.stdout.buffer.write(bytes(range(256)) * 8_000)", BINARY),
    "one write": ("import os; assert os.write(1, b'x' * 1_000_000 + b'\\n') == 1_000_001", LINE),
    "a child": ("import subprocess; subprocess.run([sys.executable, '-uc', \"print('x' * 1_000_000)\"])", LINE),
    "an orphan": (
        "if os.fork() == 0:\n os.setsid()\n if os.fork() == 0: print('x' * 1_000_000); os._exit(0)\n os._exit(0)\n"
        "os.wait(); time.sleep(3)",
        LINE,
    ),
}
SHELL_PROGRAMS = {
    "echo": ('echo "$(head -c 1000000 /dev/zero | tr "\\0" x)"', LINE),
    "dd": ("head -c 1000000 /dev/zero | tr '\\0' x | dd bs=1000000 iflag=fullblock 2>/dev/null; echo", LINE),
    "reopened": ("head -c 1000000 /dev/zero | tr '\\0' x >/dev/stdout; echo >/dev/fd/1", LINE),
}
C_PROGRAM = r"""
#include <string.h>
#include <unistd.h>
static char line[1000001];
int main(void) {
    memset(line, 'x', 1000000);
    line[1000000] = '\n';
    for (int i = 0; i < TIMES; i++)
        if (write(TO, line, sizeof line) != sizeof line)
            return 9;
    return 0;
}
"""


class Collected:
    def __init__(self) -> None:
        self.digests = {1: hashlib.sha256(), 2: hashlib.sha256()}
        self.sizes = {1: 0, 2: 0}

    def __call__(self, descriptor: int, chunk: bytes) -> asyncio.Future[None] | None:
        self.digests[descriptor].update(chunk)
        self.sizes[descriptor] += len(chunk)
        return None

    def check(self, descriptor: int, expected: bytes, times: int = 1) -> None:
        digest = hashlib.sha256()
        for _ in range(times):
            digest.update(expected)
        assert self.sizes[descriptor] == len(expected) * times
        assert self.digests[descriptor].digest() == digest.digest(), "the bytes are others"


class Slow(Collected):
    """Wants a rest after each piece."""

    longest = 0.01

    def __call__(self, descriptor: int, chunk: bytes) -> asyncio.Future[None]:
        super().__call__(descriptor, chunk)
        loop = asyncio.get_running_loop()
        rest: asyncio.Future[None] = loop.create_future()
        loop.call_later(self.longest, rest.set_result, None)
        return rest


async def run(bench: Bench, collected: Collected, *argv: str, mounts: tuple[BindMount, ...] = ()) -> None:
    spec = ContainerSpec(new_id(), bench.layers, argv, UNBUFFERED, "/", mounts=(*bench.mounts, *mounts))
    container = await bench.runtime.start(spec, collected)
    end = await container.wait()
    assert (end.kind, end.code) == (ExitKind.EXITED, 0), end


def python(code: str, descriptor: int) -> tuple[str, ...]:
    to = "" if descriptor == 1 else "os.dup2(2, 1)\n"
    return (PYTHON, "-c", f"import os, sys, time\n{to}{code}")


@pytest.mark.parametrize("descriptor", [1, 2])
@pytest.mark.parametrize("name", PYTHON_PROGRAMS)
async def test_python(sandboxes: Bench, name: str, descriptor: int) -> None:
    code, expected = PYTHON_PROGRAMS[name]
    collected = Collected()
    await run(sandboxes, collected, *python(code, descriptor))
    collected.check(descriptor, expected)
    assert collected.sizes[3 - descriptor] == 0


@pytest.mark.parametrize("name", SHELL_PROGRAMS)
async def test_shell(sandboxes: Bench, name: str) -> None:
    code, expected = SHELL_PROGRAMS[name]
    collected = Collected()
    await run(sandboxes, collected, "/bin/sh", "-c", code)
    collected.check(1, expected)


@pytest.mark.parametrize("descriptor", [1, 2])
@pytest.mark.parametrize("linked", ["static", "shared"])
async def test_a_program_that_does_not_look_what_write_returns(
    sandboxes: Bench, tmp_path: Path, linked: str, descriptor: int
) -> None:
    times = 200 if descriptor == 1 else 3
    program = compiled(tmp_path, f"-{linked}", times, descriptor)
    collected = Collected()
    await run(sandboxes, collected, "/opt/program", mounts=(BindMount(program, "/opt/program"),))
    collected.check(descriptor, LINE, times)


async def test_a_reader_that_is_slow_holds_the_program_up_and_loses_nothing(sandboxes: Bench) -> None:
    collected = Slow()
    await run(sandboxes, collected, *python(PYTHON_PROGRAMS["lines"][0], 1))
    collected.check(1, LINES)


async def test_a_program_ends_by_a_signal_after_its_last_bytes(sandboxes: Bench) -> None:
    end, output = await sandboxes.python("import os; os.write(1, b'x' * 1_000_000); os.kill(os.getpid(), 9)")
    assert (end.code, len(output.stdout)) == (137, 1_000_000)


async def test_a_program_whose_image_has_nothing_else(sandboxes: Bench, tmp_path: Path) -> None:
    program = compiled(tmp_path, "-static", 1, 1)
    (tmp_path / "layer").mkdir()
    shutil.copy(program, tmp_path / "layer" / "program")
    collected = Collected()
    spec = ContainerSpec(new_id(), (tmp_path / "layer",), ("/program",), {}, "/")
    container = await sandboxes.runtime.start(spec, collected)
    assert (await container.wait()).code == 0
    collected.check(1, LINE)


async def test_nothing_is_read_while_there_is_no_room() -> None:
    seen, room = bytearray(), asyncio.get_running_loop().create_future()

    def sink(descriptor: int, chunk: bytes) -> asyncio.Future[None] | None:
        seen.extend(chunk)
        return room if not room.done() else None

    pipes = OutputPipes(sink)
    writer = asyncio.ensure_future(asyncio.to_thread(write_all, pipes, b"x" * 1_000_000))
    await asyncio.wait([writer], timeout=0.5)
    assert not writer.done() and 0 < len(seen) <= 1 << 16
    room.set_result(None)
    await writer
    assert await pipes.drained(10)
    assert len(seen) == 1_000_000


@pytest.mark.parametrize("machine", sorted(set(init.MACHINES.values())))
def test_the_first_process_is_built_from_its_source(machine: str) -> None:
    source = hashlib.sha256(init.SOURCE.read_bytes()).hexdigest()
    assert f"stoker init {source}".encode() in init.binary(machine).read_bytes(), "run `make init`"


def write_all(pipes: OutputPipes, data: bytes) -> None:
    with open(pipes.stdout, "wb", buffering=0, closefd=False) as file:
        view = memoryview(data)
        while view:
            view = view[file.write(view) or 0 :]
    pipes.launched()


def compiled(directory: Path, flag: str, times: int, descriptor: int) -> Path:
    if shutil.which("gcc") is None:
        pytest.skip("no C compiler")
    source, program = directory / "program.c", directory / "program"
    source.write_text(C_PROGRAM)
    flags = [] if flag == "-shared" else [flag]
    subprocess.run(
        ["gcc", *flags, f"-DTIMES={times}", f"-DTO={descriptor}", "-o", str(program), str(source)], check=True
    )
    return program
