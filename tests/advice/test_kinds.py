"""The members of each kind of fault: other libraries, other ways to write it, and what only looks like it."""

from __future__ import annotations

import pytest

from stoker.advice.check import check_source
from tests.advice.cases import source

_HEAD = """
import os
import subprocess
from pathlib import Path
import modal
import modal.experimental
import requests

app = modal.App("x")
vol = modal.Volume.from_name("v")
"""
_SNAPSHOT = "@app.cls(enable_memory_snapshot=True)\nclass A:\n    @modal.enter(snap=True)\n    def up(self):\n        "
_OLLAMA = (
    '@app.cls(image=modal.Image.debian_slim().run_commands("curl -fsSL https://ollama.com/install.sh | sh"))\n'
    "class A:\n    @modal.enter()\n    def up(self):\n        "
)
_VOLUME = '@app.function(volumes={"/data": vol})\ndef f(x, path="/data/y.db"):\n    '
_FUNCTION = "@app.function({})\ndef f():\n    pass"

_SURVIVES_NOT = [
    "import multiprocessing as mp; self.p = mp.get_context('fork').Pool(4)",
    "import multiprocessing as mp; ctx = mp.get_context(); self.p = ctx.Pool(4)",
    "import torch.multiprocessing as mp; self.p = mp.Pool(4)",
    "import multiprocessing; self.p = multiprocessing.Process(target=print); self.p.start()",
    "import concurrent.futures as cf; self.p = cf.ProcessPoolExecutor(2)",
    "import statsd; self.s = statsd.StatsClient('localhost', 8125)",
    "from datadog.dogstatsd import DogStatsd; self.s = DogStatsd()",
    "import socket; self.s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); self.s.connect(('10.0.0.1', 8125))",
    "import socket; self.s = socket.socket(); self.s.connect(('db.host', 5432))",
    "import httpx; self.c = httpx.Client(); self.c.get('https://x.org')",
    "import boto3; boto3.client('s3').download_file('a', 'b', 'c')",
    "import redis; self.r = redis.Redis(host='cache'); self.r.ping()",
    "from sqlalchemy import create_engine; self.e = create_engine(os.environ['D']); self.e.connect()",
    "import psycopg; self.c = psycopg.connect(os.environ['D'])",
    "import openai; self.c = openai.OpenAI(); self.c.models.list()",
    "import ray; ray.init(address='auto')",
    "self.helper()\n    def helper(self):\n        self.s = requests.Session(); self.s.get('https://x')",
]
_SURVIVES = [
    "import multiprocessing as mp; ctx = mp.get_context('spawn'); self.p = ctx.Pool(4)",
    "from multiprocessing.pool import ThreadPool; self.p = ThreadPool(4)",
    "import multiprocessing as mp, concurrent.futures as cf; self.p = cf.ProcessPoolExecutor(mp_context=mp.get_context('spawn'))",
    "import httpx; self.c = httpx.Client(base_url='http://localhost:8000'); self.c.get('/health')",
    "import socket; self.s = socket.socket(); self.s.connect(('127.0.0.1', 8000))",
    "requests.get('https://x.org')",
    "import ray; ray.init(); ray.shutdown()",
    "import psycopg; c = psycopg.connect(os.environ['D']); c.close()",
    "from torch.utils.data import DataLoader; self.l = DataLoader(d, num_workers=2)",
]
_PULLS = [
    "os.system('ollama pull llama3')",
    "subprocess.run('ollama serve & sleep 3 && ollama pull llama3', shell=True)",
    "subprocess.check_call(['/usr/local/bin/ollama', 'pull', MODEL])",
    "import ollama; ollama.pull('llama3')",
    "import ollama; client = ollama.Client(); client.pull('llama3')",
    "subprocess.Popen(['ollama', 'run', 'llama3'])",
]
_PULLS_NOT = ["subprocess.run(['ollama', 'serve'])", "subprocess.run(['ollama', 'list'])", "pool.pull('x')"]
_LOCKS = [
    "from sqlite3 import connect; connect(database='/data/x.db')",
    "import sqlite3; sqlite3.connect(os.path.join('/data', x))",
    "import sqlite3; sqlite3.connect(path)",
    "import sqlite3\n    def go(p):\n        return sqlite3.connect(p)\n    go('/data/x.db')",
    "import fcntl; fd = os.open('/data/l', os.O_RDWR); fcntl.flock(fd, fcntl.LOCK_EX)",
    "import fcntl\n    with Path('/data/l').open('w') as a:\n        fcntl.lockf(a, fcntl.LOCK_EX)",
    "import filelock; lock = filelock.FileLock(lock_file='/data/l', timeout=3)",
    "import peewee; db = peewee.SqliteDatabase('/data/x.db')",
    "from sqlmodel import create_engine; create_engine(f'sqlite:////data/{x}.db')",
    "import diskcache; diskcache.Cache('/data/c')",
    "import duckdb; duckdb.connect('/data/x.duckdb')",
]
_LOCKS_NOT = [
    "import fcntl\n    with open('/data/l', 'w') as a, open('/tmp/l', 'w') as b:\n        fcntl.flock(b, fcntl.LOCK_EX)",
    "import fcntl\n    with open('/data/l') as a:\n        fcntl.flock(a, fcntl.LOCK_UN)",
    "from sqlalchemy import create_engine; create_engine('postgresql://h/data')",
    "import sqlite3; sqlite3.connect('/datax/x.db')",
    "import duckdb; duckdb.connect('/data/x.duckdb', read_only=True)",
]
_NO_GPUS = [
    '"T4:0"', '"A100-40"', '"V100"', '"3090"', '"nvidia-l4"', '"L4:two"', '"gpu"', '"H100 "', '"cpu"', "True", '["H100", "H10"]',
]  # fmt: skip
_GPUS = ['"a100"', '"H100!"', '"B200+:2"', '"H100:8"', '"any"', '"A10G:2"', '"RTX-PRO-6000"', "None", '["L4", "T4"]']
_NO_SCHEDULES = [
    'Cron("* * * *")', 'Cron("60 * * * *")', 'Cron("")', 'Cron("0 0 31 4 *")', 'Cron("0 0 * * 8")', 'Cron("0 6 * * *", "UTC+1")',
    "Period(seconds=-1)", "Period(days=0)",
]  # fmt: skip
_SCHEDULES = [
    'Cron("0 9 * * MON-FRI")',
    'Cron("*/15 * * * *")',
    'Cron("0 0 29 2 *")',
    "Period(days=1)",
    "Period(hours=n)",
]
_GONE = [
    "modal.Image.conda()", 'modal.Mount.from_local_dir("x")', "from modal import gpu", "import modal.gpu", 'modal.Volume.persisted("x")',
    'modal.Function.lookup("a", "b")', "modal.Dict.new()", 'modal.Image.debian_slim().pip_instal("x")', 'modal.Volum.from_name("x")',
    "modal.runner.deploy_stub(app)", 'app.spawn_sandbox("x")', "modal.is_inside()", "modal.Period(day=1)", 'modal.App("x", mounts=[])',
    "@app.webhook()\ndef f():\n    pass", "@app.function()\ndef f():\n    pass\nf.call(1)", _FUNCTION.format("shared_volumes={}"),
    "@app.cls()\nclass A:\n    @modal.build()\n    def b(self):\n        pass",
]  # fmt: skip
_THERE = [
    "@app.function()\ndef f():\n    pass\nf.remote(1); f.spawn(2); f.map([1]); f.local(); f.get_web_url(); f.update_autoscaler()",
    'modal.Function.from_name("a", "b").remote(1)', "modal.exception.InputCancellation", "app.image = 1", "app.own = 1\nprint(app.own)",
    'app.deploy(name="x")', "modal.enable_output()", "other.Stub()", "modal.Sandbox.create()",
]  # fmt: skip
_NOT_OFFERED = [
    'modal.Proxy.from_name("x")', "modal.interact()", "from modal import Sandbox\nSandbox.create()", 'modal.CloudBucketMount("b", oidc_auth_role_arn="x")',
    "from modal import forward\nwith forward(80):\n    pass", "import modal.experimental as ex\nex.get_cluster_info()", "modal.billing.x()",
]  # fmt: skip
_OFFERED = ["from modal import Sandbox", _FUNCTION.format("i6pn=False"), "def forward(x):\n    pass\nforward(1)"]


