"""What programs have at the moment of their memory snapshot, a class each: made before it, checked in the container and in restored ones.

Only with what Python itself has; `snapshot_libraries.py` has the libraries. `PEER` is the address of another machine."""

import contextlib
import ctypes
import http.client
import mmap
import multiprocessing
import os
import queue
import random
import select
import socket
import sqlite3
import subprocess
import threading
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import modal
from snapshot_program import OPTIONS, Asked, Program, cases

app = modal.App("snapshot-cases")
volume = modal.Volume.from_name("snapshot-cases", create_if_missing=True)
VOLUME = Path("/vol")


def square(x):
    return x * x


def own_address():
    return socket.gethostbyname(socket.gethostname())


class HttpConnection(Program):
    """A pool of requests or httpx does this: a connection that was cut is made anew."""

    what = "HTTP, keep-alive to another machine"
    answer = "hello"

    def __init__(self):
        self.connection = http.client.HTTPConnection(os.environ["PEER"], 8080, timeout=10)
        self.get()

    def get(self):
        self.connection.request("GET", "/")
        return self.connection.getresponse().read().split()[0].decode()

    def check(self):
        try:
            return self.get()
        except OSError as error:
            assert "abort" in str(error) or isinstance(error, ConnectionError), repr(error)
            self.connection.close()
            return self.get()


class OpenSocket(Program):
    """The program hears at once that its connection is cut; nothing hangs."""

    what = "a bare TCP connection to another machine"
    answer = "cut"

    def __init__(self):
        self.socket = socket.create_connection((os.environ["PEER"], 8080), timeout=10)

    def check(self):
        try:
            self.socket.sendall(b"GET / HTTP/1.1\r\n\r\n")
            self.socket.recv(100)
        except ConnectionAbortedError:
            return "cut"
        return "alive"


class OwnAddress(Program):
    what = "TCP over the container's own address"
    answer = "hello"
    saved = False

    def __init__(self):
        self.server = socket.create_server(("0.0.0.0", 9000))
        self.client = socket.create_connection((own_address(), 9000))
        self.accepted, _ = self.server.accept()

    def check(self):
        self.client.sendall(b"hello")
        return self.accepted.recv(10).decode()


class Loopback(Program):
    what = "TCP over 127.0.0.1"
    answer = "hello"

    def __init__(self):
        self.server = socket.create_server(("127.0.0.1", 0))
        self.client = socket.create_connection(self.server.getsockname())
        self.accepted, _ = self.server.accept()

    def check(self):
        self.client.sendall(b"hello")
        return self.accepted.recv(10).decode()


class Listeners(Program):
    what = "listening sockets, also on the own address"
    answer = "listens"

    def __init__(self):
        self.servers = [socket.create_server(("0.0.0.0", 0)), socket.create_server((own_address(), 0))]

    def check(self):
        everywhere, _ = self.servers
        with socket.create_connection(("127.0.0.1", everywhere.getsockname()[1])) as client:
            accepted, _ = everywhere.accept()
            with accepted:
                client.sendall(b"hello")
                assert accepted.recv(10) == b"hello"
        return "listens"


class ConnectedUdp(Program):
    what = "connected UDP to another machine"
    answer = "sent"
    saved = False

    def __init__(self):
        self.statsd = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.statsd.connect((os.environ["PEER"], 8125))

    def check(self):
        with contextlib.suppress(ConnectionRefusedError):  # nobody listens there
            self.statsd.send(b"calls:1|c")
        return "sent"


class LoopbackUdp(Program):
    what = "connected UDP over 127.0.0.1"
    answer = "hello"

    def __init__(self):
        self.server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.server.bind(("127.0.0.1", 0))
        self.client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.client.connect(self.server.getsockname())

    def check(self):
        self.client.send(b"hello")
        return self.server.recv(10).decode()


