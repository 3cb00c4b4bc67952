"""Entries of a directory on the wire."""

from __future__ import annotations

import stat
from collections.abc import Sequence

from modal_proto import api_pb2

from stoker.services.files.volume_files import Entry


def file_entries(entries: Sequence[Entry]) -> list[api_pb2.FileEntry]:
    return [api_pb2.FileEntry(path=e.path, type=_type(e.mode), mtime=max(0, e.mtime), size=e.size) for e in entries]


def _type(mode: int) -> api_pb2.FileEntry.FileType.ValueType:
    if stat.S_ISREG(mode):
        return api_pb2.FileEntry.FILE
    if stat.S_ISDIR(mode):
        return api_pb2.FileEntry.DIRECTORY
    if stat.S_ISLNK(mode):
        return api_pb2.FileEntry.SYMLINK
    if stat.S_ISFIFO(mode):
        return api_pb2.FileEntry.FIFO
    return api_pb2.FileEntry.SOCKET if stat.S_ISSOCK(mode) else api_pb2.FileEntry.UNSPECIFIED
