"""Images as the real client describes them, built for real."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import subprocess
import tarfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.images.conftest import BUILDER_VERSION, Workshop, needs_buildah
from tests.images.registry import serving

from stoker.errors import ImageBuildFailed, NotFound
from stoker.images import client, hostconfig, ocilayout
from stoker.images.base import BuildContext
from stoker.images.builder import LayeredImageBuilder
from stoker.nodes.builds import ImageConfig, ImageSpec, RegistryAuth

pytestmark = needs_buildah

ClientCommands = Callable[[Callable[[Any], Any]], list[list[str]]]


def working_containers(shop: Workshop) -> list[Any]:
    found = []
    for path in (shop.data / "images/storage/overlay-containers").glob("*containers.json"):
        found += json.loads(path.read_text())
    return found


def test_the_chain_of_the_client(workshop: Workshop, client_commands: ClientCommands) -> None:
    """debian_slim and what is usually put on it, exactly as the client sends it."""
    chain = client_commands(
        lambda image: (
            image.debian_slim(python_version="3.11")
            .pip_install("cowsay")
            .uv_pip_install("six==1.16.0")
            .apt_install("figlet")
            .env({"GREETING": "it's $$HOME", "EMPTY": "", "PATH": "/opt/x:$PATH"})
            .workdir("/app")
            .run_commands("echo built > /app/mark", "figlet hi > /app/banner")
            .entrypoint([])
        )
    )
    assert len(chain) == 8
    assert chain[0][0].startswith("FROM python:3.11-slim")
    image_id = ""
    for commands in chain:
        image_id, config = workshop.build(commands, base=image_id)
    assert config.env["GREETING"] == "it's $$HOME"
    assert config.env["EMPTY"] == ""
    assert config.env["PATH"].startswith("/opt/x:/usr/local/bin:")
    assert config.workdir == "/app"
    assert config.entrypoint == ()
    assert config.python_version.startswith("3.11.")
    assert (config.libc, config.builder_version) == ("glibc", "2026.10")
    assert config.libc_version
    assert config.python_packages["cowsay"]
    assert config.python_packages["six"] == "1.16.0"
    assert workshop.text(image_id, "/app/mark") == "built\n"
    assert workshop.inside(image_id, "gcc", "--version")
    # What the steps of a build see is no part of the image.
    assert workshop.find(image_id, "/run/stoker/finish.py") is None
    assert not [name for name in config.env if name.startswith(("PIP_", "UV_"))]
    # The client in a container of this image: the very import that starts every function.
    trees = workshop.run(workshop.builder.client_layers("1.6.4", image_id, config))
    layers = (*trees, *workshop.run(workshop.builder.layers(image_id)))
    program = (
        "import modal._container_entrypoint, modal; print(modal.__version__, modal._container_entrypoint.__cached__)"
    )
    env = {**config.env, "PYTHONPATH": "/root:/pkg"}
    code, output = workshop.in_layers(layers, ("python", "-c", program), env)
    assert code == 0, output
    version, cached = output.split()
    assert version == "1.6.4"
    assert any((tree / cached.lstrip("/")).is_file() for tree in trees), "the client was not compiled"


def test_the_client_is_compiled_by_the_python_of_the_image(
    workshop: Workshop, base: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As on a server with another Python than the image.
    monkeypatch.setattr(client, "SERVER_PYTHON", "none")
    config = workshop.builder._records.read(base).config
    monkeypatch.setattr(workshop.builder, "_clients", client.ClientTrees(tmp_path))
    trees = workshop.run(workshop.builder.client_layers("1.6.4", base, config))
    compiled = [path for tree in trees for path in tree.rglob("__pycache__/app.cpython-311.pyc")]
    assert compiled
    # The code tells where it is in a container, not where it was compiled.
    assert b"/pkg/modal/app.py" in compiled[0].read_bytes()
    assert b"/run/stoker" not in compiled[0].read_bytes()


def test_settings_only(workshop: Workshop, base: str) -> None:
    _, config = workshop.build(
        [
            "FROM base",
            "ENV A='x y' B=\"$A\"",
            "ENV A=$A:z",
            "WORKDIR /a",
            "WORKDIR b",
            'ENTRYPOINT ["tini", "--"]',
            "CMD echo $A",
        ],
        base=base,
    )
    assert config.env["A"] == "x y:z"
    assert config.workdir == "/a/b"
    assert config.entrypoint == ("tini", "--")
    assert config.cmd == ("/bin/sh", "-c", "echo $A")
    # Nothing can have changed, so what is known of the base's Python is kept.
    assert config.python_version.startswith("3.11.")
    assert config.python_packages["pip"]


def test_a_context_of_files_and_a_mount(workshop: Workshop, base: str, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    (tree / "pkg/deep").mkdir(parents=True)
    (tree / "pkg/deep/data.bin").write_bytes(b"\0\1")
    (tree / "pkg/run.sh").write_text("#!/bin/sh\n")
    (tree / "pkg/run.sh").chmod(0o755)
    # The client has applied ignore files already; a second time would drop what it chose to send.
    (tree / ".dockerignore").write_text("*\n")
    image_id, _ = workshop.build(
        ["FROM base", "COPY . /srv/", "COPY /.requirements.txt /tmp/wanted.txt"],
        base=base,
        context=BuildContext(mount_tree=tree),
        context_files={"/.requirements.txt": b"six\n"},
    )
    copied = workshop.find(image_id, "/srv/pkg/deep/data.bin")
    script = workshop.find(image_id, "/srv/pkg/run.sh")
    assert copied is not None
    assert copied.read_bytes() == b"\0\1"
    assert script is not None
    assert script.stat().st_mode & 0o777 == 0o755
    assert workshop.text(image_id, "/tmp/wanted.txt") == "six\n"
    assert not (tree / ".requirements.txt").exists(), "the mount itself was changed"


def test_a_whole_dockerfile(workshop: Workshop, base: str, tmp_path: Path) -> None:
    """Stages, arguments, here-documents, another shell, another user."""
    image_id, config = workshop.build(
        [
            "# syntax=docker/dockerfile:1",
            "ARG TAG=unused",
            "FROM base AS maker",
            "ARG WORD=default OTHER",
            "RUN <<EOF",
            "set -e",
            'echo "$WORD" > /made',
            "EOF",
            "RUN python3 <<'EOF'",
            "open('/made', 'a').write('$WORD\\n')",
            "EOF",
            "FROM base",
            'SHELL ["/bin/bash", "-c"]',
            "RUN [[ -n $BASH_VERSION ]] && echo bash > /shell",
            "COPY <<note.txt /notes/",
            "hello",
            "note.txt",
            "COPY --from=maker /made /made",
            "RUN useradd someone",
            "USER someone",
            "RUN id -un > /tmp/who \\",
            "  # a comment",
            "  && echo done",
        ],
        base=base,
        build_args={"WORD": "given"},
    )
    assert workshop.text(image_id, "/made") == "given\n$WORD\n"
    assert workshop.text(image_id, "/shell") == "bash\n"
    assert workshop.text(image_id, "/notes/note.txt") == "hello\n"
    assert workshop.text(image_id, "/tmp/who") == "someone\n"
    assert "WORD" not in config.env


def test_output_comes_as_it_is_written(workshop: Workshop, base: str) -> None:
    image_id = workshop.new_id()
    moments: dict[str, float] = {}

    class Watch(list[str]):
        def append(self, text: str) -> None:
            super().append(text)
            moments.setdefault(text, time.monotonic())

    workshop.log = Watch()
    workshop.run(workshop.build_later(image_id, ["FROM base", "RUN echo one; sleep 1; echo two"], base=base))
    assert workshop.log == ["Step 1/2: FROM base\n", "Step 2/2: RUN echo one; sleep 1; echo two\n", "one\n", "two\n"]
    assert moments["two\n"] - moments["one\n"] > 0.5


def test_a_failed_step_says_which_and_why(workshop: Workshop, base: str) -> None:
    with pytest.raises(ImageBuildFailed) as caught:
        workshop.build(
            ["FROM base", "RUN echo before", "RUN echo out; echo err >&2; exit 7", "RUN echo never"], base=base
        )
    message = str(caught.value)
    assert message.startswith("Step 3/4 of the image failed with exit code 7: RUN echo out; echo err >&2; exit 7\n")
    assert message.endswith("out\nerr")
    assert "before" not in message.split("\n", 1)[1]
    assert working_containers(workshop) == []
    with pytest.raises(ImageBuildFailed, match=r"(?s)Step 2/2 .*COPY /missing.*no such file"):
        workshop.build(["FROM base", "COPY /missing /x"], base=base)


def test_secrets_are_seen_by_steps_only(workshop: Workshop, base: str) -> None:
    secret = "s3cret-1234567890 'quoted' $HOME"
    image_id, config = workshop.build(
        [
            "FROM base",
            'RUN test "$TOKEN" = "s3cret-1234567890 \'quoted\' \\$HOME" && test "$TMPDIR" = /somewhere && echo seen',
        ],
        base=base,
        context=BuildContext(secret_env={"TOKEN": secret, "TMPDIR": "/somewhere"}),
    )
    assert "seen\n" in workshop.log
    assert "TOKEN" not in config.env
    needle = "s3cret-1234567890"
    assert needle not in "".join(workshop.log).replace(workshop.log[1], "")
    documents = [*workshop.data.glob("images/storage/overlay-*/**/*"), *workshop.data.glob("images/built/*")]
    top = workshop.run(workshop.builder.layers(image_id))[0]
    for path in [*documents, *top.rglob("*"), *(workshop.data / "images/work").rglob("*")]:
        if path.is_file() and not path.is_symlink():
            # The step itself, as the user wrote it, is not kept either (no history).
            assert needle.encode() not in path.read_bytes(), path


def test_cancelling_leaves_nothing(workshop: Workshop, base: str) -> None:
    mark = "987654.25"  # an argument of sleep that no other process has

    async def cancelled() -> None:
        started = asyncio.Event()
        image_id = workshop.new_id()
        steps = ["FROM base", f"RUN (sleep {mark} &) ; echo started; sleep {mark}"]
        task = asyncio.ensure_future(workshop.build_later(image_id, steps, base=base))
        await asyncio.sleep(0)

        class Watch(list[str]):
            def append(self, text: str) -> None:
                if text == "started\n":
                    started.set()

        workshop.log = Watch()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        task = asyncio.ensure_future(workshop.build_later(image_id, steps, base=base))
        await asyncio.wait_for(started.wait(), 60)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    try:
        workshop.run(cancelled())
    finally:
        workshop.log = []
    assert mark not in subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True).stdout
    assert str(workshop.data) not in Path("/proc/self/mountinfo").read_text()
    assert working_containers(workshop) == []
    assert list((workshop.data / "images/work").iterdir()) == []
    workshop.build(["FROM base", "RUN true"], base=base)


@pytest.mark.parametrize("user", ["root", "nobody"], ids=["by layering", "by buildah"])
def test_a_build_that_hangs_ends_in_time(workshop: Workshop, base: str, user: str) -> None:
    mark = "987656.25"
    hasty = LayeredImageBuilder(workshop.data, workshop.runtime.steps, max_seconds=6)
    said: list[str] = []
    steps = ("FROM base", f"USER {user}", f"RUN echo here; sleep {mark}")
    spec = ImageSpec(steps, {"base": base}, builder_version=BUILDER_VERSION)
    with pytest.raises(ImageBuildFailed, match=rf"(?s)RUN echo here; sleep {mark}.*image_build_seconds.*here"):
        workshop.run(hasty.build(workshop.new_id(), spec, BuildContext(), said.append))
    assert mark not in subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True).stdout
    assert str(workshop.data) not in Path("/proc/self/mountinfo").read_text()
    assert working_containers(workshop) == []
    assert list((workshop.data / "images/work").iterdir()) == []


def test_daemons_end_with_their_step(workshop: Workshop, base: str) -> None:
    mark = "987655.25"
    workshop.build(["FROM base", f"RUN (sleep {mark} > /dev/null 2>&1 &)"], base=base)
    assert mark not in subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True).stdout


def test_builds_at_the_same_time(workshop: Workshop, base: str) -> None:
    async def both() -> None:
        ids = [workshop.new_id() for _ in range(3)]
        configs = await asyncio.gather(
            *(
                workshop.build_later(image_id, ["FROM base", f"ENV N={n}", f"RUN sleep 0.5; echo {n} > /n"], base=base)
                for n, image_id in enumerate(ids)
            )
        )
        assert [config.env["N"] for config in configs] == ["0", "1", "2"]
        for n, image_id in enumerate(ids):
            top = (await workshop.builder.layers(image_id))[0]
            assert (top / "n").read_text() == f"{n}\n"

    workshop.run(both())


def test_a_restarted_server_knows_its_images(workshop: Workshop, base: str) -> None:
    # What a killed server leaves: a working container.
    subprocess.run(
        [
            *("unshare", "--mount", "buildah", "--root", workshop.data / "images/storage"),
            *("--runroot", workshop.data / "images/run", "--storage-driver", "overlay", "from", "scratch"),
        ],
        check=True,
        capture_output=True,
    )
    assert working_containers(workshop)
    second = LayeredImageBuilder(workshop.data, workshop.runtime.steps)
    workshop.run(second.open())
    assert working_containers(workshop) == []
    layers = workshop.run(second.layers(base))
    assert layers
    assert all(layer.is_dir() for layer in layers)


def test_removing_keeps_what_others_are_built_on(workshop: Workshop, base: str) -> None:
    lower, _ = workshop.build(["FROM base", "RUN echo low > /low"], base=base)
    upper, _ = workshop.build(["FROM base", "RUN echo up > /up"], base=lower)
    own = workshop.run(workshop.builder.layers(upper))[0]
    workshop.run(workshop.builder.remove(lower))
    with pytest.raises(NotFound, match=lower):
        workshop.run(workshop.builder.layers(lower))
    assert workshop.text(upper, "/low") == "low\n"
    workshop.run(workshop.builder.remove(upper))
    assert not own.exists(), "the storage was not freed"
    workshop.run(workshop.builder.remove(upper))


def test_deleted_files_stay_deleted(workshop: Workshop, base: str) -> None:
    lower, _ = workshop.build(["FROM base", "RUN mkdir /d && touch /d/old /gone"], base=base)
    upper, _ = workshop.build(["FROM base", "RUN rm -r /d /gone && mkdir /d && touch /d/new"], base=lower)
    assert workshop.inside(upper, "sh", "-c", "ls /d; test ! -e /gone && echo fine").split() == ["new", "fine"]


def test_host_package_directories_reach_pip_and_uv(
    workshop: Workshop, base: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without any index: the wheel can only come from the host's directory."""
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    for name in ("hostonly_a", "hostonly_b"):
        with zipfile.ZipFile(wheels / f"{name}-1.0-py3-none-any.whl", "w") as wheel:
            wheel.writestr(f"{name}.py", "VALUE = 1\n")
            wheel.writestr(f"{name}-1.0.dist-info/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
            wheel.writestr(
                f"{name}-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
            )
            wheel.writestr(f"{name}-1.0.dist-info/RECORD", "")
    for variable in [name for name in os.environ if name.startswith(("PIP_", "UV_"))]:
        monkeypatch.delenv(variable)
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheels))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("UV_NO_INDEX", "1")
    image_id, config = workshop.build(
        [
            "FROM base",
            "COPY --from=ghcr.io/astral-sh/uv:latest /uv /.uv/uv",
            "RUN python -m pip install --no-cache-dir hostonly_a",
            "RUN /.uv/uv pip install --python $(command -v python) hostonly-b",
        ],
        base=base,
    )
    assert config.python_packages.keys() >= {"hostonly_a", "hostonly_b"}
    assert not [name for name in config.env if name.startswith(("PIP_", "UV_"))]
    # uv compiles nothing unless told so; the builder does.
    top = workshop.run(workshop.builder.layers(image_id))[0]
    assert list(top.rglob("__pycache__/hostonly_b.*.pyc"))


