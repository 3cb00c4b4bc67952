"""Dicts by the official client."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from pathlib import Path

import modal
import pytest
import sqlalchemy as sa
from modal.client import Client
from modal_proto import api_pb2

from stoker.errors import NotFound
from stoker.services.environments.environments import Environments
from stoker.services.state import dicts as service
from stoker.services.state.dicts import Dicts
from stoker.store import tables
from stoker.store.database import Database

from .conftest import StateServer
from .raw import call


@pytest.fixture
def entries(client: Client) -> Iterator[modal.Dict]:
    with modal.Dict.ephemeral(client=client) as made:
        yield made


def test_it_behaves_like_a_dict(entries: modal.Dict) -> None:
    entries["a"] = 1
    entries[("b", 2)] = {"deep": [1, 2]}
    entries.update({"c": None, "a": 3})
    assert entries["a"] == 3 and entries[("b", 2)] == {"deep": [1, 2]} and entries["c"] is None
    assert entries.len() == 3 and "c" in entries and "d" not in entries
    assert set(entries.keys()) == {"a", ("b", 2), "c"}
    assert sorted(entries.values(), key=str) == sorted([3, {"deep": [1, 2]}, None], key=str)
    assert dict(entries.items()) == {"a": 3, ("b", 2): {"deep": [1, 2]}, "c": None}
    assert entries.pop("a") == 3 and entries.get("a", "gone") == "gone" and entries.pop("a", "none") == "none"
    with pytest.raises(KeyError):
        entries["a"]
    with pytest.raises(KeyError):
        entries.pop("a")
    del entries["c"]
    entries.clear()
    assert entries.len() == 0 and list(entries.items()) == []


def test_putting_only_what_is_not_there(entries: modal.Dict) -> None:
    assert entries.put("k", 1) is True
    assert entries.put("k", 2, skip_if_exists=True) is False and entries["k"] == 1
    assert entries.put("k", 2) is True and entries["k"] == 2
    assert entries.put("new", 3, skip_if_exists=True) is True and entries["new"] == 3


def test_one_of_many_wins_a_key(state: StateServer, client: Client) -> None:
    """`if_not_exists` is a lock between callers: exactly one of them gets True."""
    with modal.Dict.ephemeral(client=client) as made:

        async def race() -> list[bool]:
            return list(
                await asyncio.gather(
                    *(state.dicts.update(made.object_id, [(b"lock", b"%d" % n)], if_absent=True) for n in range(50))
                )
            )

        won = state.run(race())
        assert won.count(True) == 1
        assert state.dicts.get(made.object_id, b"lock") == b"%d" % won.index(True)


def test_pages_hold_every_entry_once(entries: modal.Dict, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "_PAGE_ENTRIES", 7)
    monkeypatch.setattr(service, "_PAGE_BYTES", 100)
    for count in (6, 7, 8, 14, 30):
        entries.clear()
        entries.update({n: "x" * n for n in range(count)})
        assert dict(entries.items()) == {n: "x" * n for n in range(count)}
        assert sorted(entries.keys()) == list(range(count))


def test_large_values_and_many_entries(entries: modal.Dict) -> None:
    entries["large"] = b"x" * (20 << 20)
    assert len(entries["large"]) == 20 << 20
    entries.update({n: n for n in range(9_000)})
    assert entries.len() == 9_001
    with pytest.raises(modal.exception.InvalidError, match="10000 entries"):
        entries.update({n: n for n in range(10_001)})
    with pytest.raises(modal.exception.InvalidError, match="value of a dict may have 100 MiB"):
        entries["too large"] = b"x" * (101 << 20)
    with pytest.raises(modal.exception.InvalidError, match="key of a dict"):
        entries["k" * (2 << 20)] = 1
    assert entries.len() == 9_001


def test_creation_types(client: Client) -> None:
    with pytest.raises(modal.exception.NotFoundError, match="Dict 'absent' not found in the environment 'main'"):
        modal.Dict.from_name("absent").hydrate(client)
    modal.Dict.objects.create("named", client=client)
    with pytest.raises(modal.exception.AlreadyExistsError, match="'named' exists already"):
        modal.Dict.objects.create("named", client=client)
    modal.Dict.objects.create("named", allow_existing=True, client=client)
    one = modal.Dict.from_name("named").hydrate(client)
    one["x"] = 1
    same = modal.Dict.from_name("named", create_if_missing=True).hydrate(client)
    assert same.object_id == one.object_id and same["x"] == 1
    assert modal.Dict.from_id(one.object_id, client=client)["x"] == 1
    info = one.info()
    assert info.name == "named" and info.created_at is not None
    assert [d.name for d in modal.Dict.objects.list(client=client)].count("named") == 1
    modal.Dict.objects.delete("named", client=client)
    with pytest.raises(modal.exception.NotFoundError):
        one["x"]
    with pytest.raises(modal.exception.NotFoundError):
        one["x"] = 1
    modal.Dict.objects.delete("named", allow_missing=True, client=client)
    with pytest.raises(modal.exception.InvalidError):
        modal.Dict.from_name("n" * 65, create_if_missing=True).hydrate(client)


def test_lists_come_in_pages_newest_first(state: StateServer, client: Client) -> None:
    names = [f"page-{n}" for n in range(5)]
    for name in names:
        modal.Dict.objects.create(name, client=client)
    environment = state.environments.resolve("").id
    first = [d.name for d in state.dicts.objects.named(environment, 2)]
    assert first == ["page-4", "page-3"]
    before = state.dicts.objects.find(environment, "page-3").created_at
    assert [d.name for d in state.dicts.objects.named(environment, 2, before)] == ["page-2", "page-1"]


def test_an_environment_takes_its_dicts_along(state: StateServer, client: Client) -> None:
    modal.Environment.objects.create("dicts-dev", client=client)
    modal.Dict.objects.create("inner", environment_name="dicts-dev", client=client)
    inner = modal.Dict.from_name("inner", environment_name="dicts-dev").hydrate(client)
    inner["x"] = 1
    modal.Environment.objects.delete("dicts-dev", client=client)
    with pytest.raises(NotFound):
        state.dicts.objects.get(inner.object_id)
    with pytest.raises(NotFound):
        state.dicts.get(inner.object_id, b"")


def test_a_repeat_of_a_pop_gets_the_same_value(state: StateServer, client: Client) -> None:
    """As when the answer was lost on its way."""
    with modal.Dict.ephemeral(client=client) as made:
        state.run(state.dicts.update(made.object_id, [(b"k", b"v")]))
        request = api_pb2.DictPopRequest(dict_id=made.object_id, key=b"k")
        first, second = (call(state, "DictPop", request, key="one", attempt=n) for n in range(2))
        assert first.value == second.value == b"v"
        assert not call(state, "DictPop", request, key="another").found
        assert state.run(state.dicts.pop(made.object_id, b"k", request=f"{state.token[0]}/one")) == b"v", (
            "for a restart"
        )


def test_ephemeral_ones_live_while_heartbeats_come(state: StateServer, client: Client) -> None:
    environment = state.environments.resolve("").id
    lost, alive = (state.run(state.dicts.objects.create_ephemeral(environment)) for _ in range(2))
    state.run(state.dicts.update(lost.id, [(b"k", b"v")]))
    for made in (lost, alive):
        state.dicts.objects._signs._heard[made.id] -= 1_000
    state.run(state.dicts.objects.heartbeat(alive.id))
    state.run(state.dicts.objects.sweep())
    state.dicts.objects.get(alive.id)
    with pytest.raises(NotFound):
        state.dicts.objects.get(lost.id)


def test_ephemeral_ones_outlive_a_leap_of_the_clock_and_a_server_that_was_away(tmp_path: Path) -> None:
    """As when a laptop has slept for an hour: no heartbeat could come."""

    async def scenario() -> None:
        database = Database.open(f"sqlite:///{tmp_path}/db")
        environments = Environments(database=database, default="main")
        await environments.load()
        dicts = Dicts(database=database, environments=environments)
        made = await dicts.objects.create_ephemeral(environments.resolve("").id)
        an_hour_ago = sa.update(tables.dicts).values(heartbeat_at=time.time() - 3_600)
        await database.write(lambda connection: connection.execute(an_hour_ago))
        made.heartbeat_at = time.time() - 3_600
        await dicts.objects.sweep()
        dicts.objects.get(made.id)
        dicts = Dicts(database=database, environments=environments)
        await dicts.objects.sweep()
        dicts.objects.get(made.id)
        await database.close()

    asyncio.run(scenario())


def test_entries_survive_a_kill(tmp_path: Path) -> None:
    async def scenario() -> None:
        database = Database.open(f"sqlite:///{tmp_path}/db")
        environments = Environments(database=database, default="main")
        await environments.load()
        dicts = Dicts(database=database, environments=environments)
        made, _ = await dicts.objects.create(environments.resolve("").id, "d", if_exists="fail")
        await dicts.update(made.id, [(b"k", b"v")])
        again = Database.open(f"sqlite:///{tmp_path}/db")  # without a close, as after a kill
        environments = Environments(database=again, default="main")
        await environments.load()
        dicts = Dicts(database=again, environments=environments)
        assert dicts.get(dicts.objects.find(environments.resolve("").id, "d").id, b"k") == b"v"
        await again.close()
        await database.close()

    asyncio.run(scenario())


def test_repeats_after_a_kill_get_the_first_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def server() -> tuple[Database, Dicts, str]:
        database = Database.open(f"sqlite:///{tmp_path}/db")
        environments = Environments(database=database, default="main")
        await environments.load()
        dicts = Dicts(database=database, environments=environments)
        made, _ = await dicts.objects.create(environments.resolve("").id, "d", if_exists="keep")
        return database, dicts, made.id

    async def requests(dicts: Dicts, dict_id: str) -> list[object]:
        return [
            await dicts.update(dict_id, [(b"k", b"v")], if_absent=True, request="first"),
            await dicts.update(dict_id, [(b"k", b"w")], if_absent=True, request="second"),
            await dicts.pop(dict_id, b"k", request="third"),
            await dicts.pop(dict_id, b"k", request="fourth"),
        ]

    async def scenario() -> None:
        first, dicts, dict_id = await server()
        answers = await requests(dicts, dict_id)
        assert answers == [True, False, b"v", None]
        await dicts.update(dict_id, [(b"k", b"of somebody else")])
        again, dicts, dict_id = await server()  # without a close, as after a kill
        assert await requests(dicts, dict_id) == answers
        assert dicts.get(dict_id, b"k") == b"of somebody else"
        monkeypatch.setattr(service, "_KEEP_ANSWERS", -1.0)
        await dicts.sweep()
        with again.read() as connection:
            assert connection.execute(sa.select(tables.dict_answers)).all() == []
        await again.close()
        await first.close()

    asyncio.run(scenario())


def test_the_command_line(state: StateServer, client: Client) -> None:
    state.modal("dict", "create", "from-cli")
    modal.Dict.from_name("from-cli").hydrate(client).update({"a": 1, "b": "two"})
    assert state.modal("dict", "get", "from-cli", "b").stdout.strip() == "two"
    items = json.loads(state.modal("dict", "items", "from-cli", "--json").stdout)
    assert sorted(map(str, items)) == ["{'key': 'a', 'value': 1}", "{'key': 'b', 'value': 'two'}"]
    assert "from-cli" in {d["name"] for d in json.loads(state.modal("dict", "list", "--json").stdout)}
    state.modal("dict", "clear", "from-cli", "--yes")
    assert json.loads(state.modal("dict", "items", "from-cli", "--json").stdout) == []
    state.modal("dict", "delete", "from-cli", "--yes")
    assert "Dict 'from-cli' not found" in state.modal("dict", "items", "from-cli", check=False).stderr
