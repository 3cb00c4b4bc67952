"""The one place where domain errors become gRPC statuses.

INTERNAL and UNKNOWN are never used for a permanent error: the client repeats those.
"""

from __future__ import annotations

import base64
import enum
from dataclasses import dataclass
from urllib.parse import quote

from google.protobuf.message import Message
from modal_proto import api_pb2

from stoker import errors


class Status(enum.IntEnum):
    """The status codes of gRPC that this server uses."""

    OK = 0
    INVALID_ARGUMENT = 3
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    UNIMPLEMENTED = 12
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16


_MOST_TEXT = 6000  # bytes of a message when quoted: with its copy in the details it must fit one frame, of which a client takes 16 KiB
_CUT = " [...] "

_STATUS: dict[type[errors.StokerError], Status] = {
    errors.NotFound: Status.NOT_FOUND,
    errors.AlreadyExists: Status.ALREADY_EXISTS,
    errors.InvalidArgument: Status.INVALID_ARGUMENT,
    errors.FailedPrecondition: Status.FAILED_PRECONDITION,
    errors.ImageBuildFailed: Status.FAILED_PRECONDITION,
    errors.Unauthenticated: Status.UNAUTHENTICATED,
    errors.PermissionDenied: Status.PERMISSION_DENIED,
    errors.ResourceExhausted: Status.RESOURCE_EXHAUSTED,
    errors.Unavailable: Status.UNAVAILABLE,
    errors.Damaged: Status.DATA_LOSS,
    errors.Unimplemented: Status.UNIMPLEMENTED,
}


@dataclass(frozen=True)
class WireStatus:
    """What goes on the wire: `details` is a serialised RPCStatus for the trailer `grpc-status-details-bin`, or empty."""

    code: Status
    message: str = ""
    details: bytes = b""

    def trailers(self) -> list[tuple[str, str]]:
        fields = [("grpc-status", str(int(self.code)))]
        if self.message:
            fields.append(("grpc-message", _quoted(_fitting(self.message))))
        if self.details:
            fields.append(("grpc-status-details-bin", base64.b64encode(self.details).decode().rstrip("=")))
        return fields


def wire_status(error: errors.StokerError) -> WireStatus:
    """The status for a domain error, with the retry hint the client understands where there is one."""
    code = next((_STATUS[cls] for cls in type(error).__mro__ if cls in _STATUS), Status.FAILED_PRECONDITION)
    message = _fitting(str(error))
    if isinstance(error, errors.ResourceExhausted) and error.retry_after > 0:
        hint = api_pb2.RPCRetryPolicy(retry_after_secs=error.retry_after)
        return WireStatus(code, message, _details(code, message, hint))
    if isinstance(error, errors.NameIsClass):
        reason = api_pb2.FunctionLookupError.REASON_CLASS_NAME_USED
        return WireStatus(code, message, _details(code, message, api_pb2.FunctionLookupError(reason=reason)))
    return WireStatus(code, message)


def _fitting(text: str) -> str:
    """The text, with what goes on no wire replaced (half of a surrogate pair, as in names of files), and without its middle when too long."""
    if len(text) > _MOST_TEXT:  # however long it is, the work is not
        text = text[: _MOST_TEXT // 2] + _CUT + text[-_MOST_TEXT // 2 :]
    text = text.encode("utf-8", "replace").decode()
    shown, half = text, (_MOST_TEXT - len(_CUT)) // 2
    while len(_quoted(shown)) > _MOST_TEXT:
        shown, half = text[:half] + _CUT + text[-half:], half // 2
    return shown


def _quoted(text: str) -> str:
    return quote(text, safe=" !#$&'()*+,/:;=?@[]<>{}|^`~\"")


def _details(code: Status, message: str, detail: Message) -> bytes:
    status = api_pb2.RPCStatus(code=int(code), message=message)
    status.details.add().Pack(detail)
    encoded: bytes = status.SerializeToString()
    return encoded
