"""What a program sees and does in a gVisor sandbox, and how its end is told."""

from __future__ import annotations

import asyncio
import hashlib
import os
import signal
import socket
from pathlib import Path

import pytest

from stoker.errors import InvalidArgument
from stoker.nodes.endings import ExitKind, Limits
from stoker.runtime import runsc
from stoker.runtime.base import BindMount
from tests.runtime.conftest import PYTHON, Bench

pytestmark = pytest.mark.anyio


async def test_output_is_complete_and_in_order(sandboxes: Bench) -> None:
    code = "import sys\nfor i in range(200_000): print(f'{i:020d}')\nsys.stderr.write('e' * 1_000_000)"
    end, output = await sandboxes.python(code)
    expected = "".join(f"{i:020d}\n" for i in range(200_000)).encode()
    assert end.kind is ExitKind.EXITED and end.code == 0
    assert hashlib.sha256(output.stdout).digest() == hashlib.sha256(expected).digest()
    assert bytes(output.stderr) == b"e" * 1_000_000


@pytest.mark.parametrize("code", [0, 1, 3, 125, 127, 128, 255])
async def test_exit_code_is_the_programs_own(sandboxes: Bench, code: int) -> None:
    end, _ = await sandboxes.run("/bin/sh", "-c", f"exit {code}")
    assert (end.kind, end.code) == (ExitKind.EXITED, code)


async def test_program_killed_from_within_ends_with_its_signal(sandboxes: Bench) -> None:
    end, _ = await sandboxes.run("/bin/sh", "-c", "kill -SEGV $$")
    assert (end.kind, end.code) == (ExitKind.EXITED, 128 + signal.SIGSEGV)


async def test_missing_program_is_said(sandboxes: Bench) -> None:
    end, output = await sandboxes.run("/no/such/program")
    assert end.code == 127 and b"/no/such/program" in output.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
async def test_signal_reaches_the_users_process(sandboxes: Bench, number: int) -> None:
    code = f"import signal\nsignal.signal({int(number)}, lambda n, f: (print('got', n, flush=True), exit(9)))\nprint('up', flush=True)\nwhile True: signal.pause()"
    container, output = await sandboxes.start(PYTHON, "-c", code)
    await output.first()
    await container.signal(number)
    end = await container.wait()
    assert end.code == 9 and output.text == f"up\ngot {int(number)}\n"
    await container.signal(number)  # after the end: no error


async def test_signal_right_after_the_start_is_not_lost(sandboxes: Bench) -> None:
    container, _ = await sandboxes.start("/bin/sleep", "1000")
    await container.signal(signal.SIGTERM)
    assert (await container.wait()).code == 128 + signal.SIGTERM


async def test_kill_ends_everything_and_wait_may_be_called_again(sandboxes: Bench) -> None:
    container, output = await sandboxes.start("/bin/sh", "-c", "trap '' TERM INT; sleep 1000 & echo up; sleep 1000")
    waiter = asyncio.create_task(container.wait())
    await output.first()
    await container.kill()
    end = await container.wait()
    assert (end.kind, end.code) == (ExitKind.KILLED, 137)
    assert await waiter == end
    await container.kill()
    assert await container.usage() is None


async def test_kill_before_the_sandbox_is_up(sandboxes: Bench) -> None:
    container, _ = await sandboxes.start("/bin/sleep", "1000")
    await container.kill()
    assert (await container.wait()).kind is ExitKind.KILLED


async def test_out_of_memory_is_told_with_the_limit(sandboxes: Bench) -> None:
    code = "import time\nkeep = [b'x' * (1 << 24) for _ in range(40)]\nprint('survived')\ntime.sleep(60)"
    end, output = await sandboxes.python(code, limits=Limits(memory_bytes=256 << 20))
    assert (end.kind, end.code) == (ExitKind.OOM, 137)
    assert "256 MiB" in end.detail and not output.stdout


async def test_memory_below_the_limit_is_fine(sandboxes: Bench) -> None:
    end, output = await sandboxes.python(
        "keep = b'x' * (64 << 20); print(len(keep))", limits=Limits(memory_bytes=256 << 20)
    )
    assert end.kind is ExitKind.EXITED and output.text == f"{64 << 20}\n"


