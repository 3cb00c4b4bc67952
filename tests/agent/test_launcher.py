"""What a container had is given back."""

from __future__ import annotations

import asyncio
import errno
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from stoker.engine.base import Granted, ResourceRequest
from stoker.engine.leases import Leases
from stoker.engine.local import local_engine
from stoker.errors import FailedPrecondition
from stoker.nodes.builds import ImageConfig
from stoker.nodes.messages import ContainerRequest
from stoker.runtime.checkpoint import layers_of
from stoker.services.containers.bases import Bases
from stoker.services.containers.checkpoints import Checkpoints
from stoker.services.containers.identity import ContainerIdentity
from stoker.services.containers.launcher import ContainerLauncher, Starts
from stoker.services.containers.snapshots import SnapshotUse
from stoker.services.containers.spares import Spares
from stoker.services.containers.task import Task
from stoker.services.telemetry.metrics import Metrics
from stoker.services.telemetry.telemetry import Telemetry
from tests.agent.test_agent import make_node


class Doors:
    def expect(self, container: ContainerIdentity) -> None: ...

    def forget(self, task_id: str) -> None: ...


def make_launcher(path: Path, engine: Leases, snapshots: Any = None, logs: Any = None) -> ContainerLauncher:
    none: Any = None
    node = make_node(path)
    starts = Starts(
        snapshots=snapshots or SimpleNamespace(),
        checkpoints=Checkpoints(none),
        bases=Bases(snapshots=none, node=node, mounts=none, enabled=False),
        spares=Spares(snapshots=snapshots or SimpleNamespace(), node=node, most=0, is_idle=lambda: True),
        snapshot_apps=lambda app_id: True,
    )
    launcher = ContainerLauncher(
        database=none,
        engine=engine,
        node=node,
        materials=none,
        starts=starts,
        surroundings=none,
        wire=none,
        telemetry=Telemetry(logs, Metrics()),
        min_free_bytes=0,
    )
    launcher.doors = Doors()
    return launcher


def test_a_full_disk_does_not_keep_the_resources_of_a_container_that_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = local_engine()

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    async def run() -> None:
        launcher = make_launcher(tmp_path, engine)
        lease = await engine.reserve("ta-1", ResourceRequest())
        launcher._leases["ta-1"] = cast(Granted, lease)
        monkeypatch.setattr(Path, "mkdir", full)
        await launcher.clean_up(Task("ta-1", "fu-1", "ap-1", "de-1", enqueued_at=0.0))
        await launcher.close()

    asyncio.run(run())
    assert engine.inventory()["leases"] == 0


def test_a_snapshot_is_blamed_only_for_containers_that_were_tried_with_it(tmp_path: Path) -> None:
    """What the machine lacks for a moment must not cost a function its snapshot until the next deployment."""
    blamed: list[str] = []
    snapshots = SimpleNamespace(not_started=lambda use, reason: blamed.append(reason))
    logs = SimpleNamespace(write=lambda *_, **__: None)
    launcher = make_launcher(tmp_path, local_engine(), snapshots=snapshots, logs=logs)
    task = Task("ta-1", "fu-1", "ap-1", "de-1", enqueued_at=0.0)
    task.snapshot = SnapshotUse("ch-1", restores=True)
    task.lacks_snapshot = True
    assert launcher.blames_snapshot(task, "its files are gone")
    task.lacks_snapshot = False
    assert not launcher.blames_snapshot(task, "too many open files")
    task.node = cast(Any, object())
    assert launcher.blames_snapshot(task, "gVisor crashed")
    assert blamed == ["its files are gone", "gVisor crashed"]


def test_whether_the_files_of_a_snapshot_are_there_is_asked_of_the_node(tmp_path: Path) -> None:
    node = make_node(tmp_path)
    assert not asyncio.run(node.containers.can_restore("ch-1"))
    (layer,) = layers_of(tmp_path / "ch-1")
    layer.mkdir(parents=True)
    assert asyncio.run(node.containers.can_restore("ch-1"))


@pytest.mark.parametrize("source", ["restore_from", "base"])
@pytest.mark.parametrize("error", [FailedPrecondition("its files are gone"), FileNotFoundError("pages.img")])
def test_a_failed_start_finds_out_whether_the_files_of_its_snapshot_are_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, error: Exception
) -> None:
    async def fails(request: ContainerRequest) -> None:
        raise error

    async def run() -> None:
        launcher, task = make_launcher(tmp_path, local_engine()), Task("ta-1", "fu-1", "ap-1", "de-1", enqueued_at=0.0)
        monkeypatch.setattr(launcher._node.containers, "start", fails)
        request = ContainerRequest("ta-1", "im-1", ImageConfig(), "1.6.4", b"", "main", **{source: "ch-1"})  # type: ignore[arg-type]
        for is_there in (False, True):
            if is_there:
                (layer,) = layers_of(tmp_path / "ch-1")
                layer.mkdir(parents=True)
            with pytest.raises(type(error)):
                await launcher._start(request, task)
            assert task.lacks_snapshot is not is_there

    asyncio.run(run())
