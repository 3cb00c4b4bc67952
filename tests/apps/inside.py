"""What code sees inside a sandbox."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import modal

app = modal.App("inside")
here = Path(__file__).parent
plain = modal.Image.debian_slim(python_version="3.11")
rich = (
    plain.env({"FROM_IMAGE": "an image's value"})
    .run_commands("echo built > /etc/built", 'echo "$FROM_IMAGE" > /etc/seen-at-build')
    .add_local_dir(here / "inside_copied", "/copied", copy=True)
    .add_local_file(here / "inside_copied" / "hello.txt", "/copied-file.txt", copy=True)
    .run_commands("cp /copied/hello.txt /etc/used-in-a-later-step")
    .entrypoint([])
    .cmd(["sleep", "1000"])
    .workdir("/srv/work")
    .dockerfile_commands("USER nobody")
    .add_local_dir(here / "inside_data", "/mounted")
    .add_local_file(here / "inside_data" / "hello.txt", "/mounted-file.txt")
    .add_local_python_source("inside_helper")
)
secret = modal.Secret.from_dict({"PASSWORD": "open-sesame-73"})
volume = modal.Volume.from_name("inside-shared", create_if_missing=True)


@app.function(image=rich, secrets=[secret])
def facts() -> dict[str, str]:
    import inside_helper

    files = {
        name: Path(name).read_text().strip()
        for name in (
            "/etc/built",
            "/etc/seen-at-build",
            "/etc/used-in-a-later-step",
            "/copied/hello.txt",
            "/copied-file.txt",
            "/mounted/hello.txt",
            "/mounted/sub/deep.txt",
            "/mounted-file.txt",
        )
    }
    env = {name: os.environ.get(name, "") for name in ("FROM_IMAGE", "PASSWORD")}
    return {
        **files,
        **env,
        "user": str(os.getuid()),
        "cwd": os.getcwd(),
        "helper": inside_helper.WORDS,
        "python": sys.version,
    }


@app.function(image=plain)
def build(command: str) -> str:
    """Has the server build an image, and returns what it says when that fails."""
    try:
        plain.run_commands(command).build(modal.App.lookup("inside-builds", create_if_missing=True))
    except modal.exception.Error as error:
        return str(error)
    return ""


@app.function(image=plain, secrets=[secret])
def shell(command: str) -> str:
    """Runs a command and returns all that it says."""
    done = subprocess.run(["sh", "-c", command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    return done.stdout


@app.function(image=plain)
def connect(targets: list[tuple[str, int]]) -> dict[str, str]:
    """What happens at each of these addresses: "connected" or the error."""
    found = {}
    for host, port in targets:
        try:
            socket.create_connection((host, port), timeout=1.5).close()
            found[f"{host}:{port}"] = "connected"
        except OSError as error:
            found[f"{host}:{port}"] = type(error).__name__
    return found


@app.function(image=plain, restrict_modal_access=True, volumes={"/shared": volume})
def confined(value: bytes) -> dict[str, object]:
    """What a function can do that may use nothing of the workspace, but for its input and its volume."""
    Path("/shared", "confined.txt").write_text("written")
    volume.commit()
    volume.reload()
    found: dict[str, object] = {"size": len(value)}
    for name, attempt in {
        "call": lambda: echo.remote(b"x"),
        "look up": lambda: modal.Function.from_name("inside", "echo").remote(b"x"),
        "dict": lambda: modal.Dict.from_name("inside-dict", create_if_missing=True).put("a", 1),
        "files": lambda: volume.listdir("/"),
    }.items():
        try:
            attempt()
            found[name] = "got through"
        except Exception as error:
            found[name] = type(error).__name__
    return found


@app.cls(image=plain, restrict_modal_access=True, enable_memory_snapshot=True)
class Confined:
    @modal.enter(snap=True)
    def begin(self) -> None:
        self.born = time.time()

    @modal.method()
    def look(self) -> tuple[float, str]:
        try:
            echo.remote(b"x")
        except Exception as error:
            return self.born, type(error).__name__
        return self.born, "got through"


@app.function(image=plain)
def gateway(paths: list[str]) -> dict[str, int]:
    """What the server answers to these requests where containers reach it over HTTP."""
    import urllib.error
    import urllib.request
    from urllib.parse import urlsplit

    base = urlsplit(asyncio.run(upload_url()))
    found = {}
    for path in paths:
        try:
            with urllib.request.urlopen(f"http://{base.netloc}{path}", timeout=10) as answer:
                found[path] = answer.status
        except urllib.error.HTTPError as error:
            found[path] = error.code
    return found


async def upload_url() -> str:
    from grpclib.client import Channel
    from modal_proto import api_grpc, api_pb2

    channel = Channel(path=os.environ["MODAL_SERVER_URL"].removeprefix("unix://"))
    made = await api_grpc.ModalClientStub(channel).BlobCreate(api_pb2.BlobCreateRequest(content_length=1))
    channel.close()
    return str(made.multipart.completion_url)


@app.function(image=plain)
def listen(seconds: float) -> Iterator[str]:
    """Listens on a port, and says at which address."""
    with socket.create_server(("0.0.0.0", 8123)) as server:
        server.settimeout(seconds)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect(("192.0.2.1", 9))
            yield probe.getsockname()[0]
        try:
            server.accept()
            yield "somebody came"
        except TimeoutError:
            yield "nobody came"


@app.function(image=plain)
def speak(count: int, pause: float) -> None:
    for number in range(count):
        print(f"line {number} at {time.time()}")
        time.sleep(pause)


@app.function(image=plain)
def first_run() -> None:
    """Notes where it runs, and never ends the first time."""
    notes = modal.Dict.from_name("inside-notes", create_if_missing=True)
    if notes.get("begun") is None:
        notes["begun"] = os.environ["MODAL_TASK_ID"]
        time.sleep(1000)
    notes["ended"] = os.environ["MODAL_TASK_ID"]


@app.function(image=plain)
def flood(letter: str, count: int, size: int) -> None:
    """Prints lines of so many letters."""
    for _ in range(count):
        print(letter * size)


@app.function(image=plain, ephemeral_disk=64, retries=0)
def hoard(mib: int) -> int:
    """Writes so much to the container's own disk."""
    with open("/tmp/hoard", "wb") as file:
        for _ in range(mib):
            file.write(bytes(1 << 20))
    time.sleep(4)
    return mib


