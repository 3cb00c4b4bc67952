"""Layers of images that the disk has changed while a server runs: found beside the work, and nothing starts from them. On real files."""

from __future__ import annotations

import asyncio
import errno
import os
import threading
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from structlog.testing import capture_logs

from stoker.agent import layers as layers_module
from stoker.agent.layers import LayerReader
from stoker.errors import Damaged, NotFound
from stoker.images.layer_sums import LayerSums, checked_of, sums_of
from stoker.images.records import Record, Records
from stoker.integrity import reading
from stoker.nodes.builds import ImageConfig
from stoker.services.images.layer_checks import LayerChecks
from stoker.services.telemetry.damages import LAYER, Damages
from stoker.store.database import Database
from tests.cli.test_fsck import flip
from tests.services.world import run_for, world

DAY = 86_400.0
CODE = os.urandom(5_000_000)


class Storage:
    """An ImageBuilder, as far as the checks need one."""

    def __init__(self, records: Records) -> None:
        self._records = records

    async def layers(self, image_id: str) -> tuple[Path, ...]:
        return self._records.read(image_id).layers


class House:
    """Two images, of which one is built on the other; with digests."""

    def __init__(self, path: Path) -> None:
        self.images = path / "images"
        self.lower, self.upper = (self.images / "layers" / name for name in ("la-lower", "la-upper"))
        for layer in (self.lower, self.upper):
            (layer / "usr/lib").mkdir(parents=True)
            (layer / "usr/lib/code.so").write_bytes(CODE)
        self.records = Records(self.images / "built")
        self.records.write("im-lower", Record((self.lower,), ImageConfig()))
        self.records.write("im-upper", Record((self.upper, self.lower), ImageConfig()))
        self.running: list[str] = []
        self.database = Database.open(f"sqlite:///{path}/db")

    async def open(self) -> None:
        """Also the next server."""
        self.damages = Damages(self.database)
        self.reader = LayerReader(
            self.images, cast(Any, Storage(self.records)), lambda *told: self.checks.compared(*told)
        )
        builds: Any = SimpleNamespace(layers=self.reader.use, has_layer=self.reader.has)
        self.checks = LayerChecks(builds=builds, damages=self.damages, running=lambda: self.running)

    async def digest(self) -> None:
        sums = LayerSums(self.images)
        sums.want([self.lower, self.upper])
        while sums._jobs:
            await asyncio.wait(sums._jobs)
        await sums.close()

    async def close(self) -> None:
        await self.reader.close()
        await self.damages.close()

    async def again(self) -> None:
        await self.close()
        await self.open()

    async def looked(self) -> None:
        while self.reader._jobs:
            await asyncio.wait(self.reader._jobs)

    def known(self) -> list[str]:
        return [damage.name for damage in self.damages.all() if damage.kind == LAYER]

    def when(self, layer: Path) -> float:
        return checked_of(self.images, layer).stat().st_mtime


Body = Callable[[House], Awaitable[None]]


@pytest.fixture
def run(tmp_path: Path) -> Callable[[Body], None]:
    def start(body: Body) -> None:
        async def all_() -> None:
            house = House(tmp_path)
            await house.open()
            await house.digest()
            await body(house)
            await house.close()
            await house.database.close()

        run_for(60, all_())

    return start


