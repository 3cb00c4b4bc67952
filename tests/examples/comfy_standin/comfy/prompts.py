"""The queue of prompts, the one worker that runs them in turn, and the history of what became of them."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nodes import Interrupted

from comfy.graph import Graph, NodeFailed

Send = Callable[[str | None, str, dict[str, Any]], None]
"""send(client id or None for all, message type, data); called in the event loop."""


@dataclass(frozen=True)
class Prompt:
    number: int
    id: str
    workflow: dict[str, Any]
    extra: dict[str, Any]

    @property
    def client(self) -> str | None:
        return self.extra.get("client_id")

    @property
    def item(self) -> list[Any]:
        """As /queue and /history show it."""
        return [self.number, self.id, self.workflow, self.extra, []]


class Prompts:
    def __init__(self, workspace: Path, send: Send, database: sqlite3.Connection) -> None:
        self.history: dict[str, Any] = {}
        self.pending: list[Prompt] = []
        self.running: Prompt | None = None
        self._graph = Graph(workspace)
        self._send = send
        self._database = database
        self._arrived = asyncio.Event()
        self._stop = threading.Event()
        self._count = 0

    @property
    def remaining(self) -> int:
        return len(self.pending) + (self.running is not None)

    def add(self, prompt_id: str, workflow: dict[str, Any], extra: dict[str, Any]) -> Prompt:
        prompt = Prompt(self._count, prompt_id, workflow, extra)
        self._count += 1
        self.pending.append(prompt)
        self._arrived.set()
        self._tell_status()
        return prompt

    def interrupt(self) -> None:
        """Stops the running prompt at its next sign of progress."""
        self._stop.set()

    async def run(self) -> None:
        """Works for ever."""
        while True:
            while not self.pending:
                self._arrived.clear()
                await self._arrived.wait()
            self.running = self.pending.pop(0)
            self._stop.clear()
            print("got prompt", flush=True)
            await self._execute(self.running)
            self.running = None
            self._tell_status()

    async def _execute(self, prompt: Prompt) -> None:
        loop, thread, messages = asyncio.get_running_loop(), threading.get_ident(), []

        def tell(kind: str, **data: Any) -> None:
            data["prompt_id"] = prompt.id
            if kind.startswith("execution_"):
                data["timestamp"] = int(time.time() * 1000)
                messages.append([kind, data])
            if threading.get_ident() == thread:
                self._send(prompt.client, kind, data)
            else:
                loop.call_soon_threadsafe(self._send, prompt.client, kind, data)
                if kind == "progress" and self._stop.is_set():
                    raise Interrupted

        outputs: dict[str, Any] = {}
        tell("execution_start")
        try:
            outputs = await asyncio.to_thread(self._graph.execute, prompt.workflow, tell)
            tell("execution_success")
        except NodeFailed as failed:
            self._tell_failure(failed, tell)
        completed = messages[-1][0] == "execution_success"
        status = {"status_str": "success" if completed else "error", "completed": completed, "messages": messages}
        self.history[prompt.id] = {"prompt": prompt.item, "outputs": outputs, "status": status, "meta": {}}
        with self._database:
            self._database.execute("insert or replace into prompts values (?, ?)", (prompt.id, status["status_str"]))
        tell("executing", node=None)

    def _tell_failure(self, failed: NodeFailed, tell: Callable[..., None]) -> None:
        where = {"node_id": failed.node, "node_type": failed.class_type, "executed": failed.executed}
        cause = failed.__cause__
        if isinstance(cause, Interrupted):
            tell("execution_interrupted", **where)
            return
        print(f"!!! Exception during processing !!! {cause}", flush=True)
        lines = traceback.format_exception(cause)
        about = {"exception_message": str(cause), "exception_type": type(cause).__name__, "traceback": lines}
        tell("execution_error", **where, **about, current_inputs={}, current_outputs=[])

    def _tell_status(self) -> None:
        self._send(None, "status", {"status": {"exec_info": {"queue_remaining": self.remaining}}})
