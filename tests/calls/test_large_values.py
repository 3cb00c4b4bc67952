"""Large arguments and results go past the server's memory. STOKER_LARGE_MIB=1024 tries a gigabyte."""

from __future__ import annotations

import os
from pathlib import Path

from tests.conftest import RunningServer

MIB = int(os.environ.get("STOKER_LARGE_MIB", "200"))
_CODE = f"""
import hashlib, modal, random
piece = random.Random(1).randbytes(1 << 20)
value = b"".join(number.to_bytes(4, "big") + piece[4:] for number in range({MIB}))
given = hashlib.sha256(value).hexdigest()
back = modal.Function.from_name("large", "echo").remote(value)
assert len(back) == {MIB} << 20 and hashlib.sha256(back).hexdigest() == given
"""


def test_the_server_does_not_grow_with_the_values(server: RunningServer) -> None:
    server.modal("deploy", "large.py")
    server.python("import modal; assert modal.Function.from_name('large', 'echo').remote(b'warm') == b'warm'")
    process = Path(f"/proc/{server.pid}")
    (process / "clear_refs").write_text("5")  # the peak counts from here
    before = _peak_mib(process)
    server.python(_CODE, timeout=240 + MIB)
    grown = _peak_mib(process) - before
    assert grown < 64, f"the server took {grown:.0f} MiB more for a value of {MIB} MiB"


def _peak_mib(process: Path) -> float:
    (line,) = (line for line in (process / "status").read_text().splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) / 1024
