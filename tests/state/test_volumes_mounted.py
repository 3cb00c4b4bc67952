"""Volumes as code in real sandboxes sees them, beside clients that work on the same files."""

from __future__ import annotations

import io
import json
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import modal
import pytest
from modal.client import Client
from modal_proto import api_pb2

from tests.conftest import RunningServer

Run = Callable[..., Any]


@pytest.fixture(scope="module")
def client(sandboxes: RunningServer) -> Iterator[Client]:
    sandboxes.modal("deploy", "volumes.py", timeout=400)
    env = sandboxes.env
    credentials = (env["MODAL_TOKEN_ID"], env["MODAL_TOKEN_SECRET"])
    with Client(env["MODAL_SERVER_URL"], api_pb2.CLIENT_TYPE_CLIENT, credentials) as client:
        yield client


@pytest.fixture(scope="module")
def run(client: Client) -> Run:
    """Runs a program in the container of a function of the app `volumes`."""

    def call(function: str, program: str) -> Any:
        return modal.Function.from_name("volumes", function, client=client).remote(program)

    return call


@pytest.fixture(scope="module")
def volume(client: Client) -> modal.Volume:
    return modal.Volume.from_name("mounted", client=client).hydrate(client)


def put(volume: modal.Volume, path: str, content: bytes, mode: int = 0o644) -> None:
    with volume.batch_upload(force=True) as batch:
        batch.put_file(io.BytesIO(content), path, mode=mode)


def content(volume: modal.Volume, path: str) -> bytes:
    return b"".join(volume.read_file(path))


def test_the_last_writer_of_a_file_wins(run: Run, volume: modal.Volume) -> None:
    write = "open('/data/{}', 'w').write('{}'); vol.commit()"
    run("one", write.format("shared", "from one"))
    run("one", write.format("of-one", "from one"))
    run("two", write.format("of-two", "from two"))
    assert content(volume, "shared") == b"from one"
    run("two", write.format("shared", "from two"))
    read = "vol.reload(); result = [open(f'/data/{n}').read() for n in ('shared', 'of-one', 'of-two')]"
    for function in ("one", "two", "fresh"):
        assert run(function, read) == ["from two", "from one", "from two"], function
    put(volume, "shared", b"from a client")
    for function in ("one", "two", "fresh"):
        assert run(function, read)[0] == "from a client", function


def test_what_is_written_at_the_end_is_kept_without_a_commit(run: Run, volume: modal.Volume) -> None:
    run("fresh", "import atexit; atexit.register(lambda: open('/data/at-exit', 'w').write('kept'))")
    assert run("one", _WAIT_FOR.format("/data/at-exit")) == "kept"
    assert content(volume, "at-exit") == b"kept"


_WAIT_FOR = """
import os, time
for _ in range(300):
    if os.path.exists('{0}') and os.path.getsize('{0}'):
        break
    time.sleep(0.1)
result = open('{0}').read()
"""


def test_reload_fails_while_files_are_open(run: Run, volume: modal.Volume) -> None:
    put(volume, "held", b"held")
    attempt = """
try:
    vol.reload()
except RuntimeError as error:
    result = str(error)
"""
    assert run("one", attempt) is None
    found = run("one", "held = open('/data/held')" + attempt)
    assert "there are open files preventing the operation: /data/held is open" in found
    assert run("two", attempt) is None  # another container's files do not matter
    assert run("one", "vol.commit(); held.close()" + attempt) is None
    found = run("one", "import os; os.chdir('/data')" + attempt)
    assert "/data is open" in found
    assert run("one", "os.chdir('/')" + attempt) is None
    child = "import subprocess; child = subprocess.Popen(['tail', '-f', '/data/held'])\nimport time; time.sleep(0.5)"
    assert "/data/held is open" in run("one", child + attempt)
    assert run("one", "child.kill(); child.wait()" + attempt) is None


def test_a_read_only_mount_cannot_be_written(run: Run, volume: modal.Volume) -> None:
    put(volume, "read-only", b"1")
    write = """
import errno
result = [open('/data/read-only').read()]
for path in ('/data/read-only', '/data/new', '/__modal/volumes/' + vol.hydrate().object_id + '/read-only'):
    try:
        open(path, 'a')
    except OSError as error:
        result.append(errno.errorcode[error.errno])
"""
    assert run("reader", write) == ["1", "EROFS", "EROFS", "EROFS"]


