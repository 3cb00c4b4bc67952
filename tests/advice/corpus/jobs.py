"""Apps that compute, gather and schedule: batch jobs, crawlers, cron jobs, queues."""

APPS = {
    "hello": ("", '''
import sys
import modal

app = modal.App("example-hello-world")

@app.function()
def f(i):
    if i % 2 == 0:
        print("hello", i)
    else:
        print("world", i, file=sys.stderr)
    return i * i

@app.local_entrypoint()
def main():
    print(f.local(1000), f.remote(1000))
    total = 0
    for ret in f.map(range(200)):
        total += ret
    print(total)
'''),
    "generators and retries": ("", '''
import modal

app = modal.App()

@app.function(retries=modal.Retries(max_retries=3, backoff_coefficient=2.0, initial_delay=1.0), timeout=60)
def flaky(i: int):
    import random
    if random.random() < 0.2:
        raise RuntimeError
    yield from range(i)

@app.function(cpu=(1.0, 4.0), memory=(1024, 4096), ephemeral_disk=600_000)
def square(x: int) -> int:
    return x**2

@app.local_entrypoint()
def main(n: int = 10):
    for item in flaky.remote_gen(n):
        print(item)
    call = square.spawn(n)
    print(call.get(timeout=10), modal.FunctionCall.gather(square.spawn(1), square.spawn(2)))
'''),
    "cron to slack": ("", '''
import os
from datetime import datetime, timedelta
import modal

app = modal.App("example-hn-bot")
slack_sdk_image = modal.Image.debian_slim().uv_pip_install("slack-sdk==3.27.1", "requests==2.32.3")
with slack_sdk_image.imports():
    import slack_sdk

@app.function(image=modal.Image.debian_slim().pip_install("requests==2.32.3"))
def search_hackernews(query: str = "modal", window_size_hours: int = 24):
    import requests
    threshold = datetime.utcnow() - timedelta(hours=window_size_hours)
    response = requests.get("https://hn.algolia.com/api/v1/search", params={"query": query, "since": threshold.timestamp()}, timeout=10)
    return [hit["title"] for hit in response.json()["hits"]]

@app.function(image=slack_sdk_image, secrets=[modal.Secret.from_name("hn-bot-slack", required_keys=["SLACK_BOT_TOKEN"])])
async def post_to_slack(message: str):
    client = slack_sdk.WebClient(token=os.environ["SLACK_BOT_TOKEN"])
    client.chat_postMessage(channel="hn-alerts", text=message)

@app.function(schedule=modal.Cron("0 9 * * 1-5", timezone="America/New_York"))
def run_daily():
    for title in search_hackernews.remote():
        post_to_slack.remote(title)

@app.function(schedule=modal.Period(hours=4, minutes=30))
def heartbeat():
    print("alive")
'''),
    "bad cron": ("STK017", '''
import modal

app = modal.App("reports")

@app.function(schedule=modal.Cron("0 25 * * *"))
def nightly():
    print("report")
'''),
    "webscraper": ("STK010", '''
import asyncio
import modal

app = modal.App("example-webscraper")
playwright_image = modal.Image.debian_slim(python_version="3.10").run_commands(
    "apt-get update",
    "apt-get install -y software-properties-common",
    "pip install playwright==1.42.0",
    "playwright install-deps chromium",
    "playwright install chromium",
).pip_install("lxml")

@app.function(image=playwright_image, max_containers=50)
async def get_links(url: str) -> set[str]:
    from playwright.async_api import async_playwright
    async with async_playwright() as p:
        browser = await p.chromium.launch()
        page = await browser.new_page()
        await page.goto(url)
        links = await page.eval_on_selector_all("a[href]", "elements => elements.map(e => e.href)")
        await browser.close()
        await asyncio.sleep(0.1)
    return set(links)

@app.local_entrypoint()
def main():
    for links in get_links.map(["https://modal.com", "http://localhost:8000"], return_exceptions=True):
        print(links)
'''),
    "crawler with queue and dict": ("", '''
from datetime import datetime
import modal

app = modal.App("example-dicts-and-queues", image=modal.Image.debian_slim(python_version="3.11").uv_pip_install("httpx==0.27.2"))

def extract_links(page: str) -> list[str]:
    import re
    return re.findall(r'href="(https?://[^"]+)"', page)

@app.function(max_containers=20)
async def consume_urls(q: modal.Queue, d: modal.Dict, max_urls: int):
    import httpx
    async with httpx.AsyncClient() as client:
        while True:
            batch = await q.get_many.aio(5, timeout=5)
            if not batch or await d.len.aio() > max_urls:
                return
            for url in batch:
                response = await client.get(url, timeout=5)
                await d.put.aio(url, datetime.now())
                await q.put_many.aio(extract_links(response.text))

@app.local_entrypoint()
def main(max_urls: int = 10):
    with modal.Queue.ephemeral() as q, modal.Dict.ephemeral() as d:
        q.put("http://www.wikipedia.org/")
        list(consume_urls.map([q] * 5, [d] * 5, [max_urls] * 5))
        print(d.len())
'''),
    "s3 and duckdb": ("STK007", '''
from pathlib import Path, PosixPath
import modal

image = modal.Image.debian_slim(python_version="3.12").pip_install("requests==2.31.0", "duckdb==0.10.0", "matplotlib==3.8.3")
app = modal.App(image=image)
MOUNT_PATH: PosixPath = PosixPath("/mnt/tlc")
YELLOW = MOUNT_PATH / "yellow"
mount = {str(MOUNT_PATH): modal.CloudBucketMount("modal-s3mount-test-bucket", secret=modal.Secret.from_name("s3-bucket-secret"))}
with image.imports():
    import duckdb
    import requests

@app.function(volumes=mount, timeout=3600)
def download_data(year: int, month: int) -> str:
    path = YELLOW / f"{year}-{month:02d}.parquet"
    with requests.get(f"https://d37ci6vzurychx.cloudfront.net/{year}-{month:02d}.parquet", stream=True, timeout=60) as r:
        Path(path).write_bytes(r.content)
    return path.as_posix()

@app.function(volumes=mount)
def aggregate_data(path: str) -> list[tuple]:
    con = duckdb.connect(database=":memory:")
    return con.execute("select count(*) from read_parquet(?)", [path]).fetchall()

@app.local_entrypoint()
def main():
    files = list(download_data.starmap([(2023, month) for month in range(1, 13)]))
    print(list(aggregate_data.map(files)))
'''),
    "sqlite on a volume": ("STK019", '''
import sqlite3
import modal

app = modal.App("counter")
vol = modal.Volume.from_name("counter-db", create_if_missing=True)
DB_PATH = "/data/counter.db"

@app.function(volumes={"/data": vol})
def increment(name: str) -> int:
    connection = sqlite3.connect(DB_PATH)
    connection.execute("create table if not exists counts(name text primary key, n int)")
    connection.execute("insert into counts values (?, 1) on conflict(name) do update set n = n + 1", (name,))
    connection.commit()
    vol.commit()
    return connection.execute("select n from counts where name = ?", (name,)).fetchone()[0]
'''),
    "sqlite served": ("", '''
import modal

app = modal.App("example-covid-datasette")
datasette_image = modal.Image.debian_slim(python_version="3.12").uv_pip_install("datasette~=0.63.2", "sqlite-utils==3.38")
volume = modal.Volume.from_name("datasette", create_if_missing=True)
DB_FILENAME = "covid-19.db"
VOLUME_DIR = "/cache-vol"

@app.function(image=datasette_image, volumes={VOLUME_DIR: volume}, timeout=900, max_containers=1)
def prep_db():
    import pathlib
    import shutil
    import sqlite_utils
    db = sqlite_utils.Database("/tmp/" + DB_FILENAME)
    db["reports"].insert_all([{"a": 1}], batch_size=1000, truncate=True)
    db.close()
    shutil.copyfile("/tmp/" + DB_FILENAME, pathlib.Path(VOLUME_DIR, DB_FILENAME))
    volume.commit()

@app.function(schedule=modal.Period(hours=24), timeout=1000)
def refresh_db():
    prep_db.remote()

@app.function(image=datasette_image, volumes={VOLUME_DIR: volume})
@modal.concurrent(max_inputs=16)
@modal.asgi_app()
def ui():
    from datasette.app import Datasette
    ds = Datasette(files=[VOLUME_DIR + "/" + DB_FILENAME], settings={"sql_time_limit_ms": 60000})
    return ds.app()
'''),
    "lock file on a volume": ("STK019", '''
import fcntl
import json
import os
import modal

app = modal.App("results")
results = modal.Volume.from_name("results", create_if_missing=True)
ROOT = "/results"

def append(row: dict) -> None:
    with open(os.path.join(ROOT, "log.jsonl"), "a") as file:
        fcntl.flock(file.fileno(), fcntl.LOCK_EX)
        file.write(json.dumps(row) + "\\n")

@app.function(volumes={ROOT: results}, max_containers=20)
def work(seed: int) -> None:
    append({"seed": seed, "value": seed**2})
    results.commit()
'''),
    "grid search": ("", '''
import modal

app = modal.App("example-basic-grid-search", image=modal.Image.debian_slim().uv_pip_install("scikit-learn~=1.5.0"))

@app.function()
def fit_knn(k: int) -> tuple[float, int]:
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split
    from sklearn.neighbors import KNeighborsClassifier
    X, y = load_digits(return_X_y=True)
    X_train, X_test, y_train, y_test = train_test_split(X, y, test_size=0.2)
    clf = KNeighborsClassifier(k)
    clf.fit(X_train, y_train)
    return float(clf.score(X_test, y_test)), k

@app.local_entrypoint()
def main():
    print(max(fit_knn.map(range(1, 100))))
'''),
    "many GPUs for a map": ("STK007 STK005", '''
import modal

vol = modal.Volume.from_name("weights")
image = modal.Image.debian_slim(python_version="3.11").uv_pip_install("torch==2.8.0", "transformers==4.57.0")
app = modal.App("bulk", image=image)

@app.cls(gpu="A10G", volumes={"/root/.cache/huggingface": vol}, max_containers=50)
class Bulk:
    @modal.enter()
    def load(self):
        from transformers import AutoModel, AutoTokenizer
        self.tokenizer = AutoTokenizer.from_pretrained("intfloat/e5-large-v2")
        self.model = AutoModel.from_pretrained("intfloat/e5-large-v2").to("cuda")

    @modal.method()
    def embed(self, texts: list[str]):
        return self.model(**self.tokenizer(texts, return_tensors="pt")).pooler_output.tolist()

@app.local_entrypoint()
def main():
    chunks = [["a"] * 512 for _ in range(10_000)]
    for vectors in Bulk().embed.map(chunks, order_outputs=False):
        print(len(vectors))
'''),
    "wrong GPU": ("STK016", '''
import modal

app = modal.App("gpu-info")

@app.function(gpu="A100-80G")
def info():
    import subprocess
    subprocess.run(["nvidia-smi"], check=True)

@app.function(gpu="RTX4090x")
def other():
    return 1

@app.function(gpu=["H100", "A100-40GB", "any"])
def either():
    return 2
'''),
    "database credentials": ("STK012 STK010", '''
import modal

app = modal.App("etl", image=modal.Image.debian_slim().pip_install("psycopg2-binary", "pandas==2.2.3"))
DATABASE_URL = "postgresql://etl:Zx81kQpw@db.prod.internal:5432/warehouse"

@app.function(schedule=modal.Cron("15 3 * * *"), timeout=1800)
def sync():
    import psycopg2
    with psycopg2.connect(DATABASE_URL) as connection:
        connection.cursor().execute("refresh materialized view daily")
'''),
    "database by secret": ("", '''
import os
import modal

image = modal.Image.debian_slim(python_version="3.12").uv_pip_install("psycopg[binary]==3.2.3", "sqlalchemy==2.0.36")
app = modal.App("etl-right", image=image, secrets=[modal.Secret.from_name("postgres-secret")])

@app.cls(enable_memory_snapshot=True)
class Warehouse:
    @modal.enter(snap=True)
    def imports(self):
        import sqlalchemy
        self.sqlalchemy = sqlalchemy

    @modal.enter(snap=False)
    def connect(self):
        self.engine = self.sqlalchemy.create_engine(os.environ["DATABASE_URL"], pool_pre_ping=True)

    @modal.exit()
    def close(self):
        self.engine.dispose()

    @modal.method()
    def count(self, table: str) -> int:
        with self.engine.connect() as connection:
            return connection.execute(self.sqlalchemy.text(f"select count(*) from {table}")).scalar_one()
'''),
    "session before the snapshot": ("STK018", '''
import modal
import requests

app = modal.App("prices", image=modal.Image.debian_slim(python_version="3.12").pip_install("requests==2.32.3"))

@app.cls(enable_memory_snapshot=True)
class Prices:
    @modal.enter(snap=True)
    def setup(self):
        self.session = requests.Session()
        self.table = self.session.get("https://api.prices.org/table", timeout=30).json()

    @modal.method()
    def price(self, item: str) -> float:
        return self.table[item]
'''),
    "pool and ray before the snapshot": ("STK018", '''
import multiprocessing
import modal

app = modal.App("crunch", image=modal.Image.debian_slim().pip_install("ray==2.40.0", "statsd==4.0.1"))

@app.cls(cpu=8, enable_memory_snapshot=True)
class Crunch:
    @modal.enter(snap=True)
    def setup(self):
        import ray
        import statsd
        ray.init(num_cpus=8)
        self.pool = multiprocessing.Pool(8)
        self.stats = statsd.StatsClient("stats.internal", 8125)

    @modal.method()
    def crunch(self, numbers: list[int]) -> list[int]:
        self.stats.incr("crunch")
        return self.pool.map(abs, numbers)
'''),
    "image in terms of itself": ("STK010", '''
import modal

image = modal.Image.debian_slim(python_version="3.11")
image = image.apt_install("git", "ffmpeg")
image = image.pip_install("numpy", "pandas")
for package in ("polars", "pyarrow"):
    image = image.pip_install(package)
image = image.env({"PYTHONUNBUFFERED": "1"})
app = modal.App("steps", image=image)

@app.function(image=image.pip_install("duckdb==1.1.3"), cpu=2)
def query(sql: str):
    import duckdb
    return duckdb.sql(sql).fetchall()

@app.function()
def versions():
    import numpy
    return numpy.__version__
'''),
    "requirements and project": ("", '''
from pathlib import Path
import modal

here = Path(__file__).parent
image = (
    modal.Image.debian_slim(python_version="3.12")
    .pip_install_from_requirements(str(here / "requirements.txt"))
    .uv_sync(uv_project_dir=str(here))
    .add_local_python_source("package", copy=True)
    .workdir("/root")
    .run_commands("python -m compileall package")
)
app = modal.App.lookup("project", create_if_missing=True) if False else modal.App("project")

@app.function(image=image, region="eu", cloud="aws")
def run(name: str) -> str:
    import importlib
    return importlib.import_module(f"package.{name}").__doc__ or ""
'''),
}  # fmt: skip