@pytest.mark.skipif(not hostconfig.added_authorities(), reason="this machine has no added certificate authorities")
def test_the_hosts_own_authorities_are_trusted_at_run_time(workshop: Workshop, base: str) -> None:
    body = "".join(hostconfig.added_authorities()[0].read_text().split("-----")[2].split())
    bundle = "".join(workshop.inside(base, "cat", "/etc/ssl/certs/ca-certificates.crt").split())
    assert body in bundle
    config = workshop.builder._records.read(base).config
    assert config.env["SSL_CERT_FILE"] == config.env["REQUESTS_CA_BUNDLE"] == "/etc/ssl/certs/ca-certificates.crt"


def test_a_base_that_nobody_can_supply(workshop: Workshop, tmp_path: Path) -> None:
    builder = LayeredImageBuilder(
        tmp_path,
        workshop.runtime.steps,
        registry_mirrors={"registry.invalid": "localhost:9"},
        insecure_registries=["localhost:9"],
    )
    workshop.run(builder.open())
    shop_builder, workshop.builder = workshop.builder, builder
    try:
        with pytest.raises(ImageBuildFailed) as caught:
            workshop.build(["FROM registry.invalid/nvidia/cuda:12.4.0-devel"])
    finally:
        workshop.builder = shop_builder
    message = str(caught.value)
    assert "`registry.invalid/nvidia/cuda:12.4.0-devel` is not available" in message
    assert "localhost:9/nvidia/cuda:12.4.0-devel: " in message
    assert "The registry registry.invalid cannot be reached" in message
    assert "registry_mirrors" in message


