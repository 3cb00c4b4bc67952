"""More of what programs have at the moment of their memory snapshot, with what Python and the system have. Only for `make matrix-snapshots`."""

import asyncio
import ctypes
import fcntl
import json
import mmap
import multiprocessing
import os
import pty
import random
import resource
import shutil
import signal
import socket
import stat
import struct
import subprocess
import sys
import threading
import time
import tty
import uuid
import zlib
from pathlib import Path

import modal
from snapshot_program import OPTIONS, Asked, Kept, Program, cases

app = modal.App("snapshot-system")
volume = modal.Volume.from_name("snapshot-system", create_if_missing=True)
VOLUME = Path("/vol")
LIBC = ctypes.CDLL(None, use_errno=True)


class Terminal(Program):
    what, answer = "a terminal (pty) and a child in it", "hello"

    def __init__(self):
        self.ours, theirs = pty.openpty()
        tty.setraw(theirs)
        self.child = subprocess.Popen(["cat"], stdin=theirs, stdout=theirs)
        os.close(theirs)

    def check(self):
        os.write(self.ours, b"hello")
        return os.read(self.ours, 100).decode()


class Descriptors(Program):
    what, answer = "eventfd and timerfd", "True"

    def __init__(self):
        self.event = os.eventfd(7)
        self.timer = LIBC.timerfd_create(time.CLOCK_MONOTONIC, 0)
        tenth = struct.pack("qqqq", 0, 100_000_000, 0, 100_000_000)
        assert LIBC.timerfd_settime(self.timer, 0, tenth, None) == 0

    def check(self):
        expired = int.from_bytes(os.read(self.timer, 8), sys.byteorder)
        return os.eventfd_read(self.event) == 7 and expired > 0


class Alarm(Program):
    what, answer = "setitimer, SIGALRM in a child", "rings"

    def __init__(self):
        code = (
            "import signal\n"
            "signal.signal(signal.SIGALRM, lambda *_: print('rings', flush=True))\n"
            "signal.setitimer(signal.ITIMER_REAL, 0.2, 0.2)\n"
            "while True: signal.pause()"
        )
        self.child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
        assert self.child.stdout.readline()

    def check(self):
        return self.child.stdout.readline().strip()


class StoppedChild(Program):
    what, answer = "a child that was stopped, and one that has ended", "stopped 7"

    def __init__(self):
        self.stopped = subprocess.Popen(["sleep", "1000"])
        self.stopped.send_signal(signal.SIGSTOP)
        os.waitpid(self.stopped.pid, os.WUNTRACED)
        self.ended = subprocess.Popen(["sh", "-c", "exit 7"])
        os.waitid(os.P_PID, self.ended.pid, os.WEXITED | os.WNOWAIT)

    def check(self):
        state = Path(f"/proc/{self.stopped.pid}/stat").read_text().split()[2]
        return f"{'stopped' if state == 'T' else state} {self.ended.wait()}"


