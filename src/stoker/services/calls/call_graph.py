"""Who called whom: the inputs around a call, up to its root and down to its leaves."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import sqlalchemy as sa

from stoker.errors import NotFound
from stoker.store import tables
from stoker.store.database import Database

_MOST_INPUTS = 1000


@dataclass(frozen=True)
class GraphInput:
    """`status` is 0 while the input has no output, else the number of its result's status."""

    id: str
    call_id: str
    idx: int
    status: int
    task_id: str


@dataclass(frozen=True)
class GraphCall:
    """One call of a graph. `parent_input_id`: the input whose code made it, "" for one that a client made."""

    id: str
    function_id: str
    parent_input_id: str


@dataclass
class CallGraph:
    """`truncated`: there are more than the first thousand inputs."""

    inputs: list[GraphInput] = field(default_factory=list)
    calls: list[GraphCall] = field(default_factory=list)
    truncated: bool = False


def call_graph(database: Database, call_id: str) -> CallGraph:
    """The graph that a call is part of, nearest to the root first. Raises NotFound."""
    graph = CallGraph()
    with database.read() as connection:
        level = [_root(connection, call_id)]
        while level and not graph.truncated:
            graph.calls += level
            inputs = _inputs(connection, [c.id for c in level], _MOST_INPUTS + 1 - len(graph.inputs))
            graph.truncated = len(graph.inputs) + len(inputs) > _MOST_INPUTS
            graph.inputs = (graph.inputs + inputs)[:_MOST_INPUTS]
            level = _calls_made_by(connection, [i.id for i in inputs])
    return graph


def _root(connection: sa.Connection, call_id: str) -> GraphCall:
    call = _call(connection, call_id)
    while call.parent_input_id:
        inputs = tables.inputs
        row = connection.execute(sa.select(inputs.c.call_id).where(inputs.c.id == call.parent_input_id)).first()
        if row is None:
            # The parent's records are gone, or not there yet. Clients drop a call whose parent they do not see.
            return replace(call, parent_input_id="")
        call = _call(connection, row.call_id)
    return call


def _call(connection: sa.Connection, call_id: str) -> GraphCall:
    row = connection.execute(_CALLS.where(tables.calls.c.id == call_id)).first()
    if row is None:
        raise NotFound(f"Function call {call_id!r} not found; results are kept for some days only.")
    return GraphCall(*row)


def _calls_made_by(connection: sa.Connection, input_ids: list[str]) -> list[GraphCall]:
    rows = connection.execute(_CALLS.where(tables.calls.c.parent_input_id.in_(input_ids))).all() if input_ids else []
    return [GraphCall(*row) for row in rows]


def _inputs(connection: sa.Connection, call_ids: list[str], limit: int) -> list[GraphInput]:
    inputs, outputs = tables.inputs, tables.outputs
    query = (
        sa.select(inputs.c.id, inputs.c.call_id, inputs.c.idx, outputs.c.status, outputs.c.task_id)
        .select_from(inputs.outerjoin(outputs, outputs.c.input_id == inputs.c.id))
        .where(inputs.c.call_id.in_(call_ids))
        .order_by(inputs.c.created_at, inputs.c.idx)
        .limit(limit)
    )
    return [GraphInput(r.id, r.call_id, r.idx, r.status or 0, r.task_id or "") for r in connection.execute(query)]


_CALLS = sa.select(tables.calls.c.id, tables.calls.c.function_id, tables.calls.c.parent_input_id)
