"""What the services need of the wire without knowing protobuf; `protocol/` implements it, the composition root hands it over."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any, Protocol

from stoker.core.actions import Outcome

if TYPE_CHECKING:
    from stoker.services.functions.spec import Function, FunctionSpec

AsgiMessage = dict[str, Any]
"""A scope or a message of the ASGI specification."""


class Wire(Protocol):
    """Reads and writes the client's messages for the services. Implemented by `protocol/wire.py`."""

    def parse_definition(self, definition: bytes, binding: bytes) -> FunctionSpec:
        """What a stored definition (with the options of a binding, when there is one) means. Raises InvalidArgument."""
        ...

    def container_arguments(
        self,
        function: Function,
        task_id: str,
        environment: str,
        checkpoint_id: str = "",
        *,
        gpu_snapshot: bool = False,
    ) -> bytes:
        """The file a container reads at its start, equal for equal arguments. checkpoint_id: of the memory snapshot that it becomes or
        comes from. gpu_snapshot: whether the memory of its GPUs is part of that."""
        ...

    def scheduled_input(self) -> tuple[bytes, int]:
        """The input of a run that nobody called: without arguments; and its kind of invocation."""
        ...

    def made_result(self, outcome: Outcome, detail: str) -> tuple[bytes, int]:
        """A result for an input that ended without one of its own, and its status number."""
        ...


class WebWire(Protocol):
    """Web requests as containers read and answer them."""

    def web_input(self, scope: AsgiMessage, method: str) -> bytes:
        """The input of a web request. method: of the class that answers it, "" for a function."""
        ...

    def to_container(self, message: AsgiMessage) -> bytes: ...

    def from_container(self, chunk: bytes) -> AsyncIterator[AsgiMessage]:
        """The messages in one chunk of what a container sent."""
        ...

    def ending(self, result: bytes) -> tuple[str, str]:
        """How a call ended: "success", "failure", "timeout", "cancelled" or "init_failed", and the words for it."""
        ...