class UnixSockets(Program):
    what = "unix sockets with unread bytes"
    answer = "waits"

    def __init__(self):
        self.server = socket.socket(socket.AF_UNIX)
        self.server.bind("/root/case.sock")
        self.server.listen()
        self.client = socket.socket(socket.AF_UNIX)
        self.client.connect("/root/case.sock")
        self.accepted, _ = self.server.accept()
        self.client.sendall(b"waits")

    def check(self):
        return self.accepted.recv(10).decode()


class ForkPool(Program):
    what = "multiprocessing.Pool, fork"
    answer = "9"
    context = multiprocessing.get_context("fork")

    def __init__(self):
        self.pool = self.context.Pool(2)
        self.check()

    def check(self):
        return self.pool.map_async(square, [3]).get(timeout=20)[0]


class SpawnPool(ForkPool):
    what = "multiprocessing.Pool, spawn"
    context = multiprocessing.get_context("spawn")


class ForkServerPool(ForkPool):
    what = "multiprocessing.Pool, forkserver"
    context = multiprocessing.get_context("forkserver")


class Executor(Program):
    what = "ProcessPoolExecutor, fork"
    answer = "9"

    def __init__(self):
        self.pool = ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("fork"))
        self.check()

    def check(self):
        return self.pool.submit(square, 3).result(timeout=20)


class ForkedChild(Program):
    """One that only holds what it inherited."""

    what = "os.fork() and a socket pair"
    answer = "HELLO"

    def __init__(self):
        self.ours, theirs = socket.socketpair()
        if os.fork() == 0:
            while data := theirs.recv(10):
                theirs.sendall(data.upper())
            os._exit(0)
        theirs.close()

    def check(self):
        self.ours.sendall(b"hello")
        return self.ours.recv(10).decode()


class Subprocess(Program):
    what = "a child over pipes"
    answer = "hello"

    def __init__(self):
        self.child = subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)

    def check(self):
        self.child.stdin.write("hello\n")
        return self.child.stdout.readline().strip()


class Threads(Program):
    what = "threads, queues, timers, a held lock"
    answer = "9"

    def __init__(self):
        self.questions, self.answers = queue.Queue(), queue.Queue()
        threading.Thread(
            target=lambda: [self.answers.put(square(self.questions.get())) for _ in range(99)], daemon=True
        ).start()
        self.lock, self.event = threading.Lock(), threading.Event()
        self.lock.acquire()
        timer = threading.Timer(3600, self.event.set)
        timer.daemon = True
        timer.start()

    def check(self):
        assert not self.lock.acquire(blocking=False)
        self.questions.put(3)
        return self.answers.get(timeout=20)


class Polling(Program):
    what = "epoll and a pipe"
    answer = "True"

    def __init__(self):
        self.epoll, self.reader, self.writer = select.epoll(), *os.pipe()
        self.epoll.register(self.reader, select.EPOLLIN)

    def check(self):
        os.write(self.writer, b"x")
        ready = self.epoll.poll(timeout=20)
        os.read(self.reader, 1)
        return ready == [(self.reader, select.EPOLLIN)]


class SharedMemory(Program):
    what = "shared memory, memfd, anonymous mmap"
    answer = "helloworld!"

    def __init__(self):
        from multiprocessing.shared_memory import SharedMemory as Memory

        self.shared = Memory(create=True, size=1 << 20)
        self.shared.buf[:5] = b"hello"
        self.memfd = os.memfd_create("case")
        os.write(self.memfd, b"world")
        self.anonymous = mmap.mmap(-1, 4096)
        self.anonymous[:1] = b"!"

    def check(self):
        return (bytes(self.shared.buf[:5]) + os.pread(self.memfd, 5, 0) + self.anonymous[:1]).decode()


class OwnFiles(Program):
    what = "own files, open and renamed"
    answer = "helloTrue"

    def __init__(self):
        Path("/root/case").write_text("hello")
        self.file = open("/root/case")  # noqa: SIM115
        self.log = open("/root/case.log", "a")  # noqa: SIM115
        os.rename("/root/case", "/root/renamed")

    def check(self):
        self.file.seek(0)
        self.log.write("x")
        self.log.flush()
        return self.file.read() + str(Path("/root/case.log").read_text().count("x") > 0)


