"""Images whose files a function makes while they are built."""

import os
from pathlib import Path

import modal

app = modal.App("baked")
volume = modal.Volume.from_name("baked-cache", create_if_missing=True)
shared = modal.NetworkFileSystem.from_name("baked-shared", create_if_missing=True)
secret = modal.Secret.from_dict({"BAKE_TOKEN": "t0ken"})
FLAVOUR = os.environ.get("BAKE_FLAVOUR", "plain")


def bake(name: str, *, count: int) -> None:
    print(f"baking {name}", flush=True)
    directory = Path("/baked")
    directory.mkdir()
    for number in range(count):
        (directory / f"{name}-{number}").write_text(f"{FLAVOUR} {os.environ['BAKE_TOKEN']}")
    Path("/etc/issue").unlink(missing_ok=True)
    Path("/tmp/baked").write_text("kept")
    Path("/cache/seen").write_text(name)
    Path("/shared/seen").write_text(name)


def more() -> None:
    names = sorted(path.name for path in Path("/baked").iterdir())
    Path("/more").write_text(" ".join(names))


def broken() -> None:
    print("the oven is cold", flush=True)
    raise RuntimeError("nothing was baked")


image = (
    modal.Image.debian_slim(python_version="3.11")
    .run_function(
        bake,
        args=("bread",),
        kwargs={"count": 2},
        secrets=[secret],
        volumes={"/cache": volume},
        network_file_systems={"/shared": shared},
        cpu=0.5,
        gpu="H100",
    )
    .run_function(more, force_build=bool(os.environ.get("BAKE_AGAIN")))
    .env({"AFTER": "yes"})
)


@app.function(image=image)
def look() -> dict[str, str]:
    paths = ("/baked/bread-0", "/baked/bread-1", "/more", "/tmp/baked")
    found = {path: Path(path).read_text() for path in paths}
    left = [path for path in ("/cache", "/shared", "/__modal/volumes") if Path(path).is_dir() and os.listdir(path)]
    return {
        **found,
        "issue": str(Path("/etc/issue").exists()),
        "left": " ".join(left),
        "AFTER": os.environ["AFTER"],
        "token": os.environ.get("BAKE_TOKEN", "none"),
        "host": Path("/etc/hostname").read_text().strip(),
    }


@app.local_entrypoint()
def main() -> None:
    import json

    print(json.dumps(look.remote()))


broken_app = modal.App("baked-broken")


@broken_app.function(image=modal.Image.debian_slim(python_version="3.11").run_function(broken))
def never() -> None: ...


@broken_app.local_entrypoint()
def fails() -> None: ...
