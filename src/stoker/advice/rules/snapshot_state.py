"""STK018: what is made before a memory snapshot and does not survive it."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from stoker.advice.app import App
from stoker.advice.finding import Finding, Severity
from stoker.advice.loads import in_order, texts
from stoker.advice.rules.base import Rule
from stoker.advice.scope import parent, statements
from stoker.advice.unit import Unit

_CONNECTS = re.compile(
    r"^(psycopg2?\.connect|psycopg\.(Async)?Connection\.connect|psycopg_pool\.\w*ConnectionPool|psycopg2\.pool\.\w+"
    r"|asyncpg\.(connect|create_pool)|aiomysql\.(connect|create_pool)|pymysql\.connect|MySQLdb\.connect|mysql\.connector\.connect|pyodbc\.connect"
    r"|oracledb\.connect|snowflake\.connector\.connect|clickhouse_connect\.get_client|pymongo\.(Async)?MongoClient|motor\.\w+\.AsyncIOMotorClient"
    r"|pika\.BlockingConnection|kafka\.Kafka(Producer|Consumer)|nats\.connect|websockets\.(sync\.client\.)?connect|websocket\.create_connection"
    r"|socket\.create_connection|wandb\.init|smtplib\.SMTP(_SSL)?|ftplib\.FTP(_TLS)?|weaviate\.connect_to_\w+|asyncio\.open_connection)$"
)
"""What opens a connection by being called."""
_POOLS = re.compile(
    r"^(requests\.([Ss]ession)|requests\.sessions\.Session|httpx\.(Async)?Client|aiohttp\.ClientSession|urllib3\.PoolManager|boto3\.(client|resource)"
    r"|redis\.(asyncio\.)?(Redis|StrictRedis|from_url|ConnectionPool)|redis\.(asyncio\.)?Redis\.from_url|sqlalchemy\.(ext\.asyncio\.)?create_(async_)?engine"
    r"|elasticsearch\.(Async)?Elasticsearch|qdrant_client\.(Async)?QdrantClient"
    r"|(openai|anthropic|mistralai|cohere|groq|together)\.(Async)?(OpenAI|AzureOpenAI|Anthropic|Mistral|Client|ClientV2|Groq|Together)"
    r"|grpc\.(aio\.)?(insecure|secure)_channel|pinecone\.Pinecone|supabase\.create_client|influxdb_client\.InfluxDBClient)$"
)
"""What opens connections when it is used, and keeps them."""
_FORKS = re.compile(
    r"^((torch\.)?multiprocessing\.(pool\.)?(Pool|Process|Manager)|concurrent\.futures\.(process\.)?ProcessPoolExecutor|os\.fork"
    r"|torch\.utils\.data\.DataLoader)$"
)
_UDP = re.compile(
    r"^(statsd\.(StatsClient|client\.StatsClient)|datadog\.(initialize|dogstatsd\.(base\.)?DogStatsd|DogStatsd))$"
)
_LOOPBACK = re.compile(r"localhost|127\.0\.0\.1|\b0\.0\.0\.0|::1|^/|^unix:")
_ENDS = {"close", "aclose", "dispose", "disconnect", "shutdown", "terminate", "quit", "join", "__exit__"}
_LATER = "Do it in a method with `@modal.enter()` (snap=False), which runs in every container after the restore."


@dataclass(frozen=True)
class _Making:
    """A call before the snapshot, with what its result is kept as ("self.session"), "" for nothing."""

    call: ast.Call
    name: str
    kept: str


def check(app: App) -> Iterator[Finding]:
    at_import = list(_calls_at_import(app))
    told: set[int] = set()
    for unit in app.units:
        if unit.value("enable_memory_snapshot") is not True:
            continue
        before = [
            call for m in unit.enters if m.runs_before_snapshot(app.scope) for call in in_order(app.calls(unit, m))
        ]
        for call in (*at_import, *before):
            finding = _judge(app, unit, call, (*at_import, *before)) if id(call) not in told else None
            if finding is not None:
                told.add(id(call))
                yield finding


def _calls_at_import(app: App) -> Iterator[ast.Call]:
    for statement in statements(app.source.tree.body):
        if isinstance(statement, (ast.Assign, ast.AnnAssign, ast.Expr)) and statement.value is not None:
            yield from (node for node in ast.walk(statement.value) if isinstance(node, ast.Call))


def _judge(app: App, unit: Unit, call: ast.Call, before: Iterable[ast.Call]) -> Finding | None:
    name = _name(app, call)
    making = _Making(call, name, _kept_as(app, call))
    udp = bool(_UDP.match(name)) or _connected(app, making, before, "SOCK_DGRAM") is not None
    local = any(_LOOPBACK.search(text) for text in texts(app.scope, call))
    if _is_closed(app, making, before) or (local and not udp):
        return None
    tcp = _connected(app, making, before, "") if not udp else None
    where = f"before the memory snapshot of `{unit.name}`"
    severity = Severity.WARNING
    if udp:
        said = f"`{name}` connects a UDP socket {where}, with which the snapshot cannot be restored."
    elif _CONNECTS.match(name) or (tcp is not None and not any(map(_LOOPBACK.search, _words(app, tcp)))):
        said = f"`{name}` opens a connection to another host {where}. It keeps the snapshot from being made, or is cut in what is restored from it."
    elif _POOLS.match(name):
        used = _uses(app, making, before)
        if used is None:
            severity = Severity.NOTE
            said = f"`{name}` is made {where}. A connection that it opened there would not survive."
        elif any(_LOOPBACK.search(text) for text in texts(app.scope, used)):
            return None
        else:
            said = f"`{name}` opens a connection {where} and keeps it. It keeps the snapshot from being made, or is cut in what is restored from it."
    elif _FORKS.match(name) and _forks(app, call, name):
        said = f"`{name}` forks processes {where}. They hold the connections of the process they come from, which can keep the snapshot from being made."
    elif name == "ray.init":
        said = f"`ray.init` starts Ray {where}. Its processes talk over the container's own address, which is another one after the restore."
    else:
        return None
    advice = (
        _LATER
        if not _FORKS.match(name)
        else f'{_LATER} Processes made with multiprocessing.get_context("spawn") survive.'
    )
    return Finding(RULE.id, severity, app.source.place(call), said, help=advice)


def _name(app: App, call: ast.Call) -> str:
    """The dotted name of what is called; that of `multiprocessing` for what one of its contexts forks."""
    name = app.scope.dotted(call.func)
    if name or not isinstance(call.func, ast.Attribute):
        return name
    owner = call.func.value
    context = app.scope.assigned(owner) if isinstance(owner, ast.Name) else owner
    if not isinstance(context, ast.Call) or not app.scope.dotted(context.func).endswith("multiprocessing.get_context"):
        return ""
    return "" if {"spawn", "forkserver"} & set(texts(app.scope, context)) else f"multiprocessing.{call.func.attr}"


def _kept_as(app: App, call: ast.Call) -> str:
    """The name or attribute that the result is assigned to, also where it is awaited or entered; "" for `with`, which closes it."""
    above = parent(app.source.tree, call)
    if isinstance(above, ast.Await):
        above = parent(app.source.tree, above)
    if isinstance(above, ast.withitem):
        return "with"
    if isinstance(above, ast.Assign):
        return ast.unparse(above.targets[0])
    return ast.unparse(above.target) if isinstance(above, ast.AnnAssign) else ""


def _is_closed(app: App, making: _Making, before: Iterable[ast.Call]) -> bool:
    """Whether it is over when the snapshot is made."""
    ended = {app.scope.dotted(each.func) for each in before}
    if making.name == "ray.init" and "ray.shutdown" in ended:
        return True
    return making.kept == "with" or any(
        isinstance(each.func, ast.Attribute) and each.func.attr in _ENDS and ast.unparse(each.func.value) == making.kept
        for each in before
    )


def _uses(app: App, making: _Making, before: Iterable[ast.Call]) -> ast.Call | None:
    """The first call of a method of what was made, before the snapshot."""
    for each in before:
        if isinstance(each.func, ast.Attribute) and (
            each.func.value is making.call or (making.kept and ast.unparse(each.func).startswith(f"{making.kept}."))
        ):
            return each
    return None


def _forks(app: App, call: ast.Call, name: str) -> bool:
    named = {keyword.arg: keyword.value for keyword in call.keywords}
    if name.endswith("DataLoader"):
        workers = app.scope.value(named.get("num_workers"))
        return (
            app.scope.value(named.get("persistent_workers")) is True
            and workers != 0
            and "multiprocessing_context" not in named
        )
    if "mp_context" in named:
        return bool(re.search(r"['\"]fork['\"]|get_context\(\)", ast.unparse(named["mp_context"])))
    return not re.search(r"set_start_method\(\s*['\"](spawn|forkserver)", app.source.text)


def _connected(app: App, making: _Making, before: Iterable[ast.Call], kind: str) -> ast.Call | None:
    """The `connect` of a `socket.socket()` whose arguments name the kind."""
    if making.name != "socket.socket" or kind not in ast.unparse(making.call):
        return None
    connects = (each for each in before if isinstance(each.func, ast.Attribute) and each.func.attr == "connect")
    return next((each for each in connects if ast.unparse(each.func) == f"{making.kept}.connect"), None)


def _words(app: App, call: ast.Call) -> Iterator[str]:
    """The strings in a call's arguments, in tuples as well."""
    return (value for node in ast.walk(call) if isinstance(value := app.scope.value(node), str))


RULE = Rule("STK018", "snapshot-state", "It does not survive a memory snapshot", check)
