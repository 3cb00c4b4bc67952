"""Fetches a file over HTTP, for a build step that asks for it. A program of its own:

    python -I -S fetch_program.py URL FILE

The address may come from a stranger: it runs as nobody, in the network of build steps. It exits with 1 when that failed, which it says on its
standard error."""

from __future__ import annotations

import os
import resource
import shutil
import socket
import ssl
import sys
import urllib.request

_SILENCE = 60.0  # seconds
_LARGEST = 64 << 30
_NOBODY = 65_534


def main(url: str, target: str) -> int:
    # All that lies in files of the host is read before this becomes nobody: modules, certificates, settings.
    context = ssl.create_default_context()
    socket.getaddrinfo("localhost", 80)
    descriptor = os.open(target, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    resource.setrlimit(resource.RLIMIT_FSIZE, (_LARGEST, _LARGEST))
    os.setgroups([])
    os.setresgid(_NOBODY, _NOBODY, _NOBODY)
    os.setresuid(_NOBODY, _NOBODY, _NOBODY)
    # Neither files nor other protocols, and no proxy, which would be one of the host.
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(context=context),
        urllib.request.HTTPRedirectHandler(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
        urllib.request.UnknownHandler(),
    ):
        opener.add_handler(handler)
    try:
        request = urllib.request.Request(url, headers={"User-Agent": "stoker"})
        with os.fdopen(descriptor, "wb") as file, opener.open(request, timeout=_SILENCE) as answer:
            shutil.copyfileobj(answer, file, 1 << 20)
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", "") or error
        sys.stderr.write(f"{url}: {reason}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
