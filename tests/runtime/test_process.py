"""Containers as plain processes."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from stoker.errors import FailedPrecondition, InvalidArgument
from stoker.runtime.base import BindMount, ExitKind
from stoker.runtime.process import ProcessRuntime
from stoker.runtime.targets import MountTargets
from tests.disks import small_disk
from tests.runtime.conftest import PYTHON, Bench

pytestmark = pytest.mark.anyio

OWNER = """
import asyncio, sys
from pathlib import Path
from stoker.runtime.base import BindMount
from stoker.runtime.process import ProcessRuntime
from tests.runtime.conftest import Bench

async def main(directory):
    runtime = ProcessRuntime(directory / "state")
    await runtime.open()
    mount = BindMount(directory, str(directory / "made" / "data"))
    _, output = await Bench(runtime).start("/bin/sh", "-c", "(setsid sleep 1000 &); echo up; sleep 1000", mounts=[mount])
    await output.first()
    print("up", flush=True)
    await asyncio.sleep(1000)

asyncio.run(main(Path(sys.argv[1])))
"""


@pytest.fixture
async def processes(tmp_path: Path) -> AsyncIterator[Bench]:
    runtime = ProcessRuntime(tmp_path / "state")
    await runtime.open()
    yield Bench(runtime)
    await runtime.close()
    assert not list((tmp_path / "state" / "scratch").glob("*"))


def alive(marker: str) -> list[str]:
    """Pids of living `sleep` processes with this argument."""
    listing = subprocess.run(["ps", "-eo", "pid=,stat=,args="], capture_output=True, text=True, check=True).stdout
    return [line for line in listing.splitlines() if line.endswith(f"sleep {marker}") and line.split()[1][0] != "Z"]


async def test_output_and_exit_code(processes: Bench) -> None:
    end, output = await processes.python(
        "import sys\nfor i in range(100_000): print(i)\nsys.stderr.write('e' * 300_000)\nexit(3)"
    )
    assert (end.kind, end.code) == (ExitKind.EXITED, 3)
    assert output.text == "".join(f"{i}\n" for i in range(100_000)) and output.stderr == b"e" * 300_000


async def test_signals_and_kill(processes: Bench) -> None:
    container, output = await processes.start(
        "/bin/sh", "-c", "trap 'echo got; exit 4' INT; echo up; while :; do sleep 0.01; done"
    )
    await output.first()
    await container.signal(signal.SIGINT)
    assert (await container.wait()).code == 4 and output.text == "up\ngot\n"
    await container.signal(signal.SIGINT)
    container, _ = await processes.start("/bin/sleep", "1000")
    usage = await container.usage()
    assert usage is not None and usage.memory_bytes > 0
    await container.kill()
    assert (await container.wait()) == (await container.wait())
    assert (await container.wait()).kind is ExitKind.KILLED
    assert await container.usage() is None


async def test_everything_it_left_in_the_background_ends_with_it(processes: Bench) -> None:
    marker = f"1000.{os.getpid()}"
    code = (
        f"import os, subprocess\nsubprocess.Popen(['sleep', '{marker}'])\n"
        f"subprocess.Popen(['sleep', '{marker}'], start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)\n"
        f"subprocess.run(['/bin/sh', '-c', 'setsid sleep {marker} >/dev/null 2>&1 &'])\nprint('up')"
    )
    end, output = await processes.python(code)
    assert end.code == 0 and output.text == "up\n"
    assert not alive(marker)


async def test_a_container_ends_also_when_a_process_hides_and_keeps_its_output(
    processes: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stoker.runtime.process._TRIES", 1)
    code = (
        "import subprocess\n"
        "print(subprocess.Popen(['sleep', '1000'], env={}, start_new_session=True, executable='/bin/sleep').pid)"
    )
    end, output = await asyncio.wait_for(processes.python(code), 30)
    os.kill(int(output.text), signal.SIGKILL)
    assert end.code == 0


async def test_layers_extend_the_python_path_in_order(processes: Bench, tmp_path: Path) -> None:
    layers = []
    for index in range(2):
        layer = tmp_path / f"layer{index}"
        for folder in ("root", "pkg"):
            (layer / folder).mkdir(parents=True)
            (layer / folder / f"{folder}_module.py").write_text(f"where = {index}")
        layers.append(layer)
    (layers[1] / "root" / "data.txt").write_text("found")
    code = (
        "import sys, os, root_module, pkg_module\n"
        "print(root_module.where, pkg_module.where, open('data.txt').read(), os.environ['GIVEN'], 'SECRET' in os.environ)\n"
        "open('left', 'w').close()\nprint([p for p in sys.path if 'layer' in p])"
    )
    os.environ["SECRET"] = "of the server"
    try:
        end, output = await processes.python(code, layers=tuple(layers), env={"GIVEN": "yes"}, workdir="/root")
    finally:
        del os.environ["SECRET"]
    assert end.code == 0, output.stderr
    names = ("layer0/root", "layer0/pkg", "layer1/root", "layer1/pkg")
    assert output.text.splitlines() == ["0 0 found yes False", str([str(tmp_path / name) for name in names])]
    assert not (layers[0] / "root" / "left").exists() and not Path("/root/left").exists()


async def test_mount_appears_only_for_its_container_and_leaves_no_trace(processes: Bench, tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "made" / "deep" / "data"
    source.mkdir()
    (source / "file").write_text("content\n")
    script = f"cat {target}/file; echo x > {target}/new"
    end, output = await processes.run("/bin/sh", "-c", script, mounts=[BindMount(source, str(target), read_only=False)])
    assert end.code == 0 and output.text == "content\n", output.stderr
    assert (source / "new").exists() and not (tmp_path / "made").exists()
    if os.geteuid() == 0 and sys.platform == "linux":
        end, _ = await processes.run("/bin/sh", "-c", f"echo x > {target}/no", mounts=[BindMount(source, str(target))])
        assert end.code != 0 and not (source / "no").exists()


async def test_shared_link_is_removed_with_its_last_user(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "made" / "data"
    source.mkdir()
    targets = MountTargets(tmp_path / "journal", private=False)
    targets.open()
    assert targets.take("a", [BindMount(source, str(target))]) == ()
    targets.take("b", [BindMount(source, str(target))])
    with pytest.raises(FailedPrecondition, match="exists on this machine already"):
        targets.take("c", [BindMount(tmp_path, str(target))])
    targets.give_back("c")
    targets.give_back("a")
    assert target.resolve() == source
    targets.give_back("b")
    assert not (tmp_path / "made").exists() and source.is_dir()


async def test_nothing_of_others_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "theirs").write_text("keep")
    targets = MountTargets(tmp_path / "journal", private=False)
    targets.open()
    with pytest.raises(FailedPrecondition, match="theirs"):
        targets.take("a", [BindMount(tmp_path, str(tmp_path / "theirs"))])
    targets.give_back("a")
    assert (tmp_path / "theirs").read_text() == "keep"


async def test_missing_program_and_missing_source(processes: Bench) -> None:
    with pytest.raises(FailedPrecondition, match="/no/such/program"):
        await processes.run("/no/such/program")
    with pytest.raises(InvalidArgument, match="/no/such/source"):
        await processes.run(PYTHON, mounts=[BindMount(Path("/no/such/source"), "/data")])


@pytest.mark.skipif(
    sys.platform != "linux" or os.geteuid() != 0, reason="a small disk is made by mount, as root on Linux"
)
async def test_a_disk_that_is_full_for_a_moment_is_not_told_as_a_wrong_program(tmp_path: Path) -> None:
    """That would be the end of the call; another try may succeed."""
    layer = tmp_path / "layer" / ("long" * 50)  # a link to it needs room on the disk
    (layer / "root").mkdir(parents=True)
    (layer / "root" / "app.py").touch()
    with small_disk(tmp_path / "small", 1) as disk:
        runtime = ProcessRuntime(disk / "state")
        await runtime.open()
        bench = Bench(runtime, (layer,))
        with (disk / "ballast").open("wb", buffering=0) as ballast, contextlib.suppress(OSError):
            while True:
                ballast.write(bytes(4096))
        with pytest.raises(OSError, match="No space left"):
            await bench.run(PYTHON, "-c", "", workdir="/root")
        (disk / "ballast").unlink()
        end, _ = await bench.run(PYTHON, "-c", "import app", workdir="/root")
        assert end.code == 0
        assert not list((disk / "state" / "scratch").iterdir())
        await runtime.close()


async def test_next_server_removes_what_a_killed_one_left(tmp_path: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", OWNER, str(tmp_path), stdout=asyncio.subprocess.PIPE, cwd=Path(__file__).parents[2]
    )
    assert process.stdout is not None and await process.stdout.readline() == b"up\n"
    process.kill()
    await process.wait()
    assert (tmp_path / "made").exists() and alive("1000")
    runtime = ProcessRuntime(tmp_path / "state")
    await runtime.open()
    assert not (tmp_path / "made").exists() and not alive("1000")
    await runtime.close()
