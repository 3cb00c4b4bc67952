"""Outputs that cannot be stored, for a while or for ever."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace

import pytest
from structlog.testing import capture_logs

from stoker.services import output_storage
from stoker.store.appender import Rows
from tests.services.world import run_for, world


def test_they_are_tried_ever_more_slowly_and_the_log_says_so_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []
    failures = ["no"] * 8 + ["never"] * 3

    async def scenario() -> None:
        async with world(tmp_path) as it:
            call = await it.a_map(1)
            input_id = await it.next_input()
            append = it.database.append

            async def wrong(*rows: Rows) -> None:
                if failures:
                    raise ValueError(failures.pop(0))
                await append(*rows)

            async def sleep(seconds: float) -> None:
                pauses.append(seconds)

            monkeypatch.setattr(it.database, "append", wrong)
            monkeypatch.setattr(output_storage, "asyncio", SimpleNamespace(**vars(asyncio) | {"sleep": sleep}))
            with pytest.raises(ValueError, match="no"):
                await it.report(input_id)
            with capture_logs() as said:
                await it.calls.outputs(call.id, 0, 5.0)
            assert pauses == [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0, 60.0, 60.0, 60.0]
            assert [line["error"] for line in said if "outputs cannot be stored" in line["event"]] == ["no", "never"]

    run_for(20, scenario())
