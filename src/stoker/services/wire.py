"""What the services need of the wire without knowing protobuf; `protocol/` implements it, the composition root hands it over."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from stoker.core.pool import Outcome

if TYPE_CHECKING:
    from stoker.services.functions import Function, FunctionSpec


class Wire(Protocol):
    def parse_definition(self, definition: bytes, binding: bytes) -> FunctionSpec:
        """What a stored definition (with the options of a binding, when there is one) means. Raises InvalidArgument."""
        ...

    def container_arguments(self, function: Function, task_id: str, environment: str) -> bytes:
        """The file a container reads at its start."""
        ...

    def made_result(self, outcome: Outcome, detail: str) -> tuple[bytes, int]:
        """A result for an input that ended without one of its own, and its status number."""
        ...
