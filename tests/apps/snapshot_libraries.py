"""Libraries at the moment of a memory snapshot, as `snapshot_cases.py`. Only for `make matrix-snapshots`: their image takes minutes."""

import os

import modal
from snapshot_program import OPTIONS, Asked, Program, cases

PACKAGES = [
    "requests",
    "httpx",
    "numpy",
    "pyzmq",
    "uvloop",
    "duckdb",
    "polars",
    "scikit-learn",
    "lmdb",
    "numba",
]
app = modal.App("snapshot-libraries")
image = modal.Image.debian_slim().uv_pip_install(*PACKAGES).add_local_python_source("snapshot_program")
PEER = os.environ.get("PEER", "")


class Requests(Program):
    what, answer = "requests.Session, another machine", "hello"

    def __init__(self):
        import requests

        self.session = requests.Session()
        self.check()

    def check(self):
        return self.session.get(os.environ["URL"], timeout=20).text.split()[0]


class Httpx(Program):
    what, answer = "httpx.Client, another machine", "hello"

    def __init__(self):
        import httpx

        self.client = httpx.Client(timeout=20)
        self.check()

    def check(self):
        return self.client.get(os.environ["URL"]).text.split()[0]


class Numpy(Program):
    what, answer = "numpy, BLAS with threads", "True"

    def __init__(self):
        import numpy

        self.matrix = numpy.eye(512)
        self.check()

    def check(self):
        return bool((self.matrix @ self.matrix == self.matrix).all())


class Zmq(Program):
    what, answer = "pyzmq over tcp and ipc", "helloworld"

    def __init__(self):
        import zmq

        context = zmq.Context()
        self.pairs = []
        for address in ("tcp://127.0.0.1:5599", "ipc:///root/zmq.sock"):
            server, client = context.socket(zmq.PAIR), context.socket(zmq.PAIR)
            server.bind(address)
            client.connect(address)
            self.pairs.append((server, client))

    def check(self):
        said = ""
        for (server, client), word in zip(self.pairs, ("hello", "world"), strict=True):
            client.send_string(word)
            assert server.poll(20_000)
            said += server.recv_string()
        return said


class Uvloop(Program):
    what, answer = "uvloop in a thread", "9"

    def __init__(self):
        import threading

        import uvloop

        self.loop = uvloop.new_event_loop()
        threading.Thread(target=self.loop.run_forever, daemon=True).start()
        self.check()

    def check(self):
        import asyncio

        return asyncio.run_coroutine_threadsafe(asyncio.sleep(0.01, 9), self.loop).result(20)


class Duckdb(Program):
    what, answer = "duckdb, in memory and in a file, threads", "20"

    def __init__(self):
        import duckdb

        self.databases = [duckdb.connect(place, config={"threads": 2}) for place in (":memory:", "/root/case.duckdb")]
        for database in self.databases:
            database.execute("CREATE TABLE t AS SELECT * FROM range(10)")

    def check(self):
        return sum(database.execute("SELECT count(*) FROM t").fetchone()[0] for database in self.databases)


class Polars(Program):
    what, answer = "polars (rayon)", "49995000"

    def __init__(self):
        import polars

        self.frame = polars.DataFrame({"x": range(10_000)})
        self.check()

    def check(self):
        return self.frame.lazy().select("x").sum().collect().item()


class Loky(Program):
    what, answer = "joblib, pool of loky", "[0, 1, 4]"

    def __init__(self):
        import joblib

        self.pool = joblib.Parallel(n_jobs=2, backend="loky")
        self.check()

    def check(self):
        import joblib

        return self.pool(joblib.delayed(pow)(x, 2) for x in range(3))


class ScikitLearn(Program):
    what, answer = "scikit-learn, a fitted model (OpenMP)", "1"

    def __init__(self):
        from sklearn.ensemble import HistGradientBoostingClassifier

        self.model = HistGradientBoostingClassifier(max_iter=5, min_samples_leaf=1)
        self.model.fit([[0], [0], [1], [1]] * 10, [0, 0, 1, 1] * 10)

    def check(self):
        return int(self.model.predict([[1]])[0])


class Lmdb(Program):
    what, answer = "lmdb, an open environment", "world"

    def __init__(self):
        import lmdb

        self.database = lmdb.open("/root/lmdb")
        with self.database.begin(write=True) as transaction:
            transaction.put(b"hello", b"world")

    def check(self):
        with self.database.begin() as transaction:
            return transaction.get(b"hello").decode()


class Numba(Program):
    what, answer = "numba, parallel and compiled anew", "285"

    def __init__(self):
        import numba
        import numpy

        @numba.njit(parallel=True)
        def squares(xs):
            total = 0
            for n in numba.prange(len(xs)):
                total += xs[n] * xs[n]
            return total

        self.squares, self.numbers = squares, numpy.arange(10)
        self.check()

    def check(self):
        assert self.squares(self.numbers.astype(float)) == 285.0  # of another type, after the restore as well
        return int(self.squares(self.numbers))


CASES = cases(globals())


@app.cls(image=image, secrets=[modal.Secret.from_dict({"PEER": PEER, "URL": f"http://{PEER}:8080/"})], **OPTIONS)
class Case(Asked):
    cases = CASES
    name: str = modal.parameter()
