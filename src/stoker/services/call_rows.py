"""Calls, inputs and outputs as rows, in the order of the tables' columns."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import TYPE_CHECKING

from stoker.ids import content_id
from stoker.store import tables
from stoker.store.appender import Rows

if TYPE_CHECKING:
    from stoker.services.calls import Call, Input, Output


def call_row(call: Call, parent_input_id: str) -> tuple[object, ...]:
    return (
        call.id,
        call.function_id,
        call.app_id,
        parent_input_id,
        call.kind,
        call.invocation,
        call.cancelled,
        call.created_at,
    )


def input_rows(inputs: Iterable[Input]) -> Rows:
    now = time.time()
    return tables.inputs, [(i.id, i.call_id, i.idx, i.payload, now) for i in inputs]


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


def input_id_of(call_id: str, idx: int) -> str:
    """Made from the call and the index, so that a repeated request cannot bring an input twice."""
    return content_id("in", f"{call_id}/{idx}".encode())