def test_a_part_of_a_volume(run: Run, volume: modal.Volume) -> None:
    put(volume, "users/bob/secret", b"bob's")
    program = """
import os
open('/part/mine', 'w').write("ann's")
result = [os.listdir('/part'), os.path.exists('/part/../bob/secret'), os.path.exists('/part/../users')]
"""
    assert run("part", program) == [["mine"], False, False]
    assert content(volume, "users/ann/mine") == b"ann's"


def test_links_made_inside_never_reach_files_of_the_host(
    run: Run, volume: modal.Volume, sandboxes: RunningServer, tmp_path: Path
) -> None:
    secret = tmp_path / "secret"
    secret.write_text("of the host")
    up = "../" * 30
    program = f"""
import os
for name, target in (('absolute', {str(secret)!r}), ('relative', {up + str(secret)[1:]!r}),
                     ('root', '/'), ('up', {up!r}), ('escape', '/'), ('inside', 'shared'), ('loop', 'loop')):
    os.path.lexists('/data/' + name) and os.unlink('/data/' + name)
    os.symlink(target, '/data/' + name)
open('/data/shared', 'w').write('shared')
"""
    run("one", program)
    beyond = str(secret)[1:]
    for path in ("absolute", "relative", f"root/{beyond}", f"up/{beyond}", "loop"):
        with pytest.raises(modal.exception.ConflictError, match=r"outside|too many links"):
            content(volume, path)
        with pytest.raises(modal.exception.ConflictError, match=r"outside|too many links"):
            volume.copy_files([path], "stolen")
        for function in ("two", "fresh"):
            reading = f"import os; result = os.path.exists('/data/{path}') and open('/data/{path}').read()"
            assert run(function, reading) is False
    assert content(volume, "inside") == b"shared"
    put(volume, "absolute", b"a file of the volume")  # takes the link's place instead of writing through it
    assert secret.read_text() == "of the host"
    for path in (f"root/{beyond}", f"up/{beyond}"):
        with pytest.raises(modal.exception.ConflictError, match="outside"):
            put(volume, path, b"evil")
        with pytest.raises(modal.exception.ConflictError, match="outside"):
            volume.remove_file(path)
    with pytest.raises(modal.exception.Error, match="outside"):
        run("escaping", "import os; result = os.listdir('/part')")
    for path in ("relative", "root"):  # the client lists them as links, and passes over those
        sandboxes.modal("volume", "get", "mounted", path, str(tmp_path / "got"), check=False)
        assert not (tmp_path / "got").exists()
    assert secret.read_text() == "of the host"


def test_modes_are_kept(run: Run, volume: modal.Volume) -> None:
    put(volume, "tool", b"#!/bin/sh\necho works\n", mode=0o755)
    put(volume, "private", b"", mode=0o600)
    program = """
import os, subprocess
result = [subprocess.check_output('/data/tool', text=True).strip(), oct(os.stat('/data/private').st_mode)]
open('/data/made', 'w').close(); os.chmod('/data/made', 0o750)
"""
    assert run("two", program) == ["works", "0o100600"]
    assert run("fresh", "import os; result = oct(os.stat('/data/made').st_mode)") == "0o100750"


def test_set_user_id_bits_do_not_stay(run: Run, volume: modal.Volume, sandboxes: RunningServer) -> None:
    program = """
import os, subprocess
os.makedirs('/data/tools', exist_ok=True)
subprocess.check_call(['cp', '/usr/bin/id', '/data/tools/id'])
os.chmod('/data/tools/id', 0o6755)
result = oct(os.stat('/data/tools/id').st_mode)
"""
    assert run("fresh", program) == "0o106755"
    tool = sandboxes.data / "volumes" / volume.object_id / "tools" / "id"
    deadline = time.monotonic() + 100
    while stat.S_IMODE(tool.stat().st_mode) != 0o755:
        assert time.monotonic() < deadline, oct(tool.stat().st_mode)
        time.sleep(0.2)


