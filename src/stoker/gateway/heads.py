"""Heads of HTTP/1.1 messages: which headers concern the next one in line, and which only this connection."""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterable

import httptools

HeaderList = list[tuple[bytes, bytes]]

HOP_BY_HOP = frozenset(
    b"connection keep-alive proxy-authenticate proxy-authorization proxy-connection te trailer transfer-encoding upgrade".split()
)
ANSWERED_HERE = frozenset((b"expect", b"modal-secret", b"modal-key", b"modal-authorization"))
REQUEST_ID = b"x-request-id"
_ORIGIN = frozenset((b"x-forwarded-proto", b"x-forwarded-prefix"))
_THIS_MACHINE = ("127.", "::1")
_NOT_FORWARDED = HOP_BY_HOP | ANSWERED_HERE
_NOT_FOR_CONNECTION = frozenset((b"keep-alive", b"close", b"upgrade", b"content-length", b"host"))
_VALID_ID = re.compile(rb"^[A-Za-z0-9_.:\-]{1,128}$")


def request_id(given: bytes) -> bytes:
    """The id that the client gave, or a new one."""
    return given if given and _VALID_ID.match(given) else secrets.token_hex(8).encode()


def forwarded(headers: HeaderList) -> HeaderList:
    """What of a request's headers concerns the endpoint. Names are in lower case.

    Length and host stay whatever the client says: without its length a body would be read as another request."""
    dropped = _NOT_FORWARDED
    for name, value in headers:
        if name == b"connection":
            named = {token.strip().lower() for token in value.split(b",")} - _NOT_FOR_CONNECTION
            dropped = dropped | named if named else dropped
    return [header for header in headers if header[0] not in dropped]


def with_origin(headers: HeaderList, peer: str, scheme: str) -> HeaderList:
    """The headers, and where the request came from. What a proxy on this machine says of that holds; others could say anything."""
    if peer and not peer.startswith(_THIS_MACHINE):
        headers = [header for header in headers if header[0] not in _ORIGIN]
    origin = [(b"x-forwarded-for", peer.encode())] if peer else []
    if not any(name == b"x-forwarded-proto" for name, _ in headers):
        origin.append((b"x-forwarded-proto", scheme.encode()))
    return headers + origin


def asking_for(peer: str, forwarded_for: bytes) -> str:
    """The address of the client. What a proxy on this machine says of that holds, as with other requests; others could say anything."""
    if not forwarded_for or not peer.startswith(_THIS_MACHINE):
        return peer
    return forwarded_for.rpartition(b",")[2].strip().decode("latin-1") or peer


def written(first_line: bytes, headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """A whole head. first_line: without its end."""
    parts = [first_line]
    parts += [name + b": " + value for name, value in headers]
    parts.append(b"\r\n")
    return b"\r\n".join(parts)


def own_answer(
    status: int, phrase: str, text: str, headers: HeaderList, *, close: bool, bodiless: bool = False
) -> bytes:
    """A whole answer of ours. bodiless: only its head, as HEAD wants it."""
    body = text.encode()
    last = [(b"connection", b"close")] if close else []
    head = [(b"content-length", b"%d" % len(body)), *headers, *last]
    written_head = written(f"HTTP/1.1 {status} {phrase}".encode(), head)
    return written_head if bodiless else written_head + body


def path_of(url: bytes) -> bytes:
    """Path and query of the target of a request, as they are."""
    if url.startswith((b"/", b"*")):
        return url.partition(b"#")[0]
    try:
        parsed = httptools.parse_url(url)
    except httptools.HttpParserInvalidURLError:
        return b"/"
    path = parsed.path or b"/"
    return path + b"?" + parsed.query if parsed.query else path
