"""What the steps of a build reach of the machine: nothing. Each attack is tried in both ways that steps run."""

from __future__ import annotations

import contextlib
import http.server
import io
import os
import shutil
import socket
import subprocess
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.images.conftest import PYTHON_BASE, Workshop, needs_buildah

from stoker.errors import ImageBuildFailed
from stoker.images.base import BuildContext
from stoker.runtime.addresses import GATEWAY

pytestmark = needs_buildah

CONFINED = BuildContext(confined=True)
WAYS = pytest.mark.parametrize("context", [BuildContext(), CONFINED], ids=["namespaces", "gvisor"])


@pytest.fixture
def secret(workshop: Workshop) -> Iterator[Path]:
    """A file that only root of the host may read, as the server's own key is."""
    path = workshop.data / "secret.key"
    path.write_text("the-key-of-the-server")
    path.chmod(0o600)
    yield path
    assert path.read_text() == "the-key-of-the-server", "a step wrote to it"
    path.unlink()


@pytest.fixture
def listeners() -> Iterator[list[tuple[str, int]]]:
    """Services of the host, each of which answers whoever connects."""
    own = socket.gethostbyname(socket.gethostname())
    with contextlib.ExitStack() as stack:
        places = []
        for address in dict.fromkeys(("127.0.0.1", own, str(GATEWAY))):
            server = socket.create_server((address, 0))
            stack.callback(server.close)
            threading.Thread(target=_answer, args=(server,), daemon=True).start()
            places.append((address, server.getsockname()[1]))
        yield places


