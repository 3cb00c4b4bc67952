"""The far node is the one behind it: what is asked, answered, told and raised passes unchanged."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast, get_type_hints

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from stoker.errors import CannotBeSaved, NotFound, StokerError
from stoker.nodes import base, events
from stoker.nodes.builds import ImageConfig
from stoker.nodes.endings import Exit, ExitKind
from stoker.nodes.messages import ContainerRequest
from stoker.testing.far_node import FarNode, FarObserver, Line
from tests.seam.test_proto import PROTOCOLS, methods
from tests.seam.values import arguments, values

METHODS = {
    f"{protocol.__name__}.{name}": (protocol, name)
    for protocol in PROTOCOLS
    for name in methods(protocol)
    if name not in ("observe", "connect")
}


class Near:
    """A node of which every method notes what it is asked, and answers or raises what it is told to."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []
        self.answer: Any = None
        for protocol in PROTOCOLS:
            part = SimpleNamespace() if protocol is not base.Node else self
            for name, method in methods(protocol).items():
                setattr(part, name, self._sync(method) if protocol is base.Node else self._async(method))
            if part is not self:
                setattr(self, protocol.__name__.lower(), part)

    def _sync(self, method: Callable[..., Any]) -> Callable[..., Any]:
        names = [name for name in get_type_hints(method) if name != "return"]

        def answer(*given: Any) -> Any:
            self.asked.append(dict(zip(names, given, strict=True)))
            if isinstance(self.answer, Exception):
                raise self.answer
            return self.answer

        return answer

    def _async(self, method: Callable[..., Any]) -> Callable[..., Coroutine[Any, Any, Any]]:
        answer = self._sync(method)

        async def answer_later(*given: Any) -> Any:
            return answer(*given)

        return answer_later


def far() -> tuple[Near, FarNode]:
    near = Near()
    return near, FarNode(cast(base.Node, near), Line())


def ask(node: FarNode, protocol: type, name: str, given: dict[str, Any]) -> Any:
    part = node if protocol is base.Node else getattr(node, protocol.__name__.lower())
    answer = getattr(part, name)(**given)
    return asyncio.run(answer) if asyncio.iscoroutine(answer) else answer


@pytest.mark.parametrize(("protocol", "name"), METHODS.values(), ids=METHODS)
@settings(max_examples=10, deadline=None)
@given(data=st.data())
def test_every_method_passes_what_is_asked_and_answered(protocol: type, name: str, data: st.DataObject) -> None:
    near, node = far()
    method = methods(protocol)[name]
    given = data.draw(arguments(method))
    near.answer = data.draw(values(get_type_hints(method)["return"]))
    assert ask(node, protocol, name, given) == near.answer
    assert near.asked == [given]


@pytest.mark.parametrize(("protocol", "name"), METHODS.values(), ids=METHODS)
@settings(max_examples=1, deadline=None)
@given(data=st.data())
def test_every_method_passes_errors_with_their_class(protocol: type, name: str, data: st.DataObject) -> None:
    if protocol is base.Node:
        return  # what a node is known to be is not asked over a wire, and does not fail
    near, node = far()
    given = data.draw(arguments(methods(protocol)[name]))
    near.answer = CannotBeSaved("It holds open what cannot be saved.")
    with pytest.raises(CannotBeSaved, match="It holds open what cannot be saved") as error:
        ask(node, protocol, name, given)
    assert error.value is not near.answer


def test_other_errors_are_noted_and_come_as_errors_of_the_family() -> None:
    near, node = far()
    near.answer = OSError(28, "No space left on device")
    with capture_logs() as logs, pytest.raises(StokerError, match=r"OSError: .*No space left"):
        asyncio.run(node.containers.discard("ta-1"))
    assert [line["event"] for line in logs] == ["a node failed"]


@pytest.mark.parametrize(("protocol", "name"), METHODS.values(), ids=METHODS)
@settings(max_examples=1, deadline=None)
@given(data=st.data())
def test_no_method_passes_what_is_not_plain(protocol: type, name: str, data: st.DataObject) -> None:
    near, node = far()
    method = methods(protocol)[name]
    given = data.draw(arguments(method))
    for argument in given:
        for wrong in (Path("/x"), object(), [Path("/x")], print):
            with pytest.raises(TypeError):
                ask(node, protocol, name, given | {argument: wrong})
    assert near.asked == []
    if get_type_hints(method)["return"] is not type(None):
        near.answer = Path("/x")
        with pytest.raises((TypeError, AttributeError)):
            ask(node, protocol, name, given)


def test_what_is_told_comes_as_other_objects() -> None:
    class Notes:
        def __init__(self) -> None:
            self.told: list[Any] = []
            self.room: asyncio.Future[None] | None = None

        def called(self, task_id: str) -> None:
            self.told.append(events.Called(task_id))

        def output(self, task_id: str, fd: int, text: str) -> asyncio.Future[None] | None:
            self.told.append(events.Output(task_id, fd, text))
            return self.room

        def ended(self, task_id: str, exit: Exit) -> None:
            self.told.append(events.Ended(task_id, exit))

        def layer_compared(self, name: str, wrong: str) -> None:
            self.told.append(events.LayerCompared(name, wrong))

        def build_output(self, image_id: str, text: str) -> None:
            self.told.append(events.BuildOutput(image_id, text))

    async def main() -> None:
        notes, line = Notes(), Line()
        observer: base.Observer = FarObserver(notes, line)
        ended = Exit(ExitKind.OOM, 137, "It used more memory than it may.")
        observer.called("ta-1")
        assert observer.output("ta-1", 1, "a\n") is None
        observer.layer_compared("x-1", "")
        observer.build_output("im-1", "Step 1\n")
        observer.ended("ta-1", ended)
        assert notes.told == [
            events.Called("ta-1"),
            events.Output("ta-1", 1, "a\n"),
            events.LayerCompared("x-1", ""),
            events.BuildOutput("im-1", "Step 1\n"),
            events.Ended("ta-1", ended),
        ]
        assert notes.told[-1].exit is not ended and line.carried["Event"] == 5
        # Who writes too much waits until there is room.
        notes.room = asyncio.get_running_loop().create_future()
        enough = observer.output("ta-1", 1, "b\n")
        assert enough is not None and enough is not notes.room and not enough.done()
        notes.room.set_result(None)
        await enough

    asyncio.run(main())


def test_a_connection_is_the_near_ones() -> None:
    async def main() -> None:
        near, node = far()
        protocol = near.answer = asyncio.Protocol()
        assert await node.ports.connect("ta-1", 80, asyncio.Protocol) is protocol
        near.answer = ConnectionRefusedError("nobody listens")
        with pytest.raises(ConnectionRefusedError):
            await node.ports.connect("ta-1", 80, asyncio.Protocol)

    asyncio.run(main())


def test_what_a_node_keeps_of_a_request_is_its_own() -> None:
    """In one process a request could be changed behind a node's back, or by it."""
    near, node = far()
    env = {"KEY": "value"}
    request = ContainerRequest("ta-1", "im-1", ImageConfig(), "1.6.4", b"", "main", env=env)
    near.answer = NotFound("It is not there.")
    with pytest.raises(NotFound):
        asyncio.run(node.containers.start(request))
    kept = near.asked[0]["request"]
    assert kept == request and kept.env is not env and kept.image is not request.image