class Shell(Program):
    what, answer = "a shell script that loops", "hello"

    def __init__(self):
        loop = "while read -r word; do echo $word; done"
        self.child = subprocess.Popen(["sh", "-c", loop], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def check(self):
        self.child.stdin.write("hello\n")
        self.child.stdin.flush()
        return self.child.stdout.readline().strip()


class Inotify(Program):
    what, answer = "inotify", "made"

    def __init__(self):
        self.directory = Path("/root/watched")
        self.directory.mkdir()
        self.watch = LIBC.inotify_init()
        assert LIBC.inotify_add_watch(self.watch, bytes(self.directory), 0x100) > 0  # IN_CREATE

    def check(self):
        (self.directory / "made").touch()
        return os.read(self.watch, 1000)[16:].rstrip(b"\0").decode()


class SystemV(Program):
    what, answer = "System V shared memory and semaphores", "hello3"

    def __init__(self):
        LIBC.shmat.restype = ctypes.c_void_p
        self.memory = LIBC.shmat(LIBC.shmget(0, 4096, 0o1600), None, 0)
        ctypes.memmove(self.memory, b"hello", 5)
        self.semaphores = LIBC.semget(0, 1, 0o1600)
        assert LIBC.semctl(self.semaphores, 0, 16, 3) == 0  # SETVAL

    def check(self):
        return ctypes.string_at(self.memory, 5).decode() + str(LIBC.semctl(self.semaphores, 0, 12))  # GETVAL


class ImageMap(Program):
    what, answer = "a mapped file of the image, shared and private", "True"

    def __init__(self):
        self.path = Path(os.__file__)
        with self.path.open("rb") as file:
            self.shared = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            self.private = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        self.private[:5] = b"hello"

    def check(self):
        content = self.path.read_bytes()
        return self.shared[:] == content and self.private[:] == b"hello" + content[5:]


class VolumeMapWritten(Program):
    what, answer = "a mapped file of a Volume, written", "hello"

    def __init__(self):
        (VOLUME / "mapped").write_bytes(bytes(4096))
        with (VOLUME / "mapped").open("r+b") as file:
            self.map = mmap.mmap(file.fileno(), 0)
        self.map[:5] = b"hello"
        self.map.flush()

    def check(self):
        return (VOLUME / "mapped").read_bytes()[:5].decode()


class Locks(Program):
    what, answer = "flock and fcntl locks, also on a Volume", "1111"

    def __init__(self):
        self.files = []
        for directory in ("/root", VOLUME):
            for kind in (fcntl.flock, fcntl.lockf):
                file = open(Path(directory, f"{kind.__name__}.lock"), "a")  # noqa: SIM115
                kind(file, fcntl.LOCK_EX)
                self.files.append((file, kind.__name__))

    def check(self):
        """Whether another process is refused each."""
        code = "import fcntl, sys\ngetattr(fcntl, sys.argv[2])(open(sys.argv[1], 'a'), fcntl.LOCK_EX | fcntl.LOCK_NB)"
        tries = [[sys.executable, "-c", code, file.name, kind] for file, kind in self.files]
        return "".join(str(subprocess.run(other, stderr=subprocess.DEVNULL).returncode) for other in tries)


class Fifo(Program):
    what, answer = "a FIFO with unread bytes", "hello"

    def __init__(self):
        os.mkfifo("/root/fifo")
        self.fifo = os.open("/root/fifo", os.O_RDWR)
        os.write(self.fifo, b"hello")

    def check(self):
        return os.read(self.fifo, 5).decode()


class LoadedLibrary(Program):
    what, answer = "a shared library that was deleted after it was loaded", "9.0"
    saved = False

    def __init__(self):
        found = next(Path("/").glob("usr/lib/*-linux-gnu/libm.so.6"))
        shutil.copy(found, "/root/libcase.so")
        self.library = ctypes.CDLL("/root/libcase.so")
        os.unlink("/root/libcase.so")

    def check(self):
        self.library.pow.argtypes, self.library.pow.restype = [ctypes.c_double] * 2, ctypes.c_double
        return self.library.pow(3, 2)


class RemovedDirectory(Program):
    what, answer = "a working directory that was removed", "gone"
    saved = False

    def __init__(self):
        os.mkdir("/root/here")
        self.child = subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd="/root/here")
        os.rmdir("/root/here")

    def check(self):
        out, _ = self.child.communicate(b"gone")
        return out.decode()


class FileKinds(Kept):
    what = "modes, times, owners, links and a sparse GiB"

    def load(self):
        self.place = Path("/root/files")
        self.place.mkdir()
        (self.place / "plain").write_text("hello")
        os.chmod(self.place / "plain", 0o4711)
        os.chown(self.place / "plain", 1234, 5678)
        os.symlink("nowhere", self.place / "soft")
        (self.place / "empty").mkdir(mode=0o1700)
        with (self.place / "sparse").open("wb") as file:
            file.truncate(1 << 30)
            file.seek(1 << 29)
            file.write(b"middle")
        for name in ("plain", "sparse"):
            os.utime(self.place / name, ns=(10**18, 10**18 + 1))
        os.link(self.place / "plain", self.place / "hard")
        Path("/etc/passwd").write_text(Path("/etc/passwd").read_text() + "case:x:1234:5678::/:/bin/sh\n")

    def compute(self):
        about = {path.name: path.lstat() for path in self.place.iterdir()}
        assert stat.S_ISLNK(about["soft"].st_mode) and os.readlink(self.place / "soft") == "nowhere"
        assert about["plain"].st_ino == about["hard"].st_ino
        with (self.place / "sparse").open("rb") as file:
            file.seek((1 << 29) - 1)
            middle = file.read(8)
        found = {
            name: (s.st_mode, s.st_uid, s.st_gid, s.st_nlink, s.st_size, s.st_mtime_ns) for name, s in about.items()
        }
        return sorted(found.items()), middle, "case:x" in Path("/etc/passwd").read_text()


class ManyFiles(Program):
    what, answer = "800 open files", "800"

    def __init__(self):
        self.files = []
        for n in range(800):
            file = open(f"/tmp/{n}", "w+")  # noqa: SIM115
            file.write(str(n))
            self.files.append(file)

    def check(self):
        for file in self.files:
            file.seek(0)
        return sum(file.read() == str(n) for n, file in enumerate(self.files))


