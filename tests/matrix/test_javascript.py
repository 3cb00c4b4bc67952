"""The client in JavaScript calls functions with small and large values. Skipped without Node.

A plain run takes the newest version; `make matrix` takes all. They are kept in the user's cache directory.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import platformdirs
import pytest

from tests.conftest import RunningServer

_NEWEST, _BEFORE = "0.11", ("0.5", "0.7", "0.9")
_VERSIONS = [*(pytest.param(v, marks=pytest.mark.matrix) for v in _BEFORE), _NEWEST]
_SIZES = [0, (8 << 10) + 1, (1 << 20) + 1, (2 << 20) + 1, 9 << 20]
"""Bytes of values: of those over 8 KiB some go as blobs when spawned, and all over 2 MiB."""
_PROGRAM = """
import { ModalClient } from "modal";

const modal = new ModalClient();
const echo = await modal.functions.fromName("large", "echo");
const answers = [];
for (const size of JSON.parse(process.argv[2])) {
    const value = Buffer.alloc(size, "stoker");
    const called = Buffer.from(await echo.remote([value]));
    const spawned = Buffer.from(await (await echo.spawn([value])).get());
    answers.push(called.equals(value) && spawned.equals(value));
}
console.log(JSON.stringify(answers));
process.exit(0);
"""


@pytest.fixture(params=_VERSIONS)
def client(request: pytest.FixtureRequest) -> Path:
    """A directory in which programs find a version of the client."""
    npm = shutil.which("npm")
    if npm is None or shutil.which("node") is None:
        pytest.skip("needs Node: `make programs` installs it")
    cache = Path(platformdirs.user_cache_dir("stoker", appauthor=False)) / "test-clients"
    directory = cache / f"javascript-{request.param}"
    complete = directory / "complete"  # an interrupted installation must not be taken for a whole one
    if not complete.exists():
        directory.mkdir(parents=True, exist_ok=True)
        # Version 1 of this name is another package, from before.
        install = [npm, "install", "--silent", "--no-audit", "--no-fund", "--prefix", str(directory)]
        subprocess.run([*install, f"modal@{request.param}"], check=True, timeout=240)
        complete.touch()
    return directory


def test_values_of_all_sizes(server: RunningServer, client: Path) -> None:
    server.modal("deploy", "large.py")
    program = client / "values.mjs"
    program.write_text(_PROGRAM)
    done = subprocess.run(
        ["node", str(program), json.dumps(_SIZES)], env=server.env, capture_output=True, text=True, timeout=280
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}\n{server.log_tail()}"
    assert json.loads(done.stdout.splitlines()[-1]) == [True] * len(_SIZES)
