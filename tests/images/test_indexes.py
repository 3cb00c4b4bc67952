"""Mirrors of package indexes in the commands of an image."""

from __future__ import annotations

from pathlib import Path

import pytest

from stoker.errors import InvalidArgument
from stoker.images import dockerfile
from stoker.images.indexes import IndexMirrors, moved, plain_servers

TORCH = "https://wheels.example.org/whl/cu12"


def applied(mirrors: dict[str, str], *commands: str) -> str:
    """The text of the RUN steps with the mirrors in place."""
    steps = IndexMirrors(mirrors).apply(dockerfile.parse(["FROM base", *commands], {}), {}).final.instructions
    return "\n".join("".join([step.value, *(doc.body for doc in step.heredocs)]) for step in steps)


@pytest.mark.parametrize(
    ("written", "run"),
    [
        (f"pip install --extra-index-url {TORCH} a", "pip install --extra-index-url http://mirror:80/torch a"),
        (f"pip install -i '{TORCH}/' a", "pip install -i 'http://mirror:80/torch/' a"),
        (f"pip install {TORCH}/torch/a.whl", "pip install http://mirror:80/torch/torch/a.whl"),
        (f"uv pip install --index-url={TORCH}", "uv pip install --index-url=http://mirror:80/torch"),
        (f"pip install -i {TORCH}8 a", "pip install -i http://other/cu128 a"),
        (f"pip install -i {TORCH}-old -i {TORCH}.x a", f"pip install -i {TORCH}-old -i {TORCH}.x a"),
        ("pip install a", "pip install a"),
    ],
)
def test_only_whole_addresses_are_replaced(written: str, run: str) -> None:
    mirrors = {TORCH + "/": "http://mirror:80/torch/", f"{TORCH}8": "http://other/cu128"}
    assert applied(mirrors, f"RUN {written}") == run


def test_other_instructions_and_files_stay() -> None:
    mirrors = {TORCH: "http://mirror"}
    assert applied(mirrors, f"ENV UV_INDEX={TORCH}") == f"UV_INDEX={TORCH}"
    assert applied(mirrors, "RUN <<EOF", f"pip install -i {TORCH} a", "EOF") == "<<EOFpip install -i http://mirror a\n"


def test_what_is_used_is_known() -> None:
    mirrors = IndexMirrors({TORCH: "http://mirror", "https://other.example.org": "http://mirror2:8080"})
    source = dockerfile.parse(["FROM base", f"RUN pip install -i {TORCH} a", f"ENV A={TORCH}"], {})
    assert mirrors.used(source) == {TORCH: "http://mirror"}
    assert mirrors.plain_hosts == {"mirror", "mirror2:8080"}
    assert IndexMirrors({}).used(source) == {}
    assert IndexMirrors({}).apply(source, {}) is source


def test_a_directory_of_this_machine(tmp_path: Path) -> None:
    simple = tmp_path / "simple"
    simple.mkdir()
    mirrors = IndexMirrors({TORCH: str(simple)})
    assert applied({TORCH: str(simple)}, f"RUN pip install -i {TORCH} a") == f"pip install -i file://{simple} a"
    assert mirrors.paths == (tmp_path,)
    assert mirrors.plain_hosts == set()


@pytest.mark.parametrize(
    ("index", "mirror", "says"),
    [
        ("wheels.example.org", "http://mirror", "'wheels.example.org' is not an http address"),
        (TORCH, "mirror:80", "must be an http address or an absolute directory"),
        (TORCH, "/no/such/directory", "there is none"),
        (TORCH, "http://me:secret@mirror", "has a password"),
    ],
)
def test_what_cannot_be_a_mirror(index: str, mirror: str, says: str) -> None:
    with pytest.raises(InvalidArgument, match=says) as error:
        IndexMirrors({index: mirror})
    assert "secret" not in str(error.value)


def test_servers_that_steps_reach_elsewhere() -> None:
    text = "http://127.0.0.1:8080/simple http://me:pw@localhost/x,https://127.0.0.1:8443/simple http://mirror:1/127.0.0.1:8080"
    assert plain_servers(text) == {"127.0.0.1:8080", "localhost", "mirror:1"}
    assert moved(text, {"127.0.0.1:8080": "172.21.0.1:5", "localhost": "172.21.0.1:6"}) == (
        "http://172.21.0.1:5/simple http://me:pw@172.21.0.1:6/x,https://127.0.0.1:8443/simple http://mirror:1/127.0.0.1:8080"
    )
    mirrors = IndexMirrors({TORCH: "http://127.0.0.1:8080/torch"})
    source = dockerfile.parse(["FROM base", f"RUN pip install -i {TORCH} a"], {})
    step = mirrors.apply(source, {"127.0.0.1:8080": "172.21.0.1:5"}).final.instructions[0]
    assert step.value == "pip install -i http://172.21.0.1:5/torch a"
