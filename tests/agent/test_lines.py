"""Output is passed on in lines, unfinished ones after a moment."""

from __future__ import annotations

import asyncio

from stoker.agent.lines import LineSplitter


def test_whole_lines_pass_at_once_and_rests_wait() -> None:
    async def scenario() -> None:
        seen: list[str] = []
        splitter = LineSplitter(seen.append)
        splitter.feed(b"one\ntwo\nthr")
        assert seen == ["one\ntwo\n"]
        splitter.feed(b"ee\n")
        assert seen[1:] == ["three\n"]
        splitter.feed(b"progress 10%\r")
        assert len(seen) == 2
        await asyncio.sleep(0.3)
        assert seen[2:] == ["progress 10%\r"]
        splitter.feed("end ä".encode()[:-1])
        splitter.feed("ä".encode()[1:] + b"\xff")
        splitter.close()
        assert "".join(seen[3:]) == "end ä\ufffd"

    asyncio.run(scenario())


def test_an_endless_line_is_passed_in_pieces() -> None:
    async def scenario() -> None:
        seen: list[str] = []
        splitter = LineSplitter(seen.append)
        for _ in range(10):
            splitter.feed(b"x" * 20_000)
        splitter.close()
        assert sum(map(len, seen)) == 200_000 and max(map(len, seen)) < 100_000

    asyncio.run(scenario())
