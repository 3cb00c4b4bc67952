"""Calls, their inputs and their outputs, as they are in memory and as rows in the database."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from stoker.aio.bell import Bell
from stoker.ids import content_id
from stoker.store import tables
from stoker.store.appender import Rows

WEB = "web"
"""The kind of a call that carries a web request: it lives in memory (see `webcalls.py`), and leaves a line of history (`web_history.py`)."""


@dataclass(slots=True)
class Output:
    """One result. `result` is opaque; `seq` counts from 1 within the call."""

    input_id: str
    call_id: str
    idx: int
    seq: int
    result: bytes
    data_format: int
    status: int
    task_id: str
    started_at: float
    created_at: float


@dataclass(slots=True)
class Input:
    """One set of arguments of a call. `idx` is its place in the call; `payload` is opaque."""

    id: str
    call_id: str
    idx: int
    payload: bytes
    method: str = ""  # of a class, which the input is for


@dataclass(slots=True)
class Call:
    """A call and what of it is in memory: its unfinished inputs and its outputs."""

    id: str
    function_id: str
    app_id: str
    kind: str
    invocation: int
    created_at: float
    parent_input_id: str = ""
    caller_app_id: str = ""  # of the container that made it, "" for a client
    web_method: str = ""  # of a class, which a web request is for
    callers: frozenset[str] = frozenset()  # functions that called it, directly or through others; not after a restart
    open_inputs: dict[str, Input] = field(default_factory=dict)
    outputs: list[Output] = field(default_factory=list)
    total: int = 0
    cancelled: bool = False
    last_seq: int = 0
    indexes: set[int] = field(default_factory=set)  # of all inputs ever accepted
    news: Bell = field(default_factory=Bell)  # rings when there is an output
    answered_at: float = 0.0  # by the loop's clock
    over: asyncio.Future[None] | None = None  # resolved when no input is open any more


def new_inputs(call_id: str, items: Sequence[tuple[int, bytes]], methods: Mapping[int, str]) -> list[Input]:
    """From (idx, payload), and the methods of a class by idx."""
    return [Input(input_id_of(call_id, idx), call_id, idx, payload, methods.get(idx, "")) for idx, payload in items]


# Rows, in the order of the tables' columns.


def call_row(call: Call) -> tuple[object, ...]:
    return (
        call.id,
        call.function_id,
        call.app_id,
        call.parent_input_id,
        call.kind,
        call.invocation,
        call.cancelled,
        call.created_at,
        call.caller_app_id,
    )


def input_rows(inputs: Iterable[Input]) -> Rows:
    now = time.time()
    return tables.inputs, [(i.id, i.call_id, i.idx, i.payload, now, i.method) for i in inputs]


def output_row(output: Output) -> tuple[object, ...]:
    return (
        output.input_id,
        output.call_id,
        output.idx,
        output.seq,
        output.result,
        output.data_format,
        output.status,
        output.task_id,
        output.started_at,
        output.created_at,
    )


def web_rows(calls: Sequence[Call]) -> tuple[Rows, Rows, Rows]:
    """Of web requests that have ended: their times, status and container, without anything that they carried."""
    ended = [(call, call.outputs[-1]) for call in calls if call.outputs]
    return (
        (tables.calls, [call_row(call) for call, _ in ended]),
        (
            tables.inputs,
            [(output.input_id, call.id, output.idx, b"", call.created_at, call.web_method) for call, output in ended],
        ),
        (tables.outputs, [output_row(replace(output, result=b"")) for _, output in ended]),
    )


def input_id_of(call_id: str, idx: int) -> str:
    """Made from the call and the index, so that a repeated request cannot bring an input twice."""
    return content_id("in", f"{call_id}/{idx}".encode())