@app.function(image=plain)
def echo(value: bytes) -> bytes:
    return value


@app.function(image=plain)
def echo_from_inside(size: int) -> int:
    """A big argument and a big result of a call that a container makes."""
    value = os.urandom(size)
    assert echo.remote(value) == value
    return size


@app.function(image=plain)
def chunks(count: int, size: int) -> Iterator[bytes]:
    for number in range(count):
        yield bytes([number]) * size


@app.function(image=plain, volumes={"/shared": volume})
def write(name: str, text: str) -> None:
    Path("/shared", name).write_text(text)
    volume.commit()


@app.function(image=plain, volumes={"/elsewhere": volume})
def read(name: str) -> str:
    volume.reload()
    return Path("/elsewhere", name).read_text()


@app.function(image=plain, memory=(128, 256))
def eat(mib: int) -> int:
    hoard = bytearray(mib << 20)
    for page in range(0, len(hoard), 4096):
        hoard[page] = 1
    return len(hoard) >> 20


@app.cls(image=plain)
class Keeper:
    """Has a child that works between the inputs, and leaves orphans behind."""

    @modal.enter()
    def start(self) -> None:
        self.child = subprocess.Popen(["sh", "-c", "while :; do echo tick >> /tmp/ticks; sleep 0.05; done"])
        subprocess.run(["sh", "-c", "sleep 0.1 & sleep 0.1 & sleep 0.1 &"], check=True)

    @modal.method()
    def look(self) -> tuple[bool, int, int]:
        """(the child lives, its ticks, processes that nobody reaped)"""
        states = subprocess.run(["sh", "-c", "cat /proc/[0-9]*/stat"], stdout=subprocess.PIPE, text=True).stdout
        zombies = sum(line.rpartition(")")[2].split()[0] == "Z" for line in states.splitlines())
        return self.child.poll() is None, len(Path("/tmp/ticks").read_text().splitlines()), zombies

    @modal.exit()
    def stop(self) -> None:
        self.child.send_signal(signal.SIGKILL)
        print("the keeper leaves")
