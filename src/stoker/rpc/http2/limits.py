"""What a connection may cost: bytes, streams, frames that bring nothing, and time."""

from __future__ import annotations

from dataclasses import dataclass

from stoker.rpc.http2.frames import ENHANCE_YOUR_CALM, ConnectionFault

MAX_HEADER_BYTES = 16 << 10  # of one request, packed and unpacked; what gRPC servers usually take
MAX_VALUE = 256  # characters of a header's value that are kept; the longest that means something is half as long
MAX_SETTINGS = 64  # entries of one frame; there are six that mean something
MAX_UNREAD = 1 << 20  # bytes a peer may leave unread before it is read no more: whatever it sends may want an answer
MAX_STREAMS = 1 << 15  # as told to every peer at once: one that connects anew brings all its long polls along
TURN = 1_500  # units of work for one connection before others have their turn: some milliseconds
LEAST_BYTES = 4 << 10  # that must come in `silence_seconds`; a mobile phone of 1995 managed ten times as many
STREAM_FAULT_COST = 8  # of patience, for a request that breaks the protocol
STREAM_COST = 25  # units that the begin of a request takes; a frame takes one, and so do 4 KiB


@dataclass(frozen=True)
class Limits:
    """What one connection may cost. Made below, a set for each kind of peer; another one holds as soon as a peer has shown who it is."""

    frame_size: int
    """Bytes of a frame: so much of an unfinished one lies in memory."""
    stream_window: int
    """Bytes of a request that may come before the application has granted more."""
    connection_window: int
    """Bytes that may be under way on all streams. Given back on receipt: what lies in memory is bounded by stream."""
    streams: int
    """Open at a time."""
    patience: int
    """Frames that bring nothing (`Patience`)."""
    patience_per_second: float
    begin_seconds: float
    """Until the first request has begun."""
    silence_seconds: float
    """In which `LEAST_BYTES` must come while a request is unfinished."""
    request_seconds: float
    """For a whole request."""
    idle_seconds: float
    """Without a stream. The client connects anew when it has something to say."""
    stall_seconds: float
    """Without reading what was sent."""


# Nobody yet: a client shows its token with its first request, and `modal token new`, which has none, makes one call at a time.
STRANGER = Limits(
    frame_size=16_384,
    stream_window=65_535,
    connection_window=65_535,
    streams=8,
    patience=200,
    patience_per_second=10,
    begin_seconds=20,
    silence_seconds=20,
    request_seconds=20,
    idle_seconds=30,
    stall_seconds=20,
)
# Each call that waits for a result holds a stream, and a program may wait for thousands. The window takes most arguments without a
# pause for its update.
CLIENT = Limits(
    frame_size=256 << 10,
    stream_window=256 << 10,
    connection_window=16 << 20,
    streams=MAX_STREAMS,
    patience=10_000,
    patience_per_second=1_000,
    begin_seconds=20,
    silence_seconds=60,
    request_seconds=3_600,  # with a thousand others on a slow line
    idle_seconds=1_800,
    stall_seconds=120,
)
# On the same machine updates take no time.
CONTAINER = Limits(
    frame_size=256 << 10,
    stream_window=65_535,
    connection_window=16 << 20,
    streams=8_192,
    patience=10_000,
    patience_per_second=1_000,
    begin_seconds=60,  # gVisor may be slow to run a container that has just been started
    silence_seconds=60,
    request_seconds=600,
    idle_seconds=1_800,
    stall_seconds=120,
)


class Patience:
    """How many frames that bring nothing a peer may still send: pings, resets, updates, empty and refused ones. It comes back with time and with
    what the peer does that makes sense."""

    def __init__(self, limits: Limits, now: float) -> None:
        self._limits = limits
        self._left = float(limits.patience)
        self._since = now

    def grow(self, limits: Limits) -> None:
        """Other limits from now on."""
        self._left += limits.patience - self._limits.patience
        self._limits = limits

    def earn(self, amount: float) -> None:
        self._left += amount

    def spend(self, now: float, amount: float = 1) -> None:
        """Raises ConnectionFault when there is none left."""
        limits = self._limits
        self._left = min(limits.patience, self._left + (now - self._since) * limits.patience_per_second) - amount
        self._since = now
        if self._left < 0:
            raise ConnectionFault(ENHANCE_YOUR_CALM, "too many frames that bring nothing")
