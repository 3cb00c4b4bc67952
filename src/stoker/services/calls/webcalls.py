"""Web requests under way: each is a call whose body and answer flow through it while it runs.

Such calls live in memory: whoever waits for their answer is gone after a restart, and what they carry (cookies, credentials) is not for
keeping. A line of history stays of each.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator

from stoker.aio.jobs import Jobs
from stoker.errors import NotFound
from stoker.services.calls.call_records import WEB, Call
from stoker.services.calls.calls import Calls
from stoker.services.calls.pipes import Pipe
from stoker.services.calls.web_history import WebHistory
from stoker.services.functions.wire import AsgiMessage, WebWire
from stoker.services.pools.scheduler import Scheduler

_WINDOW = 1 << 20  # bytes on their way in one direction before the sender has to wait
_REPLAYABLE = (
    1 << 20
)  # bytes of a request that are kept to run it again, should its container be lost before it answers
_GRACE_AFTER_HANG_UP = 5.0  # seconds in which an app may end by itself when its client went away
_GRACE_AFTER_ANSWER = 1.0  # seconds after a complete answer until an app that goes on is told so
_KEEP_UNCLAIMED = 600.0  # seconds a request that outlived its HTTP exchange waits for somebody to ask for its answer


class WebCall:
    """One request or websocket. Made by `WebCalls.start`."""

    def __init__(self, call: Call, endpoint: str, owner: WebCalls) -> None:
        self.id = call.id
        self.call = call
        self.endpoint = endpoint
        self.inward = Pipe(_WINDOW, replayable=True)
        self.outward = Pipe(_WINDOW)
        self.body_complete = False
        self.detached = False  # its first HTTP exchange is over; another may ask for the answer
        self.followed = True
        self._owner = owner
        self._sent = 0
        self._pinned = False
        self._hung_up = False  # the app was told that nobody reads any more
        self._left = False
        self._unclaimed: asyncio.TimerHandle | None = None
        self.answered: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Done when the app has begun to answer, or ended without."""
        self._ended: asyncio.Future[tuple[str, str]] = asyncio.get_running_loop().create_future()

    # The client's side

    async def send(self, message: AsgiMessage) -> None:
        """Passes a message of the client on; waits while the app does not read."""
        data = self._owner.wire.to_container(message)
        self._count(len(data))
        if message["type"] == "http.request" and not message.get("more_body", False):
            self.body_complete = True
        await self.inward.put(self.inward.last + 1, data)

    async def messages(self) -> AsyncGenerator[AsgiMessage, None]:
        """What the app sends, until its call ends or `hang_up`."""
        async with contextlib.aclosing(self.outward.follow(0)) as chunks:
            async for _, chunk in chunks:
                async for message in self._owner.wire.from_container(chunk):
                    yield message

    @property
    def over(self) -> bool:
        return self._ended.done()

    async def ending(self) -> tuple[str, str]:
        """How the call ended, in the words of `WebWire.ending`."""
        return await self._ended

    def hang_up(self, message: AsgiMessage) -> None:
        """The client is gone: the app is told so by `message`, and ended if it does not end by itself."""
        if self._left:
            return  # the end of the exchange and the one who reads from the client both notice
        self._left = True
        self.outward.discard()
        self._tell(message)
        asyncio.get_running_loop().call_later(_GRACE_AFTER_HANG_UP, self._owner.cancel_soon, self)

    def complete(self) -> None:
        """The answer is complete. An app that still works in the background may go on."""
        self.outward.discard()
        if not self.over:
            asyncio.get_running_loop().call_later(_GRACE_AFTER_ANSWER, self._tell, {"type": "http.disconnect"})

    def detach(self) -> None:
        """Lets the call go on without an HTTP exchange, for a while."""
        self.detached, self.followed = True, False
        self._unclaimed = asyncio.get_running_loop().call_later(_KEEP_UNCLAIMED, self._owner.give_up, self)

    def follow(self) -> None:
        """Somebody asks for the answer again."""
        self.followed = True
        if self._unclaimed is not None:
            self._unclaimed.cancel()

    # The container's side

    async def receive(self, index: int, chunk: bytes) -> None:
        """A chunk of the answer; waits while the client does not read."""
        if not self._pinned:
            self.pin()
        if not self.answered.done():
            self.answered.set_result(None)
        await self.outward.put(index, chunk)

    # What its owner calls

    def pin(self) -> None:
        """From now on the request must not be run a second time."""
        self._pinned = True
        self._owner.pin(self)
        self.inward.forget_read()

    def end(self, result: bytes) -> None:
        self._ended.set_result(self._owner.wire.ending(result))
        if not self.answered.done():
            self.answered.set_result(None)
        self.inward.finish()
        self.inward.discard()
        self.outward.finish()

    def _count(self, size: int) -> None:
        self._sent += size
        if self._sent > _REPLAYABLE and not self._pinned:
            self.pin()

    def _tell(self, message: AsgiMessage) -> None:
        if not self._hung_up and not self.over:
            self._hung_up = True
            self.inward.put_now(self.inward.last + 1, self._owner.wire.to_container(message))


class WebCalls:
    """All of them, by call."""

    def __init__(self, calls: Calls, scheduler: Scheduler, wire: WebWire, history: WebHistory) -> None:
        self.wire = wire
        self._history = history
        self._calls = calls
        self._scheduler = scheduler
        self._by_call: dict[str, WebCall] = {}
        self._cancelling = Jobs("web calls")
        scheduler.outlives = lambda call_id: bool(call_id) and call_id not in self._by_call

    async def start(
        self, function_id: str, method: str, endpoint: str, scope: AsgiMessage, first: AsgiMessage
    ) -> WebCall:
        """Gives a request to a container of the function. endpoint: a name for who may ask for its answer later; first: the message without
        which the app would not begin. Raises NotFound, FailedPrecondition, ResourceExhausted."""
        payload = self.wire.web_input(scope, method)
        call, _ = await self._calls.start(function_id, WEB, 0, "", [(0, payload)], spawned=False)
        call.web_method = method
        web = self._by_call[call.id] = WebCall(call, endpoint, self)
        await web.send(first)
        return web

    def find(self, call_id: str) -> WebCall | None:
        return self._by_call.get(call_id)

    def claim(self, call_id: str, endpoint: str) -> WebCall:
        """A detached request, for whoever asks for its answer now. Raises NotFound."""
        web = self._by_call.get(call_id)
        if web is None or web.endpoint != endpoint or not web.detached or web.followed:
            raise NotFound(
                f"No answer is kept for {call_id!r} here: it was fetched already, is being fetched, or was not asked for in time."
            )
        web.follow()
        return web

    def release(self, web: WebCall) -> None:
        """The HTTP exchange is over; a detached call stays."""
        if web.followed:
            web.outward.discard()
            if web.over:
                self._by_call.pop(web.id, None)

    def finished(self, call: Call) -> None:
        """Event: the call has ended."""
        self._history.add(call)
        web = self._by_call.get(call.id)
        if web is None or web.over:
            return
        web.end(call.outputs[-1].result if call.outputs else b"")
        if web.followed:
            del self._by_call[call.id]

    def pin(self, web: WebCall) -> None:
        for input_id in web.call.open_inputs:
            self._scheduler.pin(web.call.function_id, input_id)

    def cancel_soon(self, web: WebCall) -> None:
        if not web.over:
            self._cancelling.start(f"cancel {web.id}", self._calls.cancel(web.id, terminate_containers=False))

    def give_up(self, web: WebCall) -> None:
        """Nobody came for the answer."""
        self.cancel_soon(web)
        web.outward.discard()
        self._by_call.pop(web.id, None)
