"""Our module in containers that are saved: what it does to children that are forked."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

from stoker.agent import snapshot_hook

FORK = """
import os, socket, sys
to_server, other = socket.socket(socket.AF_UNIX), socket.socketpair()
to_server.connect(sys.argv[1])
ready, go = os.pipe()
if os.fork() == 0:
    names = [os.readlink(f"/proc/self/fd/{s.fileno()}") for s in (to_server, other[0])]
    other[0].send("|".join(names).encode())
    taken = to_server.fileno()
    to_server.close()                 # what it believes to be its own
    with open(os.devnull) as file:
        assert file.fileno() == taken
    os._exit(0)
print(other[1].recv(1000).decode())
to_server.send(b"parent")
assert to_server.recv(10) == b"PARENT"
"""


def test_a_forked_child_lets_go_of_the_connection_to_the_server() -> None:
    with tempfile.TemporaryDirectory() as name, socket.socket(socket.AF_UNIX) as server:
        shutil.copy(snapshot_hook.__file__, Path(name) / "sitecustomize.py")
        path = f"{name}/modal.sock"
        server.bind(path)
        server.listen()
        env = {"PYTHONPATH": name, "MODAL_SERVER_URL": f"unix://{path}"}
        with subprocess.Popen(
            [sys.executable, "-c", FORK, path], env=env, stdout=subprocess.PIPE, text=True
        ) as program:
            connection, _ = server.accept()
            with connection:
                assert connection.recv(10) == b"parent"
                connection.sendall(b"PARENT")
            assert program.stdout is not None
            inherited, other = program.stdout.read().strip().split("|")
    assert inherited == "/dev/null" and other.startswith("socket:") and program.returncode == 0


def test_a_python_without_a_sitecustomize_of_its_own_says_nothing() -> None:
    with tempfile.TemporaryDirectory() as name:
        shutil.copy(snapshot_hook.__file__, Path(name) / "sitecustomize.py")
        done = subprocess.run([sys.executable, "-c", ""], env={"PYTHONPATH": name}, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
