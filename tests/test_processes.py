from __future__ import annotations

import os

import uvloop

from stoker.aio.processes import capture


def test_a_program_may_end_before_it_reads_its_input() -> None:
    async def run() -> list[int]:
        return [(await capture(("true",), env=dict(os.environ), stdin="unread")).code for _ in range(300)]

    assert set(uvloop.run(run())) == {0}


def test_a_program_reads_its_input_to_the_end() -> None:
    text = "grün\n" * 50_000
    assert uvloop.run(capture(("cat",), env=dict(os.environ), stdin=text)).output == text
