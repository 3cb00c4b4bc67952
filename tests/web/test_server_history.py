"""What is kept of requests to servers, and what the client shows of it."""

from __future__ import annotations

import asyncio
import http.client
import json
import sqlite3
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from stoker.services.watch import server_requests
from stoker.services.watch.server_requests import ServerRequests
from stoker.store import tables
from stoker.store.database import Database
from tests.web.conftest import Web, until


def shown(servers: Web, *options: str, server: str = "server/Open") -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(
        servers.server.modal("server", "requests", server, "--json", *options).stdout
    )
    return found


def test_requests_leave_a_line_each(servers: Web) -> None:
    before = time.time()
    servers.get("open", "/first?key=a-secret-of-the-request")
    answer = servers.get("open", "/second", **{"X-Request-Id": "named-by-its-client"})
    broken = servers.get("open", "/break")
    connection = http.client.HTTPConnection(*servers.address)
    connection.request("PUT", servers.path("open", "/slow=60"), body=b"a-secret-of-the-request")
    until(lambda: servers.metric("stoker_http_open_requests") == 1)
    connection.close()
    until(lambda: shown(servers, "--tail", "1")[0]["route"] == "/slow=60")
    left, broke, second, first = shown(servers, "--tail", "4")
    routes = [(line["route"], line["status"]) for line in (first, second, broke, left)]
    assert routes == [("/first", 200), ("/second", 200), ("/break", 502), ("/slow=60", 499)]
    assert answer.headers["x-task"] == second["container_id"] == broke["container_id"] and broken.status == 502
    ranged = shown(servers, "--since", "1h")
    assert [line["route"] for line in ranged[-4:]] == ["/first", "/second", "/break", "/slow=60"]
    with closing(sqlite3.connect(servers.server.data / "stoker.db")) as database:
        rows = database.execute("select * from server_requests order by seq desc limit 4").fetchall()
    assert "a-secret-of-the-request" not in str(rows) and rows[2][1] == "named-by-its-client"
    for *_, arrived, started, ended in rows:
        assert before - 1 < arrived <= started <= ended < time.time() + 1


def test_who_shows_no_token_leaves_no_line(servers: Web) -> None:
    before = shown(servers, server="server/Guarded")  # of other tests, which showed one
    assert servers.get("guarded").status == 401
    assert shown(servers, server="server/Guarded") == before


def test_requests_that_find_no_room_leave_a_line(servers: Web) -> None:
    connections = []
    for number in range(2):
        connections.append(http.client.HTTPConnection(*servers.address))
        connections[-1].request("GET", servers.path("narrow", "/slow=60"))
        until(lambda n=number: servers.metric("stoker_http_open_requests") == n + 1)  # type: ignore[misc]
    until(lambda: servers.get("narrow", "/full").status == 429)
    until(lambda: "/full" in [line["route"] for line in shown(servers, server="server/Narrow")])
    full = next(line for line in shown(servers, server="server/Narrow") if line["route"] == "/full")
    assert (full["status"], full["container_id"]) == (429, "")
    for connection in connections:
        connection.close()


def test_no_route_spoils_the_lines_of_others(servers: Web) -> None:
    for route in (b"/\0", b"/%00", b"/\xff\xfe", b"/" + b"a" * 5_000):
        with servers.raw() as peer:
            peer.sendall(b"GET %s%s HTTP/1.1\r\nHost: x\r\n\r\n" % (servers.path("open").encode(), route))
            assert peer.recv(4096).startswith(b"HTTP/1.1 ")
    servers.get("open", "/after")
    until(lambda: shown(servers)[0]["route"] == "/after")
    routes = [line["route"] for line in shown(servers)]
    assert all("\0" not in route and len(route) <= 200 for route in routes) and "/%00" in routes