def test_a_volume_that_is_deleted_while_it_is_mounted(run: Run, client: Client, sandboxes: RunningServer) -> None:
    assert run("doomed", "open('/other/f', 'w').write('1'); other.commit(); result = open('/other/f').read()") == "1"
    modal.Volume.objects.delete("mounted-deleted", client=client)
    program = """
import os
result = [os.environ['MODAL_TASK_ID'], os.path.exists('/other/f')]
for act in (lambda: open('/other/g', 'w'), other.commit, other.reload):
    try:
        act()
    except Exception as error:
        result.append(f"{type(error).__name__}: {error}")
"""
    task, found, write, commit, reload = run("doomed", program)
    assert found is False and write.startswith("FileNotFoundError")
    assert commit.startswith("RuntimeError: Volume 'vo-") and reload.startswith("RuntimeError: Volume 'vo-")
    sandboxes.modal("container", "stop", "-y", task)
    with pytest.raises(modal.exception.Error, match=r"Volume .* not found"):
        run("doomed", "")


HUB = """
import hashlib, json, os, struct
def blob(content):
    name = hashlib.sha256(content).hexdigest()
    os.makedirs(f'{base}/blobs', exist_ok=True)
    open(f'{base}/blobs/{name}', 'wb').write(content)
    return name
base, commit = '/data/hub/models--acme--tiny', 'c' * 40
vocabulary = {'[UNK]': 0, 'a': 1, 'b': 2}
weights = b''.join(struct.pack('<f', x) for x in range(4))
header = json.dumps({'w': {'dtype': 'F32', 'shape': [2, 2], 'data_offsets': [0, 16]}}).encode()
files = {
    'config.json': json.dumps({'model_type': 'bert', 'hidden_size': 2, 'num_attention_heads': 1}).encode(),
    'tokenizer.json': json.dumps({
        'version': '1.0', 'truncation': None, 'padding': None, 'added_tokens': [], 'normalizer': None,
        'pre_tokenizer': {'type': 'Whitespace'}, 'post_processor': None, 'decoder': None,
        'model': {'type': 'WordLevel', 'vocab': vocabulary, 'unk_token': '[UNK]'},
    }).encode(),
    'tokenizer_config.json': json.dumps({'tokenizer_class': 'PreTrainedTokenizerFast', 'unk_token': '[UNK]'}).encode(),
    'sub/model.safetensors': struct.pack('<Q', len(header)) + header + weights,
}
for name, content in files.items():
    target = f'{base}/snapshots/{commit}/{name}'
    os.makedirs(os.path.dirname(target), exist_ok=True)
    os.path.lexists(target) and os.unlink(target)
    os.symlink(os.path.relpath(f'{base}/blobs/{blob(content)}', os.path.dirname(target)), target)
os.makedirs(f'{base}/refs', exist_ok=True)
open(f'{base}/refs/main', 'w').write(commit)
vol.commit()
"""


def test_a_model_cache_on_a_volume(run: Run, volume: modal.Volume, sandboxes: RunningServer, tmp_path: Path) -> None:
    """The layout that huggingface_hub makes, of blobs and relative links to them, written by one container and loaded by another."""
    run("one", HUB)
    program = """
import os
from huggingface_hub import hf_hub_download, snapshot_download
from safetensors import safe_open
from transformers import AutoConfig, AutoTokenizer
root = snapshot_download('acme/tiny')
with safe_open(hf_hub_download('acme/tiny', 'sub/model.safetensors'), 'np') as file:
    weights = file.get_tensor('w').tolist()
result = [
    root, weights, AutoConfig.from_pretrained('acme/tiny').hidden_size, AutoTokenizer.from_pretrained('acme/tiny')('a b').input_ids
]
"""
    root, weights, size, ids = run("loader", program)
    assert root == f"/data/hub/models--acme--tiny/snapshots/{'c' * 40}"
    assert (weights, size, ids) == ([[0, 1], [2, 3]], 2, [1, 2])
    config = f"hub/models--acme--tiny/snapshots/{'c' * 40}/config.json"
    assert json.loads(content(volume, config))["hidden_size"] == 2
    sandboxes.modal("volume", "get", "mounted", config, str(tmp_path / "config.json"))
    assert json.loads((tmp_path / "config.json").read_text())["hidden_size"] == 2
