"""STK019: locks of files, and databases that rely on them, on a Volume that several containers write to."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass

from stoker.advice.app import App
from stoker.advice.finding import Finding, Severity
from stoker.advice.image import method
from stoker.advice.rules.base import Rule
from stoker.advice.rules.volumes import is_under
from stoker.advice.scope import UNKNOWN, parent
from stoker.advice.unit import Def, Unit


@dataclass(frozen=True)
class _Locker:
    """`what` locks; `argument` names its path, which else comes first. reads: arguments that say that nothing is written."""

    what: str
    argument: str = ""
    reads: tuple[str, ...] = ()


_SQLITE = _Locker("a SQLite database", "database")
_LOCK_FILE = _Locker("a lock file", "lock_file")
_FLOCK = _Locker("a lock of a file")
_LOCKERS = {
    "sqlite3.connect": _SQLITE,
    "aiosqlite.connect": _SQLITE,
    "apsw.Connection": _SQLITE,
    "sqlite_utils.Database": _Locker("a SQLite database", "filename_or_conn"),
    "peewee.SqliteDatabase": _SQLITE,
    "playhouse.sqlite_ext.SqliteExtDatabase": _SQLITE,
    "dataset.connect": _Locker("a SQLite database", "url"),
    "databases.Database": _Locker("a SQLite database", "url"),
    "sqlalchemy.create_engine": _Locker("a SQLite database", "url"),
    "sqlalchemy.ext.asyncio.create_async_engine": _Locker("a SQLite database", "url"),
    "sqlmodel.create_engine": _Locker("a SQLite database", "url"),
    "sqlitedict.SqliteDict": _Locker("a SQLite database", "filename"),
    "diskcache.Cache": _Locker("a cache kept in SQLite", "directory"),
    "diskcache.FanoutCache": _Locker("a cache kept in SQLite", "directory"),
    "diskcache.Deque": _Locker("a queue kept in SQLite", "directory"),
    "chromadb.PersistentClient": _Locker("a Chroma database, which is kept in SQLite,", "path"),
    "duckdb.connect": _Locker("a DuckDB database", "database", ("read_only",)),
    "lmdb.open": _Locker("an LMDB database", "path", ("readonly",)),
    "lmdb.Environment": _Locker("an LMDB database", "path", ("readonly",)),
    "shelve.open": _Locker("a shelf", "filename"),
    "dbm.open": _Locker("a dbm database", "file"),
    "filelock.FileLock": _LOCK_FILE,
    "filelock.UnixFileLock": _LOCK_FILE,
    "filelock.AsyncFileLock": _LOCK_FILE,
    "filelock.ReadWriteLock": _LOCK_FILE,
    "portalocker.Lock": _Locker("a lock file", "filename"),
    "portalocker.RLock": _Locker("a lock file", "filename"),
    "portalocker.lock": _FLOCK,
    "fasteners.InterProcessLock": _Locker("a lock file", "path"),
    "fasteners.InterProcessReaderWriterLock": _Locker("a lock file", "path"),
    "oslo_concurrency.lockutils.external_lock": _LOCK_FILE,
    "fcntl.flock": _FLOCK,
    "fcntl.lockf": _FLOCK,
    "fcntl.fcntl": _FLOCK,
    "os.lockf": _FLOCK,
}
_OPENERS = {"open", "io.open", "os.open", "aiofiles.open"}
_READS_ONLY = re.compile(r"[?&](mode=ro|immutable=1)\b")
_DATABASE_URL = re.compile(r"^(file:(//)?(?=/)|sqlite(\+\w+)?:///)")
_ADVICE = (
    "Keep it in a modal.Dict, a modal.Queue or a database server, give each container a file of its own, or let one container alone write: "
    "max_containers=1. docs/volumes.md tells more."
)


def check(app: App) -> Iterator[Finding]:
    for node in ast.walk(app.source.tree):
        locker = _LOCKERS.get(app.scope.dotted(node.func)) if isinstance(node, ast.Call) else None
        if locker is None or not isinstance(node, ast.Call) or _only_reads(app, locker, node):
            continue
        owners = _owners(app, node)
        paths = _paths(app, owners, node, locker)
        mounts = [(unit, mount) for unit in owners for mount in unit.mounts or ()]
        found = [(unit, mount) for unit, mount in mounts if any(is_under(path, [mount]) for path in paths)]
        writers = [(unit, mount) for unit, mount in found if not _is_read_only(unit, mount)]
        if writers and not (len(writers) == 1 and writers[0][0].value("max_containers") == 1):
            yield Finding(
                RULE.id,
                Severity.WARNING,
                app.source.place(node),
                f"{locker.what[:1].upper()}{locker.what[1:]} on the Volume at {writers[0][1]!r} does not keep containers apart: locks of files "
                f"hold within one container only, and `{writers[0][0].name}` may have several.",
                help=_ADVICE,
            )


def _owners(app: App, call: ast.Call) -> list[Unit]:
    """The units whose containers run the call: the one around it, else, as in a helper, all. None in what runs where `modal run` does."""
    inside = [unit for unit in app.units if any(node is call for node in ast.walk(unit.node))]
    if inside:
        return inside[-1:]
    local = (
        helper
        for helper in app.helpers.values()
        if any("local_entrypoint" in ast.unparse(d) for d in helper.decorator_list)
    )
    return [] if any(node is call for helper in local for node in ast.walk(helper)) else app.units


def _only_reads(app: App, locker: _Locker, call: ast.Call) -> bool:
    if any(keyword.arg in locker.reads and app.scope.value(keyword.value) is True for keyword in call.keywords):
        return True
    if app.scope.dotted(call.func).startswith("fcntl."):
        how = ast.unparse(call.args[1]) if len(call.args) > 1 else ""
        return how.endswith("LOCK_UN") or (app.scope.dotted(call.func) == "fcntl.fcntl" and "SETLK" not in how)
    return False


def _paths(app: App, owners: list[Unit], call: ast.Call, locker: _Locker) -> list[str]:
    """The paths that may be locked, as much of their beginnings as the text tells; [] for none, and where nothing is written."""
    node = next((keyword.value for keyword in call.keywords if keyword.arg == locker.argument), None)
    node = node if node is not None else call.args[0] if call.args else None
    if node is not None and locker is _FLOCK:
        node = _opened(app, call, node)
    if node is None or _READS_ONLY.search(ast.unparse(node)):
        return []
    found = [_beginning(app, owners, each) for each in (node, *_given(app, call, node))]
    return [_DATABASE_URL.sub("", text) for text in found if text and not _READS_ONLY.search(text)]


def _opened(app: App, call: ast.Call, node: ast.expr) -> ast.expr | None:
    """The path of the file that is locked, or whose descriptor is: of the last `open` above that has the name."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "fileno":
        node = node.func.value
    if isinstance(node, ast.Call):
        return _opens(app, node)
    name, found, line = ast.unparse(node), None, 0
    for each in ast.walk(app.source.tree):
        path = _opens(app, each) if isinstance(each, ast.Call) and line <= each.lineno <= call.lineno else None
        if path is not None and _target(app, each) == name:
            found, line = path, path.lineno
    return found