def _all(rule: str, head: str, speaks: list[str], silent: list[str]) -> list[tuple[str, str, bool]]:
    return [(rule, head + text, True) for text in speaks] + [(rule, head + text, False) for text in silent]


@pytest.mark.parametrize(
    ("rule", "code", "speaks"),
    [
        *_all("STK018", _SNAPSHOT, _SURVIVES_NOT, _SURVIVES),
        *_all("STK008", _OLLAMA, _PULLS, _PULLS_NOT),
        *_all("STK019", _VOLUME, _LOCKS, _LOCKS_NOT),
        *_all(
            "STK016",
            "",
            [_FUNCTION.format(f"gpu={gpu}") for gpu in _NO_GPUS],
            [_FUNCTION.format(f"gpu={gpu}") for gpu in _GPUS],
        ),
        *_all("STK017", "x = modal.", _NO_SCHEDULES, _SCHEDULES),
        *_all("STK014", "", _GONE, _THERE),
        *_all("STK015", "", _NOT_OFFERED, _OFFERED),
    ],
)
def test_kinds(rule: str, code: str, speaks: bool) -> None:
    found = [finding for finding in check_source(source(_HEAD + code)) if finding.rule == rule]
    assert bool(found) == speaks, [finding.message for finding in found]


def test_a_snapshot_that_has_the_model_is_not_every_new_container() -> None:
    load = "from transformers import AutoModel; self.model = AutoModel.from_pretrained('org/name')"
    (saved,) = [f for f in check_source(source(_HEAD + _SNAPSHOT + load)) if f.rule == "STK001"]
    assert "for every memory snapshot" in saved.message and saved.severity.value == "note"
    (pull,) = [f for f in check_source(source(_HEAD + _SNAPSHOT + "os.system('ollama pull x')")) if f.rule == "STK008"]
    assert "whenever a memory snapshot is made" in pull.message