def test_a_mirror_supplies_what_its_registry_would(workshop: Workshop, tmp_path: Path) -> None:
    (tmp_path / "hello").write_text("from the mirror")
    with tarfile.open(tmp_path / "root.tar", "w") as tar:
        tar.add(tmp_path / "hello", "hello")
    layout = tmp_path / "layout"
    ocilayout.pack(tmp_path / "root.tar", layout, architecture="amd64", env={"LANG": "x"}, cmd=["/hello"])
    password = base64.b64encode(b"me:secret").decode()
    with serving(layout, user=password) as (address, asked):
        host = f"localhost:{address.partition(':')[2]}"
        builder = LayeredImageBuilder(tmp_path / "data", workshop.runtime.steps, insecure_registries=[host, address])
        workshop.run(builder.open())

        def build(name: str, **context: Any) -> ImageConfig:
            spec = ImageSpec((f"FROM {name}", "ENV A=1"), {})
            return workshop.run(builder.build(workshop.new_id(), spec, BuildContext(**context), workshop.log.append))

        # A private registry: refused without the secret, served with it.
        with pytest.raises(ImageBuildFailed, match=r"(?s)nvidia/cuda:12.*(unauthorized|authentication required)"):
            build(f"{host}/nvidia/cuda:12")
        secret = {"REGISTRY_USERNAME": "me", "REGISTRY_PASSWORD": "secret"}
        config = build(f"{host}/nvidia/cuda:12", registry_auth=RegistryAuth("static", secret))
        assert config.env["LANG"] == "x"
        assert config.cmd == ("/hello",)
        # What is there is not asked for again, without any secret.
        asked.clear()
        build(f"{host}/nvidia/cuda:12")
        assert asked == []
    with serving(layout) as (address, asked):
        mirrored = LayeredImageBuilder(
            tmp_path / "data2",
            workshop.runtime.steps,
            registry_mirrors={"docker.io": f"{address}/hub"},
            insecure_registries=[address],
        )
        workshop.run(mirrored.open())
        spec = ImageSpec(("FROM python:3.12-slim",), {})
        image_id = workshop.new_id()
        workshop.run(mirrored.build(image_id, spec, BuildContext(), workshop.log.append))
        (layer, *_) = workshop.run(mirrored.layers(image_id))[-1:]
        assert (layer / "hello").read_text() == "from the mirror"
        assert "/v2/hub/library/python/manifests/3.12-slim" in asked


