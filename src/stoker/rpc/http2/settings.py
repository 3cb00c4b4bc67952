"""What a peer wants of us (RFC 9113, 6.5)."""

from __future__ import annotations

import struct

from stoker.rpc.http2.frames import (
    ENABLE_PUSH,
    ENHANCE_YOUR_CALM,
    FLOW_CONTROL_ERROR,
    FRAME_SIZE_ERROR,
    INITIAL_WINDOW_SIZE,
    MAX_FRAME_SIZE,
    MAX_WINDOW,
    PROTOCOL_ERROR,
    ConnectionFault,
)
from stoker.rpc.http2.limits import MAX_SETTINGS

_LEAST_FRAME_SIZE = 16_384


def read(payload: bytes) -> dict[int, int]:
    """The values by setting; the last value of each counts, so that streams are looked at once, however many there are. Settings that we do not
    know are among them. Raises ConnectionFault when any value cannot be."""
    if len(payload) % 6:
        raise ConnectionFault(FRAME_SIZE_ERROR, "settings of a broken length")
    if len(payload) > 6 * MAX_SETTINGS:
        raise ConnectionFault(ENHANCE_YOUR_CALM, "more settings than there are")
    values: dict[int, int] = {}
    for setting, value in struct.iter_unpack(">HI", payload):
        if setting == INITIAL_WINDOW_SIZE and value > MAX_WINDOW:
            raise ConnectionFault(FLOW_CONTROL_ERROR, "a window that cannot be")
        if setting == ENABLE_PUSH and value > 1:
            raise ConnectionFault(PROTOCOL_ERROR, "pushes neither on nor off")
        if setting == MAX_FRAME_SIZE and not _LEAST_FRAME_SIZE <= value < 1 << 24:
            raise ConnectionFault(PROTOCOL_ERROR, "a size of frames that cannot be")
        values[setting] = value
    return values