def _answer(server: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while True:
            connection, _ = server.accept()
            connection.sendall(b"reached")
            connection.close()


def python(program: str) -> list[str]:
    return ["RUN python3 - <<'END'", *program.strip().splitlines(), "END"]


@WAYS
def test_no_file_of_the_host(workshop: Workshop, base: str, secret: Path, context: BuildContext) -> None:
    """The ways out of a chroot, and what /proc shows."""
    program = f"""
import ctypes, glob, os
wanted = {str(secret)!r}
libc = ctypes.CDLL(None, use_errno=True)

def tried(path):
    try:
        text = open(path, "r+").read()
    except OSError:
        return
    assert "the-key" not in text, path

for root in ["", *glob.glob("/proc/*/root"), *glob.glob("/proc/*/cwd")]:
    tried(root + wanted)
# Twice chroot: a directory that is held from outside the new root leads up to the old one.
os.makedirs("/tmp/jail", exist_ok=True)
held = os.open("/", os.O_RDONLY)
os.chroot("/tmp/jail")
os.fchdir(held)
for _ in range(64):
    os.chdir("..")
os.chroot(".")
tried(wanted)
"""
    workshop.build(["FROM base", *python(program)], base=base, context=context)
    workshop.build(
        [
            "FROM base",
            f"RUN ! cat {secret} /proc/1/root{secret}",
            "RUN ! mount --bind / /mnt && ! mount -t proc proc /mnt && ! unshare --mount true",
            "RUN ! echo 1 > /proc/sys/vm/drop_caches && ! echo x > /proc/sysrq-trigger",
            "RUN ! nsenter --target 1 --mount --net -- true || ! cmp -s /etc/machine-id /proc/1/root/etc/machine-id",
        ],
        base=base,
        context=context,
    )


@WAYS
def test_no_service_of_the_host(
    workshop: Workshop, base: str, listeners: list[tuple[str, int]], context: BuildContext
) -> None:
    for place in listeners:
        assert socket.create_connection(place).recv(20) == b"reached"
    program = f"""
import socket
for place in {listeners!r}:
    try:
        said = socket.create_connection(place, timeout=3).recv(20)
    except OSError:
        continue
    raise SystemExit(f"{{place}} said {{said}}")
"""
    workshop.build(["FROM base", *python(program)], base=base, context=context)


@WAYS
def test_no_device_and_no_user_of_the_host(workshop: Workshop, base: str, context: BuildContext) -> None:
    number = os.stat("/dev/root" if os.path.exists("/dev/root") else _a_disk()).st_rdev
    program = f"""
import os, stat
for root, _, names in os.walk("/dev"):
    for name in names:
        mode = os.lstat(os.path.join(root, name)).st_mode
        assert not stat.S_ISBLK(mode), name
        assert name not in ("mem", "kmem", "port", "kvm", "kmsg"), name
for kind, device in ((stat.S_IFBLK, {number}), (stat.S_IFCHR, os.makedev(1, 1))):
    try:
        os.mknod("/node", 0o600 | kind, device)
        open("/node", "rb").read(1)
    except OSError:
        continue
    raise SystemExit("a device was opened")
"""
    workshop.build(["FROM base", *python(program)], base=base, context=context)


def _a_disk() -> str:
    return next(f"/dev/{name}" for name in sorted(os.listdir("/sys/block")) if os.path.exists(f"/dev/{name}"))


def test_a_step_is_nobody_on_the_host_and_its_files_are_roots(workshop: Workshop, base: str) -> None:
    mark = "986543.25"
    seen: list[str] = []

    class Watch(list[str]):
        def append(self, text: str) -> None:
            if text == "look\n":
                seen.extend(
                    subprocess.run(["ps", "-eo", "uid,args"], capture_output=True, text=True).stdout.splitlines()
                )

    workshop.log = Watch()
    try:
        steps = [
            "FROM base",
            f"RUN touch /mine && chown 7:8 /mine && (sleep {mark} & sleep 0.2; echo look; sleep 1; kill $!)",
        ]
        image_id = workshop.new_id()
        workshop.run(workshop.build_later(image_id, steps, base=base))
    finally:
        workshop.log = []
    sleeping = [line.split()[0] for line in seen if line.endswith(f"sleep {mark}")]
    assert sleeping and "0" not in sleeping
    mine = workshop.find(image_id, "/mine")
    assert mine is not None and (mine.stat().st_uid, mine.stat().st_gid) == (7, 8)
    assert mine.parent.stat().st_uid == 0


@WAYS
def test_the_python_of_an_image_is_no_way_to_the_host(
    workshop: Workshop, base: str, secret: Path, tmp_path: Path, context: BuildContext
) -> None:
    """It is asked what it has, at the end of every build."""
    trap = tmp_path / "trapped"
    trap.mkdir()
    script = f'#!/bin/sh\nid > {trap}/seen; cat {secret} > {trap}/key; echo \'{{"python": "3.11.9"}}\'; id -u\n'
    (tmp_path / "python").write_text(script)
    (tmp_path / "python").chmod(0o755)
    context = BuildContext(mount_tree=tmp_path, confined=context.confined)
    _, config = workshop.build(["FROM base", "COPY python /usr/local/bin/python"], base=base, context=context)
    assert config.python_version == "", "an answer without a library was believed"
    assert list(trap.iterdir()) == []


def test_a_confined_build_leaves_nothing_for_others(workshop: Workshop, base: str) -> None:
    """A package in the shared cache would be installed by everybody."""
    cache = workshop.builder._cache / "downloads"
    steps = [f"RUN echo evil > /run/stoker/{name}/planted && cat /run/stoker/{name}/planted" for name in ("pip", "uv")]
    steps.append("RUN --mount=type=cache,target=/kept,id=shared test ! -e /kept/planted && echo evil > /kept/planted")
    workshop.build(["FROM base", *steps], base=base, context=CONFINED)
    assert not [path for name in ("pip", "uv") if (path := cache / name / "planted").exists()]
    workshop.build(["FROM base", steps[-1].replace(" && echo evil > /kept/planted", "")], base=base)
    # What builds of clients keep is kept.
    mark = os.urandom(4).hex()
    workshop.build(["FROM base", f"RUN --mount=type=cache,target=/kept,id={mark} echo 1 > /kept/a"], base=base)
    workshop.build(["FROM base", f"RUN --mount=type=cache,target=/kept,id={mark} test -e /kept/a"], base=base)


@WAYS
def test_mounts_and_copies_of_a_stage_stay_in_it(
    workshop: Workshop, base: str, secret: Path, tmp_path: Path, context: BuildContext
) -> None:
    """Links of one stage are followed inside of it, not on the host."""
    image_id, _ = workshop.build(
        [
            "FROM base AS trap",
            f"RUN mkdir -p {secret.parent} && echo inside > {secret} && ln -s / /root-link && ln -s {secret} /key && ln -s ../../../.. /up",
            "FROM base",
            "RUN --mount=type=bind,from=trap,source=/root-link,target=/seen,rw cp /seen/key /copied-1 || cat /seen/root-link/proc/version",
            f"RUN --mount=type=bind,from=trap,source=/root-link{secret},target=/seen cat /seen > /copied-2",
            f"RUN --mount=type=bind,from=trap,source=/up{secret},target=/seen cat /seen > /copied-3",
            "COPY --from=trap /key /copied-4",
            f"COPY --from=trap /root-link{secret} /copied-5",
            f"COPY --from=trap /up/..{secret} /copied-6",
        ],
        base=base,
        context=context,
    )
    for number in range(2, 7):
        assert workshop.text(image_id, f"/copied-{number}") == "inside\n", number


@WAYS
def test_archives_are_unpacked_inside(workshop: Workshop, base: str, tmp_path: Path, context: BuildContext) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    tree = tmp_path / "tree"
    tree.mkdir()
    with tarfile.open(tree / "evil.tar.gz", "w:gz") as tar:

        def add(name: str, data: bytes = b"evil", **fields: Any) -> None:
            info = tarfile.TarInfo(name)
            info.size = 0 if fields else len(data)
            for field, value in fields.items():
                setattr(info, field, value)
            tar.addfile(info, io.BytesIO(data) if not fields else None)

        add("fine/file", b"fine")
        add(f"../../../../../../{outside}/up")
        add(f"{outside}/absolute")
        add("link", type=tarfile.SYMTYPE, linkname=str(outside))
        add("link/through")
        add("hard", type=tarfile.LNKTYPE, linkname="fine/file")
        add("disk", type=tarfile.BLKTYPE, devmajor=8, devminor=0)
    context = BuildContext(mount_tree=tree, confined=context.confined)
    image_id, _ = workshop.build(
        ["FROM base", "RUN touch /there && mkdir /to", "ADD evil.tar.gz /to"], base=base, context=context
    )
    assert workshop.text(image_id, "/to/fine/file") == "fine"
    assert list(outside.iterdir()) == []
    assert workshop.find(image_id, "/to/disk") is None
    with tarfile.open(tree / "hard.tar", "w") as tar:
        info = tarfile.TarInfo("hard")
        info.type, info.linkname = tarfile.LNKTYPE, str(tmp_path / "tree/evil.tar.gz")
        tar.addfile(info)
    with pytest.raises(ImageBuildFailed, match="No such file"):
        workshop.build(["FROM base", "ADD hard.tar /to"], base=base, context=context)


@pytest.mark.parametrize(
    "name",
    [
        "dir:/etc",
        "oci:/etc",
        "docker-archive:/etc/shadow",
        "containers-storage:x",
        "docker-daemon:x:y",
        "oci-archive:/x",
    ],
)
def test_images_come_from_registries_only(workshop: Workshop, base: str, name: str) -> None:
    for steps in (
        [f"FROM {name}", "RUN true"],
        ["FROM base", f"COPY --from={name} / /x"],
        [f"ARG A={name}", "FROM $A", "ENV B=1"],
    ):
        with pytest.raises(ImageBuildFailed):
            workshop.build(steps, base=base, context=CONFINED)


def test_a_confined_build_asks_no_registry_of_the_host(workshop: Workshop, listeners: list[tuple[str, int]]) -> None:
    for address, port in listeners[:2]:
        with pytest.raises(ImageBuildFailed) as caught:
            workshop.build([f"FROM {address}:{port}/x", "RUN true"], context=CONFINED)
        assert "reached" not in str(caught.value) and "HTTP response" not in str(caught.value)


def test_add_fetches_with_the_network_of_steps(
    workshop: Workshop, base: str, listeners: list[tuple[str, int]], tmp_path: Path
) -> None:
    for address, port in listeners:
        with pytest.raises(ImageBuildFailed, match="could not be fetched"):
            workshop.build(["FROM base", f"ADD http://{address}:{port}/x /x"], base=base)
    for url in ("file:///etc/shadow", "ftp://127.0.0.1/x", "http://"):
        with pytest.raises(ImageBuildFailed):
            workshop.build(["FROM base", f"ADD {url} /x"], base=base)
    (tmp_path / "data.txt").write_text("fetched")
    with _serving(tmp_path, workshop.runtime._network._gateway_port) as address:
        image_id, _ = workshop.build(["FROM base", f"ADD http://{address}/data.txt /got/"], base=base)
        assert workshop.text(image_id, "/got/data.txt") == "fetched"
        wrong = f"ADD --checksum=sha256:{'0' * 64} http://{address}/data.txt /got/"
        with pytest.raises(ImageBuildFailed, match="--checksum"):
            workshop.build(["FROM base", wrong], base=base)


@contextlib.contextmanager
def _serving(directory: Path, port: int) -> Iterator[str]:
    def handler(*arguments: Any) -> http.server.SimpleHTTPRequestHandler:
        return http.server.SimpleHTTPRequestHandler(*arguments, directory=str(directory))

    server = http.server.ThreadingHTTPServer((str(GATEWAY), port), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"{GATEWAY}:{port}"
    finally:
        server.shutdown()
        server.server_close()


def test_a_step_that_wants_more_than_it_may_have_fails(workshop: Workshop, base: str) -> None:
    for flag in ("--network=host", "--security=insecure", "--mount=type=ssh"):
        with pytest.raises(ImageBuildFailed, match="is not offered"):
            workshop.build(["FROM base", f"RUN {flag} true"], base=base)
    with pytest.raises(ImageBuildFailed, match="ONBUILD is not offered"):
        workshop.build(["FROM base", "ONBUILD RUN id"], base=base)


def test_a_fork_bomb_ends_with_its_step(workshop: Workshop, base: str) -> None:
    program = """
import os
children = 0
try:
    while children < 20000:
        if os.fork() == 0:
            os.pause() if hasattr(os, "pause") else __import__("signal").pause()
        children += 1
except OSError:
    print("stopped", flush=True)
os._exit(0)
"""
    workshop.build(["FROM base", *python(program)], base=base)
    assert "stopped\n" in workshop.log


def test_a_step_that_takes_all_memory_ends(tmp_path: Path) -> None:
    shop = Workshop(tmp_path, memory=700 << 20)
    try:
        greedy = "RUN python3 -c 'held = [bytes(1 << 20) + b\"x\" for _ in range(4000)]'"
        for context in (BuildContext(), CONFINED):
            with pytest.raises(ImageBuildFailed, match=r"exit code 137.*\n.*more memory than there is"):
                shop.build([PYTHON_BASE, greedy], context=context)
        image_id, _ = shop.build([PYTHON_BASE, "RUN echo fine > /fine"])
        assert shop.text(image_id, "/fine") == "fine\n"
    finally:
        shop.close()


@WAYS
def test_a_step_cannot_fill_the_disk_of_the_server(
    workshop: Workshop, base: str, monkeypatch: pytest.MonkeyPatch, context: BuildContext
) -> None:
    free = shutil.disk_usage(workshop.data).free
    monkeypatch.setattr(workshop.runtime._patrol, "_reserve", free - (100 << 20))
    program = """
import os, time
with open("/large", "wb") as file:
    for _ in range(600):
        file.write(os.urandom(1 << 20))
        os.fsync(file.fileno())
        time.sleep(0.02)
"""
    with pytest.raises(ImageBuildFailed, match="The step was ended because it was writing while only"):
        workshop.build(["FROM base", *python(program)], base=base, context=context)


def test_all_that_a_build_without_namespaces_does(tmp_path: Path) -> None:
    """The setting for machines where only gVisor is wanted."""
    shop = Workshop(tmp_path, "gvisor")
    try:
        image_id, config = shop.build(
            [PYTHON_BASE, "RUN dmesg | grep -qi gvisor && mkdir -p /tmp/a && touch /tmp/a/b && rm -r /etc/apt"]
        )
        assert config.python_version.startswith("3.11.")
        assert shop.find(image_id, "/tmp/a/b") is not None, "what is written to /tmp is part of the layer"
        assert shop.inside(image_id, "sh", "-c", "test ! -e /etc/apt && echo gone") == "gone\n"
    finally:
        shop.close()
