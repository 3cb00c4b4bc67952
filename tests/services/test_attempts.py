"""Who guesses tokens is slowed down, counted and logged; who shares an address with them is not locked out."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from stoker.errors import TooManyAttempts, Unauthenticated
from stoker.services.access import attempts as attempts_module
from stoker.services.access.attempts import Attempts, Peer
from stoker.services.access.proxy_tokens import ProxyTokens
from stoker.services.access.tokens import Tokens
from stoker.services.environments.environments import Environments
from stoker.store.database import Database

HERE, ELSEWHERE = Peer("192.0.2.1", "grpc"), Peer("192.0.2.2", "grpc")
_BURST = attempts_module._BURST
_PAUSE = attempts_module._SECONDS_EACH


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


class Door:
    """Tokens, of which `right` works and `other` too."""

    def __init__(self, database: Database) -> None:
        self.clock = Clock()
        self.failures: Counter[tuple[str, str]] = Counter()
        self.attempts = Attempts(lambda door, reason: self.failures.update([(door, reason)]), self.clock)
        self.tokens = Tokens(database, self.attempts)

    async def open(self) -> None:
        self.right = await self.tokens.create("right")
        self.other = await self.tokens.create("other")

    def guess(self, count: int, peer: Peer = HERE, token_id: str = "", start: int = 0) -> int:
        """How many of these guesses were looked at."""
        looked_at = 0
        for number in range(start, start + count):
            try:
                self.tokens.authenticate(token_id or self.right[0], f"as-{number}", peer)
            except TooManyAttempts:
                continue
            except Unauthenticated:
                looked_at += 1
        return looked_at


def at_the_door(tmp_path: Path, test: Callable[[Door], Awaitable[None]]) -> None:
    async def main() -> None:
        database = Database.open(f"sqlite:///{tmp_path}/db")
        door = Door(database)
        await door.open()
        await test(door)
        await database.close()

    asyncio.run(main())


def test_guesses_are_looked_at_one_by_one_after_the_first(tmp_path: Path) -> None:
    async def test(door: Door) -> None:
        assert door.guess(1000) == _BURST
        with pytest.raises(TooManyAttempts) as refusal:
            door.tokens.authenticate(*door.right, HERE)
        assert 0 < refusal.value.retry_after <= _PAUSE
        door.clock.now += _PAUSE
        assert door.guess(1000, start=1000) == 1
        door.clock.now += 10 * _PAUSE
        assert door.guess(1000, start=2000) == 10
        door.clock.now += 1e6
        assert door.guess(1000, start=3000) == _BURST

    at_the_door(tmp_path, test)


def test_the_right_token_is_held_up_only_where_it_is_guessed_and_only_for_a_moment(tmp_path: Path) -> None:
    async def test(door: Door) -> None:
        door.guess(1000)
        assert door.tokens.authenticate(*door.right, ELSEWHERE).name == "right"
        assert door.tokens.authenticate(*door.other, HERE).name == "other"  # behind the same NAT
        assert door.tokens.authenticate(*door.right, HERE._replace(proven=True)).name == "right"  # already connected
        with pytest.raises(TooManyAttempts):
            door.tokens.authenticate(*door.right, HERE)
        door.clock.now += _PAUSE
        assert door.tokens.authenticate(*door.right, HERE).name == "right"

    at_the_door(tmp_path, test)


def test_guessing_of_ids_holds_up_no_token_that_exists(tmp_path: Path) -> None:
    async def test(door: Door) -> None:
        looked_at = sum(door.guess(1, token_id=f"ak-{number:022}") for number in range(1000))
        assert looked_at == _BURST
        assert door.tokens.authenticate(*door.right, HERE).name == "right"

    at_the_door(tmp_path, test)


def test_a_program_that_repeats_an_old_secret_guesses_nothing(tmp_path: Path) -> None:
    async def test(door: Door) -> None:
        for _ in range(1000):
            with pytest.raises(Unauthenticated, match="its secret is wrong"):
                door.tokens.authenticate(door.right[0], "as-old", HERE)
        assert door.tokens.authenticate(*door.right, HERE).name == "right"

    at_the_door(tmp_path, test)


def test_a_proven_connection_may_not_guess_for_others(tmp_path: Path) -> None:
    async def test(door: Door) -> None:
        with pytest.raises(Unauthenticated):
            door.tokens.authenticate(door.right[0], "as-changed", HERE._replace(proven=True))
        assert door.failures == {("grpc", "wrong_secret"): 1}

    at_the_door(tmp_path, test)


def test_a_network_of_ipv6_is_one_address(tmp_path: Path) -> None:
    async def test(door: Door) -> None:
        looked_at = sum(door.guess(1, Peer(f"2001:db8::{n:x}", "grpc"), start=n) for n in range(1, 500))
        assert looked_at == _BURST
        assert door.guess(1, Peer("2001:db8:0:1::1", "grpc")) == 1
        assert door.guess(100, Peer("::ffff:198.51.100.7", "grpc")) == _BURST
        assert door.guess(1, Peer("198.51.100.7", "grpc"), start=500) == 0

    at_the_door(tmp_path, test)


def test_what_is_kept_and_logged_is_bounded(tmp_path: Path) -> None:
    async def test(door: Door) -> None:
        with capture_logs() as lines:
            for number in range(6000):
                door.guess(1, Peer(f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}", "grpc"))
            door.guess(1000)
        assert len(door.attempts._records) == attempts_module._MOST_KEPT
        assert len(lines) == attempts_module._MOST_LINES
        assert sum(door.failures.values()) == 7000
        door.clock.now += 61
        with capture_logs() as lines:
            door.guess(1, start=5000)
        [line] = lines
        assert line["others_not_logged"] > 5000

    at_the_door(tmp_path, test)


def test_one_address_gets_a_line_a_minute(tmp_path: Path) -> None:
    async def test(door: Door) -> None:
        with capture_logs() as lines:
            door.guess(500)
            door.clock.now += 61
            door.guess(1, start=1000)
        first, second = lines
        assert first == {
            "event": "authentication failed",
            "log_level": "warning",
            "peer": "192.0.2.1",
            "door": "grpc",
            "reason": "wrong_secret",
            "token": door.right[0],
        }
        assert second["more_like_this"] == 499

    at_the_door(tmp_path, test)


def test_no_secret_and_no_text_of_the_peer_gets_into_the_log(tmp_path: Path) -> None:
    async def test(door: Door) -> None:
        odd = Peer("evil\n\x1b[31m\N{SNOWMAN}" + "x" * 10_000, "http")
        with capture_logs() as lines:
            for shown in (door.right[::-1], ("as-secret-as-id", "s3cr3t"), ("\xff" * 3900, "s3cr3t"), ("", "s3cr3t")):
                with pytest.raises(Unauthenticated) as refusal:
                    door.tokens.authenticate(*shown, odd)
                assert len(str(refusal.value)) < 300 and "\xff" not in str(refusal.value)
                door.clock.now += 61
        text = repr(lines)
        assert door.right[1] not in text and "as-secret-as-id" not in text and "s3cr3t" not in text
        assert {
            len(line["peer"]) <= 80 and line["peer"].isprintable() and line["peer"].isascii() for line in lines
        } == {True}

    at_the_door(tmp_path, test)


def test_reasons_are_counted(tmp_path: Path) -> None:
    async def test(door: Door) -> None:
        await door.tokens.disable([door.other[0]])
        short = await door.tokens.create("short", 0.001)
        await asyncio.sleep(0.01)
        for shown in (("", ""), ("ak-x", "as-x"), (door.right[0], "as-x"), door.other, short):
            with pytest.raises(Unauthenticated):
                door.tokens.authenticate(*shown, HERE)
        door.guess(_BURST)
        reasons = {reason: count for (_, reason), count in door.failures.items()}
        assert reasons == {
            "no_token": 1,
            "unknown_token": 1,
            "wrong_secret": _BURST,
            "disabled": 1,
            "expired": 1,
            "too_many": 1,
        }

    at_the_door(tmp_path, test)


def test_proxy_tokens_are_guarded_alike(tmp_path: Path) -> None:
    async def main() -> None:
        database = Database.open(f"sqlite:///{tmp_path}/db")
        environments = Environments(database=database, default="main")
        await environments.load()
        main = environments.default().id
        clock, failures = Clock(), Counter[str]()
        attempts = Attempts(lambda door, reason: failures.update([reason]), clock)
        tokens = ProxyTokens(database=database, environments=environments, attempts=attempts)
        right, other = await tokens.create("right"), await tokens.create("other")
        for number in range(_BURST):
            assert not tokens.check(right[0], f"ws-{number}", main, HERE)
        with pytest.raises(TooManyAttempts):
            tokens.check(*right, main, HERE)
        assert tokens.check(*right, main, ELSEWHERE) and tokens.check(*other, main, HERE)
        clock.now += _PAUSE
        assert tokens.check(*right, main, HERE)
        assert failures == {"wrong_secret": _BURST, "too_many": 1}
        await database.close()

    asyncio.run(main())
