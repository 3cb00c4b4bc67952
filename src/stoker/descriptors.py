"""File descriptors of this process: every connection takes one, and so does every file that is open."""

from __future__ import annotations

import errno
import os
import sys

_MOST = (
    1 << 20
)  # some programs that are started from here close all numbers up to the limit, which must not take minutes
_RESERVE = 32  # that should stay free: for files, databases, programs
_UNLIMITED = 1 << 16


def raise_limit() -> int:
    """Lets this process open as many files as it may without asking anybody; returns how many."""
    if sys.platform == "win32":
        return _UNLIMITED
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _MOST if hard == resource.RLIM_INFINITY else min(hard, _MOST)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return limit()


def limit() -> int:
    """How many descriptors this process may have."""
    if sys.platform == "win32":
        return _UNLIMITED
    import resource

    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return _MOST if soft == resource.RLIM_INFINITY else min(soft, _MOST)


def are_scarce() -> bool:
    """Whether hardly any is free: the kernel gives out the lowest number that is."""
    try:
        lowest = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        return error.errno in (errno.EMFILE, errno.ENFILE)
    os.close(lowest)
    return lowest >= limit() - _RESERVE