class DeletedImageFile(Program):
    what = "a deleted file of the image, open"
    answer = "kept"
    saved = False

    def __init__(self):
        self.file = open("/etc/issue")  # noqa: SIM115
        os.unlink("/etc/issue")

    def check(self):
        return "kept" if self.file.read() else "lost"


class DeletedMemoryFile(Program):
    what = "a deleted file of /dev/shm, open"
    answer = "hello"

    def __init__(self):
        self.file = open("/dev/shm/case", "w+")  # noqa: SIM115
        os.unlink("/dev/shm/case")
        self.file.write("hello")
        self.file.flush()

    def check(self):
        self.file.seek(0)
        return self.file.read()


class Sqlite(Program):
    what = "SQLite on the container's disk"
    answer = "1"
    where, mode = "/root/case.db", "DELETE"

    def __init__(self):
        Path(self.where).unlink(missing_ok=True)
        self.db = sqlite3.connect(self.where, check_same_thread=False)
        self.db.execute(f"PRAGMA journal_mode={self.mode}")
        self.db.execute("CREATE TABLE t (x)")
        self.db.execute("INSERT INTO t VALUES (1)")
        self.db.commit()

    def check(self):
        return self.db.execute("SELECT count(*) FROM t").fetchone()[0]


class SqliteWal(Sqlite):
    what = "SQLite in WAL mode on the container's disk"
    where, mode = "/root/wal.db", "WAL"


class SqliteVolume(Sqlite):
    what = "SQLite on a Volume, rollback journal"
    where = "/vol/case.db"


class SqliteVolumeWal(Sqlite):
    what = "SQLite on a Volume, WAL"
    saved = False
    where, mode = "/vol/wal.db", "WAL"


class VolumeMap(Program):
    """Weights that are mapped, as safetensors does."""

    what = "a mapped file of a Volume"
    answer = "7 7 7"
    path = VOLUME / "weights"

    def __init__(self):
        with self.path.open("rb") as file:
            self.weights = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
        self.first = self.weights[0]

    def check(self):
        return f"{self.first} {self.weights[0]} {self.weights[-1]}"


class VolumeLog(Program):
    """A file that the container itself makes longer stays its own."""

    what = "a file of a Volume, open to append"
    answer = "made"

    def __init__(self):
        self.log = open(VOLUME / "log", "a+")  # noqa: SIM115
        self.log.write("made\n")
        self.log.flush()

    def check(self):
        self.log.write("called\n")
        self.log.flush()
        self.log.seek(0)
        return self.log.readline().strip()


class Randomness(Program):
    what = "random differs in each"
    answer = "differs"

    def __init__(self):
        random.seed(7)
        random.random()

    def check(self):
        return "differs" if random.random() != random.Random(7).random() else "same"


class Clock(Program):
    what = "wall and monotonic clock go on together"
    answer = "True"

    def __init__(self):
        self.wall, self.steady = time.time(), time.monotonic()

    def check(self):
        return abs((time.time() - self.wall) - (time.monotonic() - self.steady)) < 5


class NativeCode(Program):
    what = "ctypes"
    answer = "True"

    def __init__(self):
        self.libc = ctypes.CDLL(None)
        self.seed = self.libc.getpid()

    def check(self):
        return self.libc.getpid() == self.seed == os.getpid()


CASES = cases(globals())


@app.cls(
    image=modal.Image.debian_slim().add_local_python_source("snapshot_program"),
    volumes={"/vol": volume},
    secrets=[modal.Secret.from_dict({"PEER": os.environ.get("PEER", "")})],
    **OPTIONS,
)
class Case(Asked):
    cases = CASES
    name: str = modal.parameter()
