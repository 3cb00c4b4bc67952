"""Old results go, unfinished work stays."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
import sqlalchemy as sa
from modal_proto import api_pb2

from stoker.services.files.blobs import Blobs
from stoker.services.upkeep import forget as housekeeping
from stoker.services.upkeep.forget import Housekeeping, forget_old_calls, forget_old_logs
from stoker.store import tables
from stoker.store.blobs import BlobStore
from stoker.store.database import Database

DAY = 86_400


def call(name: str, age_days: float) -> dict[str, object]:
    return {
        "id": f"fc-{name}",
        "function_id": "fu",
        "app_id": "ap",
        "parent_input_id": "",
        "kind": "unary",
        "invocation": 1,
        "cancelled": False,
        "created_at": time.time() - age_days * DAY,
    }


def input_of(name: str) -> dict[str, object]:
    return {"id": f"in-{name}", "call_id": f"fc-{name}", "idx": 0, "payload": b"", "created_at": time.time()}


def output_of(name: str, age_days: float = 7.5) -> dict[str, object]:
    base = {"input_id": f"in-{name}", "call_id": f"fc-{name}", "idx": 0, "seq": 1, "result": b"", "data_format": 1}
    return base | {"status": 1, "task_id": "", "started_at": 0.0, "created_at": time.time() - age_days * DAY}


def test_only_old_and_finished_calls_go(tmp_path: Path) -> None:
    async def scenario() -> None:
        database = Database.open(f"sqlite:///{tmp_path}/db")
        await database.insert(tables.calls, [call("old", 8), call("young", 6), call("unfinished", 8)])
        blobs = Blobs(database=database, store=BlobStore.local(tmp_path / "blobs"))
        argument, result, kept = [(await blobs.create(10)).blob_id for _ in range(3)]
        payloads = {"old": argument, "young": kept, "unfinished": ""}
        await database.insert(
            tables.inputs,
            [
                input_of(n) | {"payload": api_pb2.FunctionInput(args_blob_id=b).SerializeToString()}
                for n, b in payloads.items()
            ],
        )
        ended = api_pb2.GenericResult(data_blob_id=result).SerializeToString()
        await database.insert(tables.outputs, [output_of("old") | {"result": ended}, output_of("young", 5)])
        assert await forget_old_calls(database, blobs, 7) == 1
        with database.read() as connection:
            assert set(connection.execute(sa.select(tables.blobs.c.id)).scalars()) == {kept}
        with database.read() as connection:
            for table, expected in ((tables.calls, 2), (tables.inputs, 2), (tables.outputs, 1)):
                assert connection.execute(sa.select(sa.func.count()).select_from(table)).scalar() == expected
        await database.close()

    asyncio.run(scenario())


def test_of_web_requests_only_the_newest_are_kept(tmp_path: Path) -> None:
    async def scenario() -> None:
        database = Database.open(f"sqlite:///{tmp_path}/db")
        blobs = Blobs(database=database, store=BlobStore.local(tmp_path / "blobs"))
        ages = {"newest": 0.1, "newer": 0.2, "older": 0.3, "oldest": 0.4}
        await database.insert(
            tables.calls, [call(n, a) | {"kind": "web"} for n, a in ages.items()] + [call("other", 1)]
        )
        await database.insert(tables.inputs, [input_of(n) for n in (*ages, "other")])
        await database.insert(tables.outputs, [output_of(n, 0.05) for n in (*ages, "other")])
        assert await forget_old_calls(database, blobs, 7, most_web=4) == 0
        assert await forget_old_calls(database, blobs, 7, most_web=2) == 2
        with database.read() as connection:
            left = set(connection.execute(sa.select(tables.calls.c.id)).scalars())
        assert left == {"fc-newest", "fc-newer", "fc-other"}
        assert await count(database, tables.inputs, tables.outputs) == [3, 3]
        await database.close()

    asyncio.run(scenario())


async def count(database: Database, *of: sa.Table) -> list[int]:
    with database.read() as connection:
        return [connection.execute(sa.select(sa.func.count()).select_from(table)).scalar_one() for table in of]


def test_the_age_of_a_call_counts_from_its_last_end(tmp_path: Path) -> None:
    async def scenario() -> None:
        database = Database.open(f"sqlite:///{tmp_path}/db")
        blobs = Blobs(database=database, store=BlobStore.local(tmp_path / "blobs"))
        await database.insert(tables.calls, [call("long", 8), call("cancelled", 8) | {"cancelled": True}])
        await database.insert(tables.inputs, [input_of("long"), input_of("cancelled")])
        await database.insert(tables.outputs, [output_of("long", 2)])
        assert await forget_old_calls(database, blobs, 7) == 0, (
            "a result of two days ago, or the end of a cancelled call"
        )
        assert await forget_old_calls(database, blobs, 1) == 1
        await database.close()

    asyncio.run(scenario())


def test_old_calls_go_in_parts_with_commits_in_between(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(housekeeping, "_SLICE", 10)

    async def scenario() -> None:
        database = Database.open(f"sqlite:///{tmp_path}/db")
        blobs = Blobs(database=database, store=BlobStore.local(tmp_path / "blobs"))
        await database.insert(tables.calls, [call("large", 8), *(call(f"{n}", 8) for n in range(15)), call("none", 9)])
        large = [input_of("large") | {"id": f"in-large-{n}", "idx": n} for n in range(25)]
        small = [input_of(f"{n}") for n in range(15)]
        await database.insert(tables.inputs, large + small)
        ends = [output_of("large") | {"input_id": i["id"], "idx": i["idx"]} for i in large]
        await database.insert(tables.outputs, ends + [output_of(f"{n}") for n in range(15)])
        left: list[list[int]] = []

        async def delete(blob_ids: object) -> None:
            left.append(await count(database, tables.inputs, tables.outputs))

        monkeypatch.setattr(blobs, "delete", delete)
        assert await forget_old_calls(database, blobs, 7) == 17
        inputs = [n for n, _ in left]
        assert left == [[n, n] for n in inputs] and len(left) >= 5
        assert max(a - b for a, b in zip([40, *inputs], inputs, strict=False)) <= 10
        assert await count(database, tables.calls, tables.inputs, tables.outputs) == [0, 0, 0]
        await database.close()

    asyncio.run(scenario())


def test_blobs_of_old_calls_go_though_the_server_was_killed_in_between(tmp_path: Path) -> None:
    async def scenario() -> None:
        database = Database.open(f"sqlite:///{tmp_path}/db")
        store = BlobStore.local(tmp_path / "blobs")
        blobs = Blobs(database=database, store=store)
        blob_id = (await blobs.create(10)).blob_id
        complete = sa.update(tables.blobs).values(complete=True)
        await database.write(lambda connection: connection.execute(complete))
        payload = api_pb2.FunctionInput(args_blob_id=blob_id).SerializeToString()
        await database.insert(tables.calls, [call("old", 8)])
        await database.insert(tables.inputs, [input_of("old") | {"payload": payload}])
        await database.insert(tables.outputs, [output_of("old")])

        class Killed(Blobs):
            async def delete(self, blob_ids: Sequence[str]) -> None:
                raise RuntimeError("the server is killed here")

        with pytest.raises(RuntimeError):
            await forget_old_calls(database, Killed(database=database, store=store), 7)
        assert await count(database, tables.calls, tables.blobs) == [0, 1]
        await blobs.sweep()
        assert await count(database, tables.blobs) == [0]
        await database.close()

    asyncio.run(scenario())


def test_records_of_containers_go_when_those_have_ended_long_ago(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(housekeeping, "_SLICE", 2)

    def task(name: str, enqueued: float, finished: float | None = None) -> dict[str, object]:
        times = {"enqueued_at": time.time() - enqueued * DAY, "finished_at": finished and time.time() - finished * DAY}
        return {"id": f"ta-{name}", "app_id": "ap", "function_id": "fu"} | times

    async def scenario() -> None:
        database = Database.open(f"sqlite:///{tmp_path}/db")
        ended = [task(f"{n}", 9, 8) for n in range(5)]
        await database.insert(
            tables.tasks, [*ended, task("long", 9, 6), task("lost", 8), task("alive", 8), task("new", 1)]
        )
        await housekeeping.forget_old_tasks(database, lambda: ["ta-alive"], 7)
        with database.read() as connection:
            left = set(connection.execute(sa.select(tables.tasks.c.id)).scalars())
        assert left == {"ta-long", "ta-alive", "ta-new"}
        await database.close()

    asyncio.run(scenario())


def test_old_log_entries_go_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(housekeeping, "_SLICE", 4)

    async def scenario() -> None:
        database = Database.open(f"sqlite:///{tmp_path}/db")
        ages = [8.0] * 10 + [1.0] * 5
        rows = [{"seq": n, "timestamp": time.time() - age * DAY, "app_id": "ap"} for n, age in enumerate(ages)]
        await database.insert(tables.logs, [row | {"fd": 1, "data": "a line"} for row in rows])
        await forget_old_logs(database, 7)
        with database.read() as connection:
            assert connection.execute(sa.select(tables.logs.c.seq)).scalars().all() == [10, 11, 12, 13, 14]
        await database.close()

    asyncio.run(scenario())


def test_a_failing_chore_does_not_stop_the_others() -> None:
    async def scenario() -> None:
        done = asyncio.Event()

        async def bad() -> None:
            raise RuntimeError("a chore that fails")

        async def good() -> None:
            done.set()

        keeping = Housekeeping([bad, good])
        await asyncio.wait_for(done.wait(), 5)
        await keeping.close()

    asyncio.run(scenario())