def _opens(app: App, call: ast.Call) -> ast.expr | None:
    """The path that `open(path)` or `path.open()` opens."""
    if app.scope.dotted(call.func) in _OPENERS:
        return call.args[0] if call.args else None
    return call.func.value if isinstance(call.func, ast.Attribute) and call.func.attr == "open" else None


def _target(app: App, node: ast.AST) -> str:
    """What the value is called: `file` of `with open(...) as file` and `file = open(...)`."""
    above = parent(app.source.tree, node)
    if isinstance(above, ast.withitem):
        return ast.unparse(above.optional_vars) if above.optional_vars is not None else ""
    return ast.unparse(above.targets[0]) if isinstance(above, ast.Assign) else ""


def _given(app: App, call: ast.Call, node: ast.expr) -> Iterator[ast.expr]:
    """What a parameter that stands for the path is by default, and what calls in this module give for it."""
    if not isinstance(node, ast.Name):
        return
    around = [
        each
        for each in ast.walk(app.source.tree)
        if isinstance(each, Def) and any(inner is call for inner in ast.walk(each))
    ]
    for function in around:
        parameters = [*function.args.posonlyargs, *function.args.args]
        defaults = zip(parameters[::-1], function.args.defaults[::-1], strict=False)
        yield from (default for parameter, default in defaults if parameter.arg == node.id)
        names = [parameter.arg for parameter in parameters if parameter.arg != "self"]
        for each in ast.walk(app.source.tree) if node.id in names else ():
            if isinstance(each, ast.Call) and method(each) == function.name:
                named = [keyword.value for keyword in each.keywords if keyword.arg == node.id]
                yield from named or each.args[names.index(node.id) :][:1]


