"""Image.run_function: a layer that a function of the client's writes."""

from __future__ import annotations

import json
from pathlib import Path

from tests.conftest import RunningServer


def test_what_a_function_writes_is_in_the_image(sandboxes: RunningServer) -> None:
    done = sandboxes.modal("run", "baked.py::app.main", timeout=400)
    assert "baking bread" in done.stdout + done.stderr
    facts = json.loads(next(line for line in done.stdout.splitlines() if line.startswith('{"/baked')))
    assert facts == {
        "/baked/bread-0": "plain t0ken",
        "/baked/bread-1": "plain t0ken",
        "/more": "bread-0 bread-1",
        "/tmp/baked": "kept",
        "issue": "False",
        "left": "",
        "AFTER": "yes",
        "token": "none",
        "host": "modal",
    }
    # What it wrote to volumes is there.
    assert sandboxes.modal("volume", "get", "baked-cache", "/seen", "-").stdout.startswith("bread")
    layers = sandboxes.data / "images" / "layers"
    own = next(layer for layer in layers.iterdir() if (layer / "baked").is_dir())
    assert not (own / "__modal").exists() and not (own / "etc/resolv.conf").exists()
    assert not list((sandboxes.data / "run").glob("kept/*"))
    # Unchanged, it is found; with another global variable or by force it is made anew.
    again = sandboxes.modal("run", "baked.py::app.main", timeout=400)
    assert "baking bread" not in again.stdout + again.stderr
    changed = sandboxes.modal("run", "baked.py::app.main", timeout=400, BAKE_FLAVOUR="rye")
    assert "baking bread" in changed.stdout + changed.stderr
    count = len(list(layers.iterdir()))
    sandboxes.modal("run", "baked.py::app.main", timeout=400, BAKE_AGAIN="1")
    assert len(list(layers.iterdir())) == count + 1


def test_a_function_that_fails_says_why(sandboxes: RunningServer) -> None:
    done = sandboxes.modal("run", "baked.py::broken_app.fails", timeout=200, check=False)
    said = done.stdout + done.stderr
    assert done.returncode != 0
    assert "the oven is cold" in said and "nothing was baked" in said and "'broken' failed" in said


def test_without_images_the_function_runs_all_the_same(server: RunningServer, tmp_path: Path) -> None:
    """The process runtime, where containers have the host's files."""
    mark = tmp_path / "mark"
    code = f"""
import modal, pathlib
def bake(): pathlib.Path({str(mark)!r}).write_text("baked")
app = modal.App("baked-here")
image = modal.Image.debian_slim(python_version="3.11").run_function(bake)
@app.function(image=image, serialized=True)
def look(): return pathlib.Path({str(mark)!r}).read_text()
if __name__ == "__main__":
    with modal.enable_output(), app.run(): print("found", look.remote())
"""
    program = tmp_path / "program.py"
    program.write_text(code)
    done = server.python(f"import runpy; runpy.run_path({str(program)!r}, run_name='__main__')")
    assert "found baked" in done.stdout
