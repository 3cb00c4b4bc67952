"""How runsc is started."""

from __future__ import annotations

from collections.abc import Sequence

# Joins the container's cgroups and then becomes runsc, so that not one process of the sandbox is ever outside of its limits.
# Runs in a mount namespace of its own with an empty /proc/sys/net: some runsc releases take any network namespace of a kernel from
# 6.11 on for the host's, because they see files there, and then refuse to start.
_LAUNCH = 'echo "$0" >/proc/self/oom_score_adj; while [ "$1" != -- ]; do echo 0 >"$1" || exit 125; shift; done; shift; mount -t tmpfs none /proc/sys/net || exit 125; exec "$@"'


def launching(argv: Sequence[str], *, joins: Sequence[str], oom_score: int) -> tuple[str, ...]:
    """Words that start `argv` in the cgroups whose files `joins` are, with that score (see stoker.oom). They need a mount namespace of their
    own, and exit with 125 when they cannot join."""
    return ("/bin/sh", "-c", _LAUNCH, str(oom_score), *joins, "--", *argv)