def _beginning(app: App, owners: list[Unit], node: ast.expr, depth: int = 0) -> str:
    """A text or path as far as it can be told from its front: "/data/" of `f"/data/{name}.db"`."""
    value = app.scope.value(node)
    if isinstance(value, str):
        return value
    if depth > 10:
        return ""
    if isinstance(node, ast.JoinedStr):
        return _joined(app, owners, node.values, depth)
    if isinstance(node, ast.BinOp) and isinstance(node.op, (ast.Add, ast.Div)):
        front = _beginning(app, owners, node.left, depth + 1)
        return front + "/" if front and isinstance(node.op, ast.Div) else front
    if (
        isinstance(node, ast.Call)
        and node.args
        and app.scope.dotted(node.func) in {"os.path.join", "str", "pathlib.Path", "os.fspath"}
    ):
        front = _beginning(app, owners, node.args[0], depth + 1)
        return front + "/" if front and len(node.args) > 1 else front
    if isinstance(node, ast.Name) and (assigned := app.scope.assigned(node)) is not None:
        return _beginning(app, owners, assigned, depth + 1)
    if isinstance(node, ast.Attribute) and app.scope.dotted(node.value) == "self":
        given = _attribute(owners, node.attr)
        return _beginning(app, owners, given, depth + 1) if given is not None else ""
    return ""


def _joined(app: App, owners: list[Unit], parts: list[ast.expr], depth: int) -> str:
    text = ""
    for part in parts:
        node = part.value if isinstance(part, ast.FormattedValue) else part
        value = app.scope.value(node)
        if value is UNKNOWN:
            return text or _beginning(app, owners, node, depth + 1)
        text += str(value)
    return text


def _attribute(owners: list[Unit], name: str) -> ast.expr | None:
    """What the one assignment in a class sets `self.name`, or the class's own `name`, to."""
    found = []
    for node in (each for unit in owners if unit.is_class for each in ast.walk(unit.node)):
        targets = (
            node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
        )
        if any(ast.unparse(target) in {f"self.{name}", name} for target in targets):
            found.append(node.value)  # type: ignore[attr-defined]
    return found[0] if len(found) == 1 else None


def _is_read_only(unit: Unit, mount: str) -> bool:
    """Whether the Volume is mounted at the path in such a way that nothing can be written."""
    given = unit.options.get("volumes")
    given = unit.scope.assigned(given) if isinstance(given, ast.Name) else given
    if not isinstance(given, ast.Dict):
        return False
    for key, value in zip(given.keys, given.values, strict=True):
        made = unit.scope.assigned(value) if isinstance(value, ast.Name) else value
        text = ast.unparse(made) if made is not None else ""
        if unit.scope.value(key) == mount and ("read_only=True" in text or text.endswith(".read_only()")):
            return True
    return False


RULE = Rule("STK019", "volume-locks", "Locks on a Volume hold within one container only", check)
