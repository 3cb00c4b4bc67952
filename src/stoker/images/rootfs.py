"""One short command inside an image: its layers as a private overlay, with nothing left behind."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from stoker.images.processes import Finished, capture, private

# $1: number of layers, $2: mount point, $3: directory to bind at /mnt (writable; empty for none), then the command.
# The working directory holds links named 0, 1, ... to the layers: short names, since all must fit into one page.
_SCRIPT = r"""set -e
count="$1" root="$2" bound="$3"
shift 3
if [ "$count" = 1 ]; then
    mount --bind 0/ "$root"
else
    lower=0 index=1
    while [ "$index" -lt "$count" ]; do lower="$lower:$index"; index=$((index + 1)); done
    mount -t overlay -o "lowerdir=$lower" overlay "$root"
fi
for special in dev proc; do
    [ ! -d "$root/$special" ] || mount --rbind "/$special" "$root/$special"
done
[ ! -d "$root/tmp" ] || mount -t tmpfs tmpfs "$root/tmp"
if [ -n "$bound" ]; then
    mount --bind "$bound" "$root/mnt"
fi
exec env -i "$@"
"""


async def run_inside(
    layers: Sequence[Path],
    argv: Sequence[str],
    *,
    env: Mapping[str, str],
    bind: Path | None = None,
    stdin: str = "",
) -> Finished:
    """Runs `argv` (found by `env`'s PATH) in the read-only root file system that `layers` (uppermost first) form; needs root.

    /tmp is writable and private. `bind` appears writable at /mnt, which the image must have."""
    with tempfile.TemporaryDirectory(prefix="stoker-rootfs-") as work:
        root = Path(work, "root")
        root.mkdir()
        for index, layer in enumerate(layers):
            os.symlink(layer, Path(work, str(index)))
        # chroot looks the command up in the image, with the image's own PATH.
        settings = [f"{name}={value}" for name, value in env.items() if name and "=" not in name]
        inside = (*settings, shutil.which("chroot") or "/usr/sbin/chroot", str(root), *argv)
        command = ("sh", "-c", _SCRIPT, "sh", str(len(layers)), str(root), str(bind or ""), *inside)
        host = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}
        return await capture(private(command), env=host, cwd=Path(work), stdin=stdin)
