"""The history of requests to @app.server: a line for each that was let in, and what the lines tell. Times in seconds since the epoch.

A server takes thousands of requests a second, so a line is one row of one table, and lines gather for a moment. Of what a request carried only
its path is kept, without the query."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple, Protocol

import sqlalchemy as sa

from stoker.services.calls.web_history import HistoryWriter
from stoker.services.watch.history import percentiles
from stoker.store import tables
from stoker.store.appender import Rows
from stoker.store.database import Database

CLIENT_LEFT = 499
"""The status of a request whose client left before it was answered, as web servers log it."""
_MOST = 200_000  # lines that are kept: whoever reaches a server makes them
_GATHER = 0.25  # seconds
_LONGEST_ROUTE = 200  # characters
_SLICE = 2_000  # lines that are removed in one transaction, so that work under way hardly waits


class Remember(Protocol):
    """Takes note of a request that is over."""

    def __call__(
        self,
        function_id: str,
        task_id: str,
        request_id: str,
        route: str,
        status: int,
        waited: float | None,
        took: float,
        /,
    ) -> None:
        """task_id: "" when no container got it. waited: seconds until one did. took: seconds in all."""


def remember_nothing(*what: object) -> None: ...


class ServerRequest(NamedTuple):
    """One request that is over. In the order of the table's columns."""

    seq: int
    request_id: str
    function_id: str
    task_id: str  # "" when no container got it
    route: str
    status: int  # of HTTP
    arrived_at: float
    started_at: float | None  # when a container got it
    ended_at: float


@dataclass
class RequestTotals:
    """What a server answered from `since` on. Percentiles in seconds, by share, empty without data."""

    since: float
    statuses: Counter[int] = field(default_factory=Counter)
    run_times: dict[float, float] = field(default_factory=dict)
    wait_times: dict[float, float] = field(default_factory=dict)


class ServerRequests:
    """Writes and reads these lines. Made by the composition root; the gateway tells it of each request, the RPCs of history ask."""

    def __init__(self, database: Database, *, most: int = _MOST) -> None:
        """most: lines that are kept, of all servers."""
        self._database = database
        self._most = most
        self._lines: HistoryWriter[ServerRequest] = HistoryWriter(database, _rows, gather=_GATHER)
        with database.read() as connection:
            self._seq: int = connection.execute(sa.select(sa.func.max(_T.seq))).scalar() or 0

    def add(
        self,
        function_id: str,
        task_id: str,
        request_id: str,
        route: str,
        status: int,
        waited: float | None,
        took: float,
    ) -> None:
        """See Remember."""
        now = time.time()
        arrived = now - took
        self._seq = max(self._seq + 1, int(now * 1e6))
        started = None if waited is None else arrived + waited
        self._lines.add(
            ServerRequest(
                self._seq, request_id, function_id, task_id, route[:_LONGEST_ROUTE], status, arrived, started, now
            )
        )

    async def close(self) -> None:
        await self._lines.close()

    async def newest(self, function_id: str, count: int) -> list[ServerRequest]:
        """The last `count` requests of a server, newest first."""
        query = sa.select(tables.server_requests).where(_T.function_id == function_id)
        return await self._read(query.order_by(_T.seq.desc()).limit(count))

    async def between(self, function_id: str, since: float, until: float, limit: int) -> list[ServerRequest]:
        """The first `limit` requests that came in [since, until), oldest first."""
        query = sa.select(tables.server_requests).where(_came(function_id, since, until))
        return await self._read(query.order_by(_T.arrived_at, _T.seq).limit(limit))

    async def counts(self, function_id: str, since: float, until: float, width: float) -> dict[float, int]:
        """Requests that came in [since, until), by the start of their piece of `width` seconds."""
        query = sa.select(_T.arrived_at).where(_came(function_id, since, until))

        def read() -> Counter[float]:
            with self._database.read() as connection:
                return Counter(since + (t - since) // width * width for t in connection.execute(query).scalars())

        return dict(sorted((await asyncio.to_thread(read)).items()))

    async def totals(self, function_id: str, since: float, until: float, task_id: str = "") -> RequestTotals:
        """What ended in [since, until), as far back as all lines are kept; of one container when `task_id` is given."""
        return await asyncio.to_thread(self._totals, function_id, since, until, task_id)

    async def forget_old(self, days: float) -> None:
        """Removes the lines of requests that ended more than `days` days ago, and all but the newest."""
        oldest = max(int((time.time() - days * 86_400) * 1e6), await asyncio.to_thread(self._oldest_kept))
        following = sa.select(_T.seq).order_by(_T.seq).offset(_SLICE).limit(1)

        def next_slice() -> tuple[int, bool]:
            with self._database.read() as connection:
                first = connection.execute(sa.select(sa.func.min(_T.seq))).scalar()
                bound = connection.execute(following).scalar()
            return oldest if bound is None else min(bound, oldest), first is not None and first < oldest

        while True:
            bound, there_are = await asyncio.to_thread(next_slice)
            if not there_are:
                return
            some = sa.delete(tables.server_requests).where(_T.seq < bound)
            await self._database.write(partial(sa.Connection.execute, statement=some))

    # How it is done

    async def _read(self, query: sa.Select[tuple[object, ...]]) -> list[ServerRequest]:
        def read() -> list[ServerRequest]:
            with self._database.read() as connection:
                return [ServerRequest._make(row) for row in connection.execute(query)]

        return await asyncio.to_thread(read)

    def _totals(self, function_id: str, since: float, until: float, task_id: str) -> RequestTotals:
        totals = RequestTotals(max(since, self._oldest_kept() / 1e6))
        query = sa.select(_T.status, _T.arrived_at, _T.started_at, _T.ended_at).where(
            _T.function_id == function_id, _T.seq >= int(totals.since * 1e6), _T.seq < int(until * 1e6)
        )
        if task_id:
            query = query.where(_T.task_id == task_id)
        runs, waits = list[float](), list[float]()
        with self._database.read() as connection:
            for row in connection.execute(query):
                totals.statuses[row.status] += 1
                if row.started_at is not None:
                    runs.append(row.ended_at - row.started_at)
                    waits.append(row.started_at - row.arrived_at)
        totals.run_times, totals.wait_times = percentiles(runs), percentiles(waits)
        return totals

    def _oldest_kept(self) -> int:
        """The seq of the oldest line of as many as are kept; 0 when there are no more than that."""
        query = sa.select(_T.seq).order_by(_T.seq.desc()).offset(self._most - 1).limit(1)
        with self._database.read() as connection:
            return connection.execute(query).scalar() or 0


_T = tables.server_requests.c


def _rows(lines: Sequence[ServerRequest]) -> Sequence[Rows]:
    return [(tables.server_requests, lines)]


def _came(function_id: str, since: float, until: float) -> sa.ColumnElement[bool]:
    """What came in a time also ended after its beginning, which the index knows."""
    return sa.and_(
        _T.function_id == function_id, _T.seq >= int(since * 1e6), _T.arrived_at >= since, _T.arrived_at < until
    )