async def test_cpu_limit_and_usage(sandboxes: Bench) -> None:
    code = "import time\nprint('up', flush=True)\nkeep = bytearray(64 << 20)\nwhile True: pass"
    container, output = await sandboxes.start(PYTHON, "-c", code, limits=Limits(cpu_milli=300))
    await output.first()
    loop = asyncio.get_running_loop()
    begun, before = loop.time(), await container.usage()
    await asyncio.sleep(1.5)
    after, elapsed = await container.usage(), loop.time() - begun
    await container.kill()
    await container.wait()
    assert before is not None and after is not None
    used = after.cpu_seconds - before.cpu_seconds
    assert 0 < used < 0.3 * elapsed + 0.2  # two periods of quota may be open at the edges
    assert after.memory_bytes > 64 << 20


async def test_orphans_are_reaped_and_background_children_survive_their_parent(sandboxes: Bench) -> None:
    code = """
import os, subprocess, time
def until(condition):
    deadline = time.time() + 30
    while not condition() and time.time() < deadline: time.sleep(0.02)
    return condition()
short = "sh -c 'echo $$ > /tmp/begun; mv /tmp/begun /tmp/short'"
long = "(while [ ! -e /tmp/go ]; do sleep 0.02; done; echo late; touch /tmp/late)"
subprocess.run(["/bin/sh", "-c", f"{short} & {long} &"])   # both lose their parent at once
assert until(lambda: os.path.exists("/tmp/short"))
pid = open("/tmp/short").read().strip()
print("reaped", until(lambda: not os.path.exists(f"/proc/{pid}")), flush=True)
open("/tmp/go", "w").close()
until(lambda: os.path.exists("/tmp/late"))
"""
    end, output = await sandboxes.python(code)
    assert end.code == 0 and output.text == "reaped True\nlate\n"


async def test_unix_socket_in_a_read_only_mount(sandboxes: Bench, scratch: Path) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write((await reader.readline()).upper())
        await writer.drain()
        writer.close()

    server = await asyncio.start_unix_server(answer, scratch / "modal.sock")
    code = "import socket\ns = socket.socket(socket.AF_UNIX); s.connect('/__modal/modal.sock'); s.sendall(b'hello\\n'); print(s.recv(99))"
    end, output = await sandboxes.python(code, mounts=[BindMount(scratch, "/__modal")])
    server.close()
    assert end.code == 0 and output.text == "b'HELLO\\n'\n", output.stderr


async def test_mounts_are_writable_only_when_asked(sandboxes: Bench, scratch: Path) -> None:
    for name in ("read", "write"):
        (scratch / name).mkdir()
    single = scratch / "single.txt"
    single.write_text("one file\n")
    mounts = [
        BindMount(scratch / "read", "/data/read"),
        BindMount(scratch / "write", "/data/write", read_only=False),
        BindMount(single, "/data/deep/single.txt"),
    ]
    end, output = await sandboxes.run(
        "/bin/sh", "-c", "cat /data/deep/single.txt; echo x > /data/write/x; echo x > /data/read/x", mounts=mounts
    )
    assert end.code != 0 and output.text == "one file\n"
    assert (scratch / "write" / "x").read_text() == "x\n" and not (scratch / "read" / "x").exists()


async def test_layers_overlay_each_other_and_stay_untouched(sandboxes: Bench, scratch: Path) -> None:
    layers = []
    for index in range(300):
        layer = scratch / f"layer,with:odd name {index}"
        (layer / "data").mkdir(parents=True)
        (layer / "data" / "who").write_text(f"{index}\n")
        (layer / "data" / f"only-{index}").touch()
        layers.append(layer)
    end, output = await sandboxes.run(
        "/bin/sh",
        "-c",
        "cat /data/who; ls /data | wc -l; echo mine > /data/who; rm /data/only-7; cat /data/who; ls /data | wc -l",
        layers=(*layers, *sandboxes.layers),
    )
    assert end.code == 0 and output.text.split() == ["0", "301", "mine", "300"], output.stderr
    assert (layers[0] / "data" / "who").read_text() == "0\n" and (layers[7] / "data" / "only-7").exists()


async def test_what_a_program_finds(sandboxes: Bench) -> None:
    code = """
import os, socket
for path in ("/tmp/x", "/dev/shm/x", "/root/x", "/x"): open(path, "w").write("x")
try:
    open("/sys/x", "w")
except OSError as error: print("sys", error.strerror)
print(os.getuid(), os.getcwd(), socket.gethostname(), socket.gethostbyname("localhost"), os.environ["A"])
print(open("/etc/hostname").read().strip(), "nameserver" in open("/etc/resolv.conf").read(), os.path.exists("/proc/self/status"))
print([line for line in open("/proc/self/status") if line.startswith("CapEff")][0].split()[1])
"""
    end, output = await sandboxes.python(code, workdir="/made/for/me", env={"A": "b=c", "PATH": "/bin"})
    assert end.code == 0, output.stderr
    lines = output.text.splitlines()
    assert lines[0].startswith("sys ")
    assert lines[1:] == ["0 /made/for/me modal 127.0.0.1 b=c", "modal True True", "00000000a80405fb"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"layers": (Path("/no/such/layer"),)}, "/no/such/layer"),
        ({"layers": ()}, "at least one layer"),
        ({"mounts": [BindMount(Path("/no/such/source"), "/data")]}, "/no/such/source"),
        ({"mounts": [BindMount(Path("/usr"), "data")]}, "absolute"),
    ],
)
async def test_impossible_specs_are_refused_with_the_reason(
    sandboxes: Bench, changes: dict[str, object], words: str
) -> None:
    with pytest.raises(InvalidArgument, match=words):
        await sandboxes.run("/bin/true", **changes)


