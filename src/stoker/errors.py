"""The one family of errors that the parts of Stoker raise.

`protocol/` maps each class to a gRPC status and `gateway/` to an HTTP status; nothing else does. A message says what was wrong, where, and
what to do next, because the client shows it to the user word for word.
"""

from __future__ import annotations


class StokerError(Exception):
    """Base of all errors a user may see."""


class NotFound(StokerError):
    """The named thing does not exist."""


class NameIsClass(NotFound):
    """A function was looked up by the name of a class; the client then suggests the right lookup."""


class AlreadyExists(StokerError):
    """The name is taken."""


class InvalidArgument(StokerError):
    """The request can never succeed as written."""


class FailedPrecondition(StokerError):
    """The request is well formed but the state of the system forbids it; the caller must change something first."""


class CannotBeSaved(FailedPrecondition):
    """A container holds open what no memory snapshot can have; another one of the same code would, too."""


class Unauthenticated(StokerError):
    """No token, or a token that is not known."""


class TooManyAttempts(Unauthenticated):
    """Wrong tokens came from the caller's address so often that none is looked at for `retry_after` seconds."""

    def __init__(self, message: str, retry_after: float) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class PermissionDenied(StokerError):
    """A known caller asks for what it may not have."""


class ResourceExhausted(StokerError):
    """A limit is reached; the caller may try again after `retry_after` seconds. 0 leaves the choice to the caller, who then sees the error."""

    def __init__(self, message: str, retry_after: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class Unavailable(StokerError):
    """A part is stopping or not up yet; trying again soon is right."""


class Damaged(StokerError):
    """What was stored is gone or changed, by the disk or behind the server's back. A repeat finds the same."""


class Unimplemented(StokerError):
    """The feature does not exist in this server."""


class ImageBuildFailed(StokerError):
    """A build step failed; the message ends with the step's own output."""
