"""What small files of a volume cost, and that they are whole."""

from __future__ import annotations

import os
from typing import Any

import aiohttp
import modal
import pytest
import sqlalchemy as sa
from modal.client import Client

from stoker.errors import FailedPrecondition
from stoker.services.files.volume_files import BlockReader

from .conftest import StateServer
from .test_volumes import content, put, volume2  # noqa: F401


def test_a_small_file_that_was_cut_while_it_was_downloaded(state: StateServer, volume2: modal.Volume) -> None:  # noqa: F811
    put(volume2, f=b"x" * 5000)
    found = state.run(state.files.locate(volume2.object_id, "f", 0, 0, may_trim=False))
    path = state.volumes.directory(volume2.object_id) / "f"
    os.truncate(path, 4000)
    with path.open("rb", buffering=0) as file, pytest.raises(FailedPrecondition, match="shorter"):
        BlockReader(file, 0, 5000)

    async def fetch() -> int:
        url = state.urls.url("GET", found.get_paths[0], kind="client")
        async with aiohttp.ClientSession() as session, session.get(url) as response:
            return response.status

    assert state.run(fetch()) == 409


def test_the_row_of_a_volume_is_not_read_for_each_file(state: StateServer, client: Client) -> None:
    name, new = "read-once", "read-once-renamed"
    volume = modal.Volume.from_name(name, create_if_missing=True, client=client).hydrate(client)
    queries: list[str] = []

    def heard(*event: Any) -> None:
        queries.append(event[2])

    sa.event.listen(state.database.engine, "before_cursor_execute", heard)
    put(volume, f=b"x")
    assert [content(volume, "f") for _ in range(20)] == [b"x"] * 20
    sa.event.remove(state.database.engine, "before_cursor_execute", heard)
    assert len([query for query in queries if "FROM volumes" in query]) < 5
    modal.Volume.rename(name, new, client=client)
    with pytest.raises(FileNotFoundError, match=new):  # messages call it by the name it has now
        content(volume, "none")
    modal.Volume.objects.delete(new, client=client)
    with pytest.raises(FileNotFoundError, match=r"Volume .* not found"):
        content(volume, "f")
