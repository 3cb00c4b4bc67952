"""The one place where domain errors become gRPC statuses.

INTERNAL and UNKNOWN are never used for a permanent error: the client repeats those.
"""

from __future__ import annotations

from dataclasses import dataclass

import grpc
from google.protobuf.message import Message
from modal_proto import api_pb2

from stoker import errors

_STATUS: dict[type[errors.StokerError], grpc.StatusCode] = {
    errors.NotFound: grpc.StatusCode.NOT_FOUND,
    errors.AlreadyExists: grpc.StatusCode.ALREADY_EXISTS,
    errors.InvalidArgument: grpc.StatusCode.INVALID_ARGUMENT,
    errors.FailedPrecondition: grpc.StatusCode.FAILED_PRECONDITION,
    errors.ImageBuildFailed: grpc.StatusCode.FAILED_PRECONDITION,
    errors.Unauthenticated: grpc.StatusCode.UNAUTHENTICATED,
    errors.PermissionDenied: grpc.StatusCode.PERMISSION_DENIED,
    errors.ResourceExhausted: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.Unavailable: grpc.StatusCode.UNAVAILABLE,
    errors.Unimplemented: grpc.StatusCode.UNIMPLEMENTED,
}


@dataclass(frozen=True)
class WireStatus:
    """What goes on the wire: `details` is a serialised RPCStatus for the trailer `grpc-status-details-bin`, or empty."""

    code: grpc.StatusCode
    message: str
    details: bytes = b""


def wire_status(error: errors.StokerError) -> WireStatus:
    """The status for a domain error, with the retry hint the client understands where there is one."""
    code = next((_STATUS[cls] for cls in type(error).__mro__ if cls in _STATUS), grpc.StatusCode.FAILED_PRECONDITION)
    message = str(error)
    if isinstance(error, errors.ResourceExhausted):
        return WireStatus(
            code, message, _details(code, message, api_pb2.RPCRetryPolicy(retry_after_secs=error.retry_after))
        )
    if isinstance(error, errors.NameIsClass):
        reason = api_pb2.FunctionLookupError.REASON_CLASS_NAME_USED
        return WireStatus(code, message, _details(code, message, api_pb2.FunctionLookupError(reason=reason)))
    return WireStatus(code, message)


def _details(code: grpc.StatusCode, message: str, detail: Message) -> bytes:
    status = api_pb2.RPCStatus(code=code.value[0], message=message)
    status.details.add().Pack(detail)
    encoded: bytes = status.SerializeToString()
    return encoded
