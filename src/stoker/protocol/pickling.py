"""A pickle writer for plain data. The container's client reads the scope of a web request as a pickle; the server itself never reads one."""

from __future__ import annotations

import struct
from collections.abc import Mapping

PlainData = None | bool | int | str | bytes | list["PlainData"] | tuple["PlainData", ...] | Mapping[str, "PlainData"]

_INT32 = range(-(1 << 31), 1 << 31)


def pickled(value: PlainData) -> bytes:
    """`value` in pickle protocol 4, without frames and memo. Integers must fit into 32 bits."""
    out = bytearray(b"\x80\x04")
    _write(out, value)
    out += b"."
    return bytes(out)


def _write(out: bytearray, value: PlainData) -> None:
    if isinstance(value, str):
        encoded = value.encode("utf-8", "surrogatepass")
        out += b"\x8c" + bytes([len(encoded)]) if len(encoded) < 256 else b"X" + struct.pack("<I", len(encoded))
        out += encoded
    elif isinstance(value, bytes):
        out += b"C" + bytes([len(value)]) if len(value) < 256 else b"B" + struct.pack("<I", len(value))
        out += value
    elif value is None:
        out += b"N"
    elif isinstance(value, bool):
        out += b"\x88" if value else b"\x89"
    elif isinstance(value, int):
        if value not in _INT32:
            raise ValueError(f"{value} does not fit into 32 bits")
        out += b"J" + struct.pack("<i", value)
    elif isinstance(value, tuple):
        out += b"("
        for item in value:
            _write(out, item)
        out += b"t"
    elif isinstance(value, list):
        out += b"]("
        for item in value:
            _write(out, item)
        out += b"e"
    elif isinstance(value, Mapping):
        out += b"}("
        for key, item in value.items():
            _write(out, key)
            _write(out, item)
        out += b"u"
    else:
        raise TypeError(f"{type(value).__name__} is no plain data")