def test_whole_layers_are_looked_at_once_a_day(run: Callable[[Body], None], monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[str] = []
    real = layers_module._wrong
    monkeypatch.setattr(layers_module, "_wrong", lambda layer, *rest: looked.append(layer.name) or real(layer, *rest))

    async def body(house: House) -> None:
        await house.checks.chore()
        await house.looked()
        assert looked == [], "what nobody uses is not read"
        for _ in range(3):
            await house.checks.use("im-upper")
            await house.checks.use("im-lower")
        await house.looked()
        assert looked == ["la-upper", "la-lower"] and house.known() == []
        await house.again()
        await house.checks.use("im-upper")
        await house.looked()
        assert len(looked) == 2, "the next server knows of it"
        long_ago = time.time() - 1.01 * DAY
        os.utime(checked_of(house.images, house.lower), (long_ago, long_ago))
        await house.again()
        await house.checks.use("im-upper")
        await house.looked()
        assert looked[2:] == ["la-lower"] and house.when(house.lower) > time.time() - 1000

    run(body)


def test_what_runs_for_long_is_looked_at_every_day(
    run: Callable[[Body], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def body(house: House) -> None:
        await house.checks.use("im-upper")
        await house.looked()
        flip(house.lower / "usr/lib/code.so", 4_500_000)
        house.running = ["im-upper", "im-gone"]
        await house.checks.chore()
        await house.looked()
        assert house.known() == []
        now = time.time()
        monkeypatch.setattr(layers_module.time, "time", lambda: now + DAY + 1)
        await house.checks.chore()
        await house.looked()
        assert house.known() == ["layers/la-lower"]

    run(body)


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "flipped": (lambda d: flip(d / "usr/lib/code.so", 4_100_000), "usr/lib/code.so has another SHA-256"),
    "cut": (lambda d: os.truncate(d / "usr/lib/code.so", 4096), "usr/lib/code.so has 4096 bytes"),
    "gone": (lambda d: (d / "usr/lib/code.so").unlink(), "usr/lib/code.so is gone"),
    "more": (lambda d: (d / "usr/a\nb\x1b[31m").touch(), r"usr/a\nb\x1b[31m was not there before"),
    "not UTF-8": (lambda d: (d / os.fsdecode(b"\xff")).touch(), r"\udcff was not there before"),
    "many": (lambda d: [(d / f"{n}-{'x' * 240}").touch() for n in range(50)], "x..."),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_nothing_starts_from_a_damaged_layer_until_it_is_mended(run: Callable[[Body], None], damage: str) -> None:
    how, told = DAMAGES[damage]

    async def body(house: House) -> None:
        how(house.lower)
        with capture_logs() as said:
            await house.checks.use("im-upper")  # nobody waits for the check
            await house.looked()
        assert [line["name"] for line in said if line["event"] == "found damaged"] == ["layers/la-lower"]
        assert house.known() == ["layers/la-lower"] and len(house.damages.all()[0].detail) < 1000
        for server in range(2):
            for image in ("im-upper", "im-lower"):
                for refuse in (house.checks.use, house.checks.check):
                    with pytest.raises(Damaged) as raised:
                        await refuse(image)
                    text = str(raised.value)
                    assert image in text and told in text and "stoker fsck --fix" in text and "layers/la-lower" in text
            await house.looked()
            if not server:
                await house.again()  # the next server knows it with its first container
        assert house.known() == ["layers/la-lower"]

    run(body)


def test_what_was_restored_is_used_again(run: Callable[[Body], None]) -> None:
    async def body(house: House) -> None:
        flip(house.lower / "usr/lib/code.so", 100)
        await house.checks.use("im-lower")
        await house.looked()
        flip(house.lower / "usr/lib/code.so", 100)
        await house.again()
        with pytest.raises(Damaged):
            await house.checks.use("im-lower")
        await house.looked()
        await house.checks.use("im-lower")
        assert house.known() == []

    run(body)


def test_what_was_removed_is_not_damaged_any_more(run: Callable[[Body], None]) -> None:
    async def body(house: House) -> None:
        flip(house.upper / "usr/lib/code.so", 100)
        await house.checks.use("im-upper")
        await house.looked()
        assert house.known() == ["layers/la-upper"]
        await house.checks.use("im-lower")  # that was built on whole ones only
        house.records.remove("im-upper")
        house.upper.rename(house.images / "removed")
        await house.checks.chore()
        assert house.known() == []
        with pytest.raises(NotFound):
            await house.checks.use("im-upper")
        await house.checks.check("im-upper")

    run(body)


def test_one_that_is_removed_while_it_is_read_is_not_damaged(
    run: Callable[[Body], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = reading.sha256

    async def body(house: House) -> None:
        def remove_first(path: Path, pace: reading.Pace) -> str:
            house.records.remove("im-upper")
            path.unlink()
            return real(path, pace)

        monkeypatch.setattr(layers_module.trees, "sha256", remove_first)
        await house.checks.use("im-upper")
        await house.looked()
        assert house.known() == []

    run(body)


def test_layers_without_good_digests_are_not_damaged(run: Callable[[Body], None]) -> None:
    """They are looked at when they have some."""

    async def body(house: House) -> None:
        sums_of(house.images, house.upper).unlink()
        os.truncate(sums_of(house.images, house.lower), 20)
        for layer in (house.upper, house.lower):
            flip(layer / "usr/lib/code.so", 100)
        with capture_logs() as said:
            await house.checks.use("im-upper")
            await house.looked()
        assert house.known() == [] and not list((house.images / "sums").glob("*.checked"))
        [warning] = [line for line in said if line["log_level"] == "warning"]
        assert "damaged themselves" in warning["error"]

    run(body)


@pytest.mark.parametrize("lacks", [errno.EMFILE, errno.ENOMEM])
def test_what_the_machine_lacks_is_no_damage(
    run: Callable[[Body], None], monkeypatch: pytest.MonkeyPatch, lacks: int
) -> None:
    def lacking(path: Path, pace: reading.Pace) -> str:
        raise OSError(lacks, os.strerror(lacks))

    async def body(house: House) -> None:
        monkeypatch.setattr(layers_module.trees, "sha256", lacking)
        with capture_logs() as said:
            await house.checks.use("im-upper")
            await house.looked()
        assert house.known() == [] and any("cannot be compared" in line["event"] for line in said)

    run(body)


@pytest.mark.parametrize("of", ["file", "directory"])
def test_what_the_disk_cannot_read_is_damaged(
    run: Callable[[Body], None], monkeypatch: pytest.MonkeyPatch, of: str
) -> None:
    real = os.scandir

    def failing(path: Path, *rest: object) -> object:
        if of == "file" or str(path).endswith("usr/lib"):
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))
        return real(path)

    async def body(house: House) -> None:
        monkeypatch.setattr(layers_module.trees, "sha256" if of == "file" else "os", failing)
        if of == "directory":
            fake = type("os", (), {name: getattr(os, name) for name in ("path", "readlink")} | {"scandir": failing})
            monkeypatch.setattr(layers_module.trees, "os", fake)
        await house.checks.use("im-lower")
        await house.looked()
        [known] = house.damages.all()
        assert "usr/lib" in known.detail and "cannot be read (Input/output error)" in known.detail

    run(body)


def test_a_server_that_stops_does_not_wait(run: Callable[[Body], None], monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor does it take what it has not read for damaged, or for whole."""
    monkeypatch.setattr(layers_module, "_BYTES_A_SECOND", 1.0)

    async def body(house: House) -> None:
        before = set(threading.enumerate())  # readers of other tests may not have ended
        await house.again()  # with that pace
        await house.checks.use("im-upper")
        for _ in range(1_000):
            mine = [t for t in set(threading.enumerate()) - before if t.name.startswith("background reader")]
            if mine:
                break
            await asyncio.sleep(0.01)
        [thread] = mine
        await house.again()
        thread.join(10.0)
        assert not thread.is_alive() and house.known() == []
        assert not list((house.images / "sums").glob("*.checked"))

    run(body)


def test_a_call_is_refused_only_where_no_container_runs(tmp_path: Path) -> None:
    async def refuse(image_id: str) -> None:
        raise Damaged("The image is damaged.")

    async def scenario() -> None:
        async with world(tmp_path) as it:
            call = await it.a_map(1)
            it.scheduler.check_layers = refuse
            again, _ = await it.calls.start(call.function_id, "map", 1, "", [(0, b"x")], spawned=False)
            assert again.open_inputs, "running containers go on"
            cold = await it.a_function()
            with pytest.raises(Damaged):
                await it.calls.start(cold, "map", 1, "", [(0, b"x")], spawned=False)

    run_for(20, scenario())