def test_websockets_leave_a_line_when_they_end(servers: Web) -> None:
    upgrade = (
        f"GET {servers.path('sockets', '/echo')} HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )
    with servers.raw() as peer:
        peer.sendall(upgrade.encode())
        assert peer.recv(4096).startswith(b"HTTP/1.1 101")
    until(lambda: [(r["route"], r["status"]) for r in shown(servers, server="server/Sockets")][:1] == [("/echo", 101)])


def test_a_server_and_its_app_count_requests(servers: Web) -> None:
    code = """
import json, modal
server = modal.Server.from_name("server", "Open").hydrate()
stats = server.stats()
of_app = modal.App.lookup("server").stats().servers["Open"]
print(json.dumps([
    stats.request_count, stats.request_count_by_status_code, stats.request_rate_per_second,
    sorted(stats.request_percentile_stats), stats.container_total_count,
    [of_app.counts.requests.total, of_app.counts.requests.ok, of_app.counts.requests.failed],
]))
"""

    def told() -> Any:
        return json.loads(servers.server.python(code).stdout)

    servers.get("open"), servers.get("open", "/break")
    until(lambda: {"200", "500"} <= told()[1].keys())
    before = told()
    servers.get("open"), servers.get("open"), servers.get("open", "/break")
    until(lambda: told()[0] == before[0] + 3)
    count, classes, rate, percentiles, containers, of_app = told()
    assert [classes[key] - before[1][key] for key in ("200", "500")] == [2, 1]
    assert rate > 0 and percentiles == ["Execution time (s)", "Queueing time (s)"] and containers >= 1
    assert [now - then for now, then in zip(of_app, before[5], strict=True)] == [3, 2, 1] and of_app[0] == count
    assert "req/s" in servers.server.modal("server", "stats", "server/Open").stdout


@pytest.fixture
def database(tmp_path: Path) -> Database:
    return Database.open(f"sqlite:///{tmp_path}/db")


def add(requests: ServerRequests, count: int, function_id: str = "fu-x") -> None:
    for number in range(count):
        requests.add(function_id, "ta-x", f"r{number}", f"/{number}", 200, 0.1, 0.3)


def test_the_newest_lines_stay(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_requests, "_SLICE", 7)

    async def scenario() -> None:
        requests = ServerRequests(database, most=20)
        add(requests, 100)
        await requests.close()
        totals = await requests.totals("fu-x", 0.0, time.time() + 60)
        assert totals.statuses == {200: 20}  # no more is counted than will be kept, and from then on
        assert time.time() - 60 < totals.since
        await requests.forget_old(days=7)
        assert [line.route for line in await requests.newest("fu-x", 100)] == [f"/{n}" for n in range(99, 79, -1)]
        again = ServerRequests(database, most=20)  # after a restart, with a clock that was set back
        monkeypatch.setattr(time, "time", lambda: 1_000.0)
        add(again, 1, "fu-z")
        await again.close()
        assert len(await again.newest("fu-z", 10)) == 1
        await database.close()

    asyncio.run(scenario())


def test_old_lines_go(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_requests, "_SLICE", 7)

    async def scenario() -> None:
        requests = ServerRequests(database)
        now = time.time()
        monkeypatch.setattr(time, "time", lambda: now - 2 * 86_400)
        add(requests, 30)
        monkeypatch.setattr(time, "time", lambda: now)
        add(requests, 5)
        await requests.close()
        await requests.forget_old(days=1)
        with database.read() as connection:
            assert connection.execute(sa.select(sa.func.count()).select_from(tables.server_requests)).scalar() == 5
        assert (
            await requests.totals("fu-x", 0.0, now + 1)
        ).since == 0.0  # all that came in the days that are kept is here
        await database.close()

    asyncio.run(scenario())


def test_lines_lie_in_the_time_in_which_they_came(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        requests = ServerRequests(database)
        for moment in (100.0, 101.0, 165.0, 230.0):
            monkeypatch.setattr(time, "time", lambda moment=moment: moment)
            requests.add("fu-x", "", f"at {moment:.0f}", "/", 503, None, 0.5)
        await requests.close()
        between = await requests.between("fu-x", 100.0, 200.0, 10)
        assert [line.request_id for line in between] == ["at 101", "at 165"]
        assert [line.request_id for line in await requests.between("fu-x", 100.0, 200.0, 1)] == ["at 101"]
        assert await requests.counts("fu-x", 60.0, 240.0, 60.0) == {60.0: 2, 120.0: 1, 180.0: 1}
        totals = await requests.totals("fu-x", 60.0, 200.0)
        assert (totals.statuses, totals.run_times) == ({503: 3}, {})
        await database.close()

    asyncio.run(scenario())