def test_an_image_without_python(workshop: Workshop, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    image_id, config = workshop.build(["FROM scratch", "COPY file /file"], context=BuildContext(mount_tree=tmp_path))
    assert workshop.text(image_id, "/file") == "x"
    assert config.python_version == ""


def test_a_missing_base(workshop: Workshop) -> None:
    with pytest.raises(NotFound, match="im-gone"):
        workshop.build(["FROM base", "RUN true"], base="im-gone")


def test_where_copies_go(workshop: Workshop, base: str, tmp_path: Path) -> None:
    for name, text in {"one": "1", "two": "2", "deep/er/three": "3", "lib/four": "4"}.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (tmp_path / "deep/link").symlink_to("er/three")
    (tmp_path / "one").chmod(0o640)
    context = BuildContext(mount_tree=tmp_path)
    image_id, _ = workshop.build(
        [
            "FROM base",
            "RUN mkdir -p /there && echo old > /there/three && ln -s /there /linked && mkdir /taken",
            "ENV WHERE=/by/variable",
            "WORKDIR /work",
            "WORKDIR /work",
            "COPY one renamed",
            "COPY one two many/",
            'COPY ["two", "/json/"]',
            "COPY deep/er /there",
            "COPY deep /whole",
            "COPY lib /linked",
            "COPY one $WHERE/x",
            "COPY two /taken",
        ],
        base=base,
        context=context,
    )
    found = {
        name: workshop.text(image_id, name)
        for name in (
            *("/work/renamed", "/work/many/one", "/work/many/two", "/json/two", "/there/three", "/whole/er/three"),
            *("/whole/link", "/there/four", "/by/variable/x", "/taken/two"),
        )
    }
    assert list(found.values()) == ["1", "1", "2", "2", "3", "3", "3", "4", "1", "2"]
    renamed, link = workshop.find(image_id, "/work/renamed"), workshop.find(image_id, "/whole/link")
    assert renamed is not None
    assert (renamed.stat().st_mode & 0o777, renamed.stat().st_uid) == (0o640, 0)
    assert link is not None
    assert link.is_symlink()


def test_a_layer_holds_what_was_written_and_nothing_else(workshop: Workshop, base: str) -> None:
    image_id, _ = workshop.build(["FROM base", "RUN echo x > /x"], base=base)
    top = workshop.run(workshop.builder.layers(image_id))[0]
    written = {str(path.relative_to(top)) for path in top.rglob("*") if path.suffix != ".pyc" and not path.is_dir()}
    assert written == {"x"}
    # Mount points of the build are gone, those inside directories that the image already has.
    assert not (top / "run/stoker").exists()
    for path in hostconfig.package_sources().paths:
        assert not (top / str(path).lstrip("/")).exists()
    assert top.stat().st_mode & 0o777 == 0o755


def test_links_of_an_image_lead_nowhere_else(workshop: Workshop, base: str, tmp_path: Path) -> None:
    """An image whose directories point at paths of the host: neither mounts nor copies may follow them there."""
    outside = tmp_path / "outside"
    outside.mkdir()
    trap, _ = workshop.build(
        [
            "FROM base",
            f"RUN ln -s {outside} /trap && rm -rf /run && ln -s {outside}/run /run && ln -sf {outside}/r /etc/resolv.conf || true",
        ],
        base=base,
    )
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree/file").write_text("x")
    image_id, _ = workshop.build(
        ["FROM base", "COPY file /trap/file", "RUN test -e /run/stoker/finish.py && echo y > /trap/other"],
        base=trap,
        context=BuildContext(mount_tree=tmp_path / "tree"),
    )
    assert list(outside.iterdir()) == []
    assert workshop.text(image_id, f"{outside}/other") == "y\n"


def test_steps_cannot_touch_the_host(workshop: Workshop, base: str) -> None:
    workshop.build(
        [
            "FROM base",
            "RUN ! mount -t tmpfs tmpfs /mnt",
            "RUN ! hostname changed",
            "RUN test $$ -lt 100 && ls /proc | grep -qx 1",
        ],
        base=base,
    )
