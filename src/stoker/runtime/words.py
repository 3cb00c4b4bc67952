"""gVisor's own words about a snapshot that failed: what comes before its traces, and in plain English where it is a known case."""

from __future__ import annotations

import re

_LONGEST = 500  # characters
_AROUND = re.compile(
    r"(?:checkpoint failed|checkpointing container \"[^\"]*\"|encoding error|starting container|restoring container \"[^\"]*\"|loading container"
    r"|urpc method \"containerManager\.\w+\" failed|starting sub-container \[[^\]]*\]|save rejected due to unsupported networking state): "
)
_KNOWN = (
    (
        r'gofer\.dentry\("([^"]*)"\)\.beforeSave: deleted and invalidated dentries',
        r"the file \1 is open and was deleted or replaced.",
    ),
    (
        r"endpoint cannot be saved in connected state: local ([^,]+), remote (\S+?):?$",
        r"a connection from \1 to \2 is open.",
    ),
    (r"transport\.\(\*SCMConnectedEndpoint\)", "a unix socket is connected to a program outside of the container."),
    (r"tcp\.\(\*Endpoint\)\.beforeSave", "a connection to another machine is being made."),
    (r"^.*Restore\" failed: EOF", "gVisor crashed as it read the snapshot."),
    (r"no space left on device", "no space is left on the disk of the server."),
)


def in_words(errors: str) -> str:
    """A sentence or its last part. Empty for none."""
    for pattern, words in _KNOWN:
        found = re.search(pattern, errors, re.MULTILINE)
        if found is not None:
            return found.expand(words)
    first = next((line.strip() for line in errors.splitlines() if line.strip()), "")
    return _AROUND.sub("", first).rstrip(":")[:_LONGEST]
