"""Failed authentications: counted, logged, and slowed down where somebody guesses.

A guess is a wrong secret that did not come from this address before: a program that repeats one old secret guesses nothing. Guesses count
for an address and a token. Others at the same address, as behind a NAT or a proxy, are held up only while somebody there guesses the very
token that they use.
"""

from __future__ import annotations

import time
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from ipaddress import IPv6Address, ip_address
from typing import NamedTuple

import structlog

from stoker.errors import TooManyAttempts

_BURST = 20  # guesses that are looked at at once
_SECONDS_EACH = 3.0  # until one more is
_MOST_KEPT = 4096  # pairs of an address and a token
_MOST_LINES = 30  # in the log
_LINES_PERIOD = 60.0  # seconds, for all lines and between two about one pair
_LONGEST_ADDRESS = 60
_log = structlog.get_logger(__name__)

# Reasons.
MISSING, UNKNOWN, WRONG, LIMITED = "no_token", "unknown_token", "wrong_secret", "too_many"
DISABLED, EXPIRED, ELSEWHERE = "disabled", "expired", "other_environment"


class Peer(NamedTuple):
    """Who shows a token. address: an IP address, or words for another peer. door: "grpc", "http" or "web".
    proven: whether the same connection has shown the same token before, rightly."""

    address: str
    door: str
    proven: bool = False


INSIDE = Peer("", "inside")
"""The server itself."""


@dataclass
class _Record:
    """What came from one address about one token, about any that does not exist, or without one. `full_at`: when all of its guesses are available again."""

    full_at: float = 0.0
    wrong: deque[str] = field(default_factory=lambda: deque(maxlen=_BURST))  # digests of what was shown
    logged_at: float | None = None
    unlogged: int = 0


class Attempts:
    """count: called with the door and the reason of every failure."""

    def __init__(
        self, count: Callable[[str, str], None] = lambda door, reason: None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._count = count
        self._clock = clock
        self._records: OrderedDict[tuple[str, str], _Record] = OrderedDict()
        self._lines: deque[float] = deque(maxlen=_MOST_LINES)
        self._unlogged = 0

    def check(self, peer: Peer, token_id: str) -> None:
        """To be called before a secret is looked at. token_id: "" for a token that does not exist. Raises TooManyAttempts."""
        if peer is INSIDE or peer.proven:
            return
        record = self._records.get((_network(peer.address), token_id or UNKNOWN))
        wait = record.full_at - self._clock() - (_BURST - 1) * _SECONDS_EACH if record is not None else 0.0
        if wait > 0:
            self.failed(peer, LIMITED, token_id)
            raise TooManyAttempts(
                f"Too many wrong tokens came from your address. Wait {max(1, round(wait))} s, then try again with the right one.",
                wait,
            )

    def failed(self, peer: Peer, reason: str, token_id: str = "", guess: str = "") -> None:
        """An authentication failed. token_id: "" for a token that does not exist. guess: a digest of what was shown, "" when that was not looked
        at."""
        if peer is INSIDE:
            return
        self._count(peer.door, reason)
        record = self._record(_network(peer.address), token_id or (MISSING if reason == MISSING else UNKNOWN))
        now = self._clock()
        if guess and guess not in record.wrong:
            record.wrong.append(guess)
            record.full_at = max(record.full_at, now) + _SECONDS_EACH
        self._write(record, now, peer, reason, token_id)

    def _record(self, network: str, subject: str) -> _Record:
        key = network, subject
        record = self._records.get(key)
        if record is None:
            record = self._records[key] = _Record()
            if len(self._records) > _MOST_KEPT:
                self._records.popitem(last=False)
        self._records.move_to_end(key)
        return record

    def _write(self, record: _Record, now: float, peer: Peer, reason: str, token_id: str) -> None:
        """A line, unless there was one about this lately, or too many about others. The token's id is one that exists: whoever mixes up id and
        secret sends the secret as id."""
        recent = record.logged_at is not None and now < record.logged_at + _LINES_PERIOD
        if recent or (len(self._lines) == _MOST_LINES and now < self._lines[0] + _LINES_PERIOD):
            record.unlogged += recent
            self._unlogged += not recent
            return
        self._lines.append(now)
        more = {"more_like_this": record.unlogged} if record.unlogged else {}
        others = {"others_not_logged": self._unlogged} if self._unlogged else {}
        record.logged_at, record.unlogged, self._unlogged = now, 0, 0
        _log.warning(
            "authentication failed",
            peer=_shown(peer.address),
            door=peer.door,
            reason=reason,
            token=token_id or "none that exists",
            **more,
            **others,
        )


@lru_cache(_MOST_KEPT)
def _network(address: str) -> str:
    """What counts as one address: a machine has a whole /64 of IPv6."""
    try:
        parsed = ip_address(address)
    except ValueError:
        return _shown(address)
    if not isinstance(parsed, IPv6Address):
        return str(parsed)
    if parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    return str(IPv6Address(int(parsed) >> 64 << 64))


def _shown(address: str) -> str:
    """A proxy may call its clients whatever it likes."""
    return ascii(address[:_LONGEST_ADDRESS])[1:-1]
