"""What the node does for a container on the host."""

from __future__ import annotations

import asyncio
import errno
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from stoker.agent.containers import RunningContainer
from stoker.agent.node import LocalNode
from stoker.agent.places import VolumePlace
from stoker.errors import FailedPrecondition, Unavailable
from stoker.nodes.builds import ImageConfig
from stoker.nodes.endings import Exit, ExitKind
from stoker.nodes.messages import ContainerRequest, VolumeUse
from stoker.runtime.base import ContainerSpec
from stoker.runtime.inspection import Inspection
from stoker.services.containers.checkpoints import Checkpoints
from stoker.services.containers.snapshots import SnapshotUse
from stoker.services.containers.task import Task


class Program:
    """A container as far as saving it goes. during: what happens while that is tried."""

    id = "ta-1"
    address = None
    signal = usage = open_files = stuck = None
    killed = False

    def __init__(self, during: Callable[[], None]) -> None:
        self._during = during

    async def kill(self) -> None:
        self.killed = True

    async def inspect(self, places: Sequence[str]) -> Inspection | None:
        return Inspection()

    async def checkpoint(self, directory: Path) -> None:
        self._during()


def contained(program: Program, run: Path) -> RunningContainer:
    (run / "ta-1").mkdir(parents=True)
    return RunningContainer(cast(Any, program), {}, run / "ta-1", {"WORD": "secret"}, "fu-1", ())


def full(*_: object, **__: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_container_cannot_have_the_server_write_to_a_file_of_the_host(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("of the host")
    container = contained(Program(lambda: None), tmp_path / "run")
    for name in (".restore-state.json", "restore-state.json", "ta-1.restore-state"):
        (tmp_path / "run" / "ta-1" / name).symlink_to(victim)
    (tmp_path / "snapshot").mkdir()
    asyncio.run(container.save(tmp_path / "snapshot"))
    container.let_go()
    assert victim.read_text() == "of the host"
    state = tmp_path / "run" / "ta-1" / "restore-state.json"
    assert not state.is_symlink()
    assert json.loads(state.read_text()) == {"WORD": "secret", "task_id": "ta-1", "function_id": "fu-1"}
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["ta-1"]


def test_a_container_goes_on_also_when_its_snapshot_fills_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fill() -> None:
        monkeypatch.setattr(Path, "write_text", full)
        raise FailedPrecondition("The container cannot be saved: no space left on device")

    container = contained(Program(fill), tmp_path)
    with pytest.raises(FailedPrecondition):
        asyncio.run(container.save(tmp_path / "snapshot"))
    assert (tmp_path / "ta-1" / "restore-state.json").exists()


@pytest.mark.parametrize("stopping", [False, True])
def test_a_container_that_cannot_be_let_go_is_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stopping: bool
) -> None:
    """It would wait until its start-up timeout. Told to stop anyway, it is no failure of the snapshot."""
    program = Program(lambda: None)
    task = Task("ta-1", "fu-1", "ap-1", "de-1", enqueued_at=0.0, stopping=stopping)
    task.snapshot = SnapshotUse("ch-1", restores=False)
    failed: list[str] = []

    class Snapshots:
        def not_created(self, use: SnapshotUse, reason: str, *, lasting: bool = False) -> None:
            failed.append("not created")

        def abandoned(self, use: SnapshotUse) -> None:
            failed.append("abandoned")

    async def run() -> None:
        node = make_node(tmp_path)
        node.containers._running["ta-1"] = contained(program, tmp_path)
        task.node = node
        service = Checkpoints(cast(Any, Snapshots()))
        service.request(task, "ch-1")
        await service.settle(task)
        await node.containers._jobs.close()

    monkeypatch.setattr(Path, "write_text", full)
    asyncio.run(run())
    assert program.killed
    assert failed == ["abandoned" if stopping else "not created"]


class Places:
    """Directories of a test."""

    def __init__(self, path: Path) -> None:
        self._path = path

    async def mount(self, mount_id: str) -> Path:
        return self._path / mount_id

    def volume(self, use: VolumeUse) -> VolumePlace:
        return VolumePlace(use, self._path / use.volume_id)

    def snapshot(self, snapshot_id: str) -> Path:
        return self._path / snapshot_id

    def unfinished_snapshot(self, snapshot_id: str) -> Path:
        return self._path / f"{snapshot_id}.partial"


class Uplink:
    """No container calls."""

    def connection(self, task_id: str) -> asyncio.Protocol:
        return asyncio.Protocol()

    async def quiet(self, task_id: str, timeout: float) -> bool:
        return True

    def close(self, task_id: str) -> None: ...


def make_node(path: Path, runtime: object = None) -> LocalNode:
    return LocalNode(cast(Any, runtime), cast(Any, Builder()), Places(path), Uplink(), path / "run", path / "images")


class Runtime:
    """One whose containers say nothing and live until it closes."""

    isolates = True
    fails = False

    def __init__(self) -> None:
        self.started, self.closed = asyncio.Event(), asyncio.Event()

    async def open(self) -> None: ...

    async def close(self) -> None:
        self.closed.set()
        await asyncio.sleep(0)

    async def start(self, spec: ContainerSpec, output: Any) -> Any:
        if self.fails:
            raise FailedPrecondition("The file system could not be mounted.")
        self.started.set()
        return self

    async def wait(self) -> Exit:
        await self.closed.wait()
        return Exit(ExitKind.KILLED, 137)

    async def kill(self) -> None: ...


class Builder:
    async def layers(self, image_id: str) -> tuple[Path, ...]:
        return ()

    async def client_layers(self, client_version: str, image_id: str, config: ImageConfig) -> tuple[Path, ...]:
        return ()


def test_a_base_that_the_end_of_the_server_interrupts_has_not_failed(tmp_path: Path) -> None:
    request = ContainerRequest("ta-1", "im-1", ImageConfig(), "1.6.4", b"", "main")

    async def run() -> None:
        runtime = Runtime()
        node = make_node(tmp_path, runtime)
        await node.open()
        runtime.fails = True
        with pytest.raises(FailedPrecondition, match="could not be mounted"):
            await node.containers.make_base(request, "ch-base")
        assert list((tmp_path / "run" / "tasks").iterdir()) == [], "what was made for it is gone"
        runtime.fails = False
        making = asyncio.ensure_future(node.containers.make_base(request, "ch-base"))
        await runtime.started.wait()
        await node.close()
        with pytest.raises(Unavailable):
            await making

    asyncio.run(run())


def test_an_end_that_was_not_seen_is_told_all_the_same(tmp_path: Path) -> None:
    """Whoever waits for it keeps a lease and inputs meanwhile."""

    class Broken(Runtime):
        id, address = "ta-1", None

        async def wait(self) -> Exit:
            raise ZeroDivisionError("a defect")

    async def run() -> None:
        node, told = make_node(tmp_path, Broken()), asyncio.get_running_loop().create_future()
        node.observe(cast(Any, SimpleNamespace(ended=lambda *what: told.set_result(what))))
        await node.open()
        await node.containers.start(ContainerRequest("ta-1", "im-1", ImageConfig(), "1.6.4", b"", "main"))
        task_id, ended = await asyncio.wait_for(told, 10)
        assert task_id == "ta-1" and ended == Exit(ExitKind.FAILED, 1, "ZeroDivisionError: a defect")
        assert not node.containers.address("ta-1") and not node.containers._running
        await node.close()

    asyncio.run(run())