async def test_crash_of_gvisor_is_a_failure_not_an_exit_code(sandboxes: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    flags = runsc._globals
    monkeypatch.setattr(
        runsc, "_globals", lambda directory: (*flags(directory), f"--panic-signal={int(signal.SIGUSR2)}")
    )
    container, output = await sandboxes.start("/bin/sh", "-c", "echo up; sleep 1000")
    await output.first()
    os.kill(process_of(container.id), signal.SIGUSR2)
    end = await container.wait()
    assert end.kind is ExitKind.FAILED and end.detail.startswith("The sandbox failed: gVisor crashed"), end


async def test_killed_gvisor_process_ends_the_container(sandboxes: Bench) -> None:
    container, output = await sandboxes.start("/bin/sh", "-c", "echo up; sleep 1000")
    await output.first()
    os.kill(process_of(container.id), signal.SIGKILL)
    assert (await container.wait()).code == 137


async def test_sandbox_that_cannot_be_made_says_why(sandboxes: Bench, scratch: Path) -> None:
    hidden = [BindMount(Path("/etc/passwd"), "/data/.hidden/file"), BindMount(scratch, "/data")]
    end, _ = await sandboxes.run("/bin/true", mounts=hidden)
    assert end.kind is ExitKind.FAILED and "mounts" in end.detail, end


async def test_host_listener_is_a_different_socket(sandboxes: Bench) -> None:
    """Ports of different sandboxes do not collide, nor with the host's."""
    with socket.create_server(("0.0.0.0", 0)) as server:
        port = server.getsockname()[1]
        code = f"import socket; socket.create_server(('0.0.0.0', {port})); print('bound')"
        ends = await asyncio.gather(*(sandboxes.python(code) for _ in range(2)))
    assert [output.text for _, output in ends] == ["bound\n", "bound\n"]


def process_of(id: str) -> int:
    """The pid of gVisor's kernel process for a container."""
    for path in Path("/proc").iterdir():
        try:
            words = (path / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if words[0] == b"runsc-sandbox" and id.encode() in words:
            return int(path.name)
    raise AssertionError(f"no sandbox process for {id}")


@pytest.mark.parametrize("has", ["an empty /tmp", "no /tmp", "a file in /tmp", "a link"])
async def test_tmp_is_on_the_disk_whatever_the_image_has(sandboxes: Bench, tmp_path: Path, has: str) -> None:
    layer = tmp_path / "layer"
    layer.mkdir()
    (layer / "etc").mkdir()
    if has == "a link":
        (layer / "var" / "tmp").mkdir(parents=True)
        (layer / "var" / "tmp" / "file").touch()
        (layer / "tmp").symlink_to("var/tmp")
    elif has != "no /tmp":
        (layer / "tmp").mkdir()
        (layer / "tmp").chmod(0o1777)
    if has == "a file in /tmp":
        (layer / "tmp" / "file").touch()
    for name in ("bin", "sbin", "lib", "lib64"):
        if Path("/", name).is_symlink():
            (layer / name).symlink_to(os.readlink(f"/{name}"))
    code = """
import os, socket, stat, tempfile
assert stat.S_IMODE(os.stat('/tmp').st_mode) in (0o1777, 0o755), oct(os.stat('/tmp').st_mode)
kinds = {line.split()[1]: line.split()[2] for line in open('/proc/mounts')}
print(kinds.get('/tmp'), kinds['/dev/shm'])
os.rename(tempfile.mkstemp()[1], '/etc/moved')   # one file system with the rest
os.mkfifo('/tmp/pipe')
socket.socket(socket.AF_UNIX).bind('/tmp/socket')
"""
    end, output = await sandboxes.python(code, layers=(layer,))
    assert (end.code, output.text) == (0, "None tmpfs\n"), output.stderr
