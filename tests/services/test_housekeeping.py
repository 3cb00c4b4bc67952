"""Old results go, unfinished work stays."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import sqlalchemy as sa
from modal_proto import api_pb2

from stoker.services.blobs import Blobs
from stoker.services.housekeeping import Housekeeping, forget_old_calls
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


def output_of(name: str) -> dict[str, object]:
    base = {"input_id": f"in-{name}", "call_id": f"fc-{name}", "idx": 0, "seq": 1, "result": b"", "data_format": 1}
    return base | {"status": 1, "task_id": "", "started_at": 0.0, "created_at": time.time()}


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
        await database.insert(tables.outputs, [output_of("old") | {"result": ended}, output_of("young")])
        assert await forget_old_calls(database, blobs, 7) == 1
        with database.read() as connection:
            assert set(connection.execute(sa.select(tables.blobs.c.id)).scalars()) == {kept}
        with database.read() as connection:
            for table, expected in ((tables.calls, 2), (tables.inputs, 2), (tables.outputs, 1)):
                assert connection.execute(sa.select(sa.func.count()).select_from(table)).scalar() == expected
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