class Limits(Kept):
    what = "limits, umask, niceness and processors of a child"

    def load(self):
        code = (
            "import json, os, resource, sys\n"
            "for _ in sys.stdin:\n"
            "    umask = os.umask(0); os.umask(umask)\n"
            "    limits = [resource.getrlimit(n) for n in (resource.RLIMIT_NOFILE, resource.RLIMIT_CORE, resource.RLIMIT_STACK)]\n"
            "    print(json.dumps([limits, umask, os.nice(0), sorted(os.sched_getaffinity(0))]), flush=True)"
        )
        self.child = subprocess.Popen(
            [sys.executable, "-c", code],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
            preexec_fn=self.limit,
        )

    def limit(self):
        resource.setrlimit(resource.RLIMIT_NOFILE, (300, 400))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        os.umask(0o27)
        os.nice(5)
        os.sched_setaffinity(0, {0})

    def compute(self):
        self.child.stdin.write("\n")
        return json.loads(self.child.stdout.readline())


class MuchMemory(Kept):
    what = "200 MiB of random bytes, 400 MiB of zeros, huge pages"

    def load(self):
        self.noise = random.randbytes(200 << 20)
        self.zeros = bytearray(400 << 20)
        self.huge = mmap.mmap(-1, 64 << 20)
        self.huge.madvise(mmap.MADV_HUGEPAGE)
        self.huge[:5] = b"hello"

    def compute(self):
        return zlib.crc32(self.noise), zlib.crc32(self.zeros), self.huge[:6]


class Streams(Program):
    what, answer = "asyncio in a thread: open streams on 127.0.0.1, a timer", "hello later"

    def __init__(self):
        self.loop = asyncio.new_event_loop()
        threading.Thread(target=self.loop.run_forever, daemon=True).start()
        self.run(self.open())

    def run(self, coroutine):
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(20)

    async def open(self):
        async def serve(reader, writer):
            while line := await reader.readline():
                writer.write(line)

        self.server = await asyncio.start_server(serve, "127.0.0.1")
        self.reader, self.writer = await asyncio.open_connection(*self.server.sockets[0].getsockname())
        self.later = self.loop.create_future()
        self.loop.call_later(3, self.later.set_result, "later")

    async def ask(self):
        self.writer.write(b"hello\n")
        return f"{(await self.reader.readline()).decode().strip()} {await self.later}"

    def check(self):
        return self.run(self.ask())


class Manager(Program):
    what, answer = "multiprocessing.Manager with its own process", "hello"

    def __init__(self):
        self.manager = multiprocessing.get_context("forkserver").Manager()
        self.words = self.manager.dict(word="hello")

    def check(self):
        return self.words["word"]


def answer(questions, answers, count):
    for word in iter(questions.get, None):
        with count.get_lock():
            count.value += 1
        answers.put(word.upper())


class Queues(Program):
    what, answer = "multiprocessing.Queue, Value and Semaphore with a forked worker", "HELLO 2"

    def __init__(self):
        context = multiprocessing.get_context("fork")
        self.questions, self.answers, self.count = context.Queue(), context.Queue(), context.Value("i", 0)
        self.held = context.Semaphore(1)
        self.held.acquire()
        self.worker = context.Process(target=answer, args=(self.questions, self.answers, self.count), daemon=True)
        self.worker.start()
        self.ask()

    def ask(self):
        self.questions.put("hello")
        return self.answers.get(timeout=20)

    def check(self):
        assert not self.held.acquire(block=False)
        return f"{self.ask()} {self.count.value}"


class VolumeSocket(Program):
    what, answer = "a unix socket on a Volume", "hello"

    def __init__(self):
        path = VOLUME / "case.sock"
        path.unlink(missing_ok=True)
        self.server, self.client = socket.socket(socket.AF_UNIX), socket.socket(socket.AF_UNIX)
        self.server.bind(str(path))
        self.server.listen()
        self.client.connect(str(path))
        self.accepted, _ = self.server.accept()

    def check(self):
        self.client.sendall(b"hello")
        return self.accepted.recv(10).decode()


class Datagrams(Program):
    what, answer = "unix datagrams, also of an abstract name, unread", "helloworld"

    def __init__(self):
        self.servers = []
        for place, word in (("/root/datagrams", b"hello"), ("\0case", b"world")):
            server, client = (socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) for _ in range(2))
            server.bind(place)
            client.sendto(word, place)
            self.servers.append(server)

    def check(self):
        return "".join(server.recv(10).decode() for server in self.servers)


class Sources(Program):
    """What takes its randomness from the system."""

    what, answer = "uuid, os.urandom and secrets differ in each", "differs"

    def __init__(self):
        self.first = self.draw()

    def draw(self):
        return {str(uuid.uuid4()), os.urandom(8).hex(), random.SystemRandom().random()}

    def check(self):
        seen = VOLUME / "seen"
        now = {str(value) for value in self.draw()}
        before = set(seen.read_text().split()) if seen.exists() else set()
        seen.write_text("\n".join(before | now))
        return "same" if now & before else "differs"


CASES = cases(globals())


@app.cls(
    image=modal.Image.debian_slim().add_local_python_source("snapshot_program"), volumes={"/vol": volume}, **OPTIONS
)
class Case(Asked):
    cases = CASES
    name: str = modal.parameter()
