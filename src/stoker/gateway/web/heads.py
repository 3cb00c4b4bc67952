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
_NAMED_BY_US = frozenset((b"host", REQUEST_ID))
_VALID_ID = re.compile(rb"^[A-Za-z0-9_.:\-]{1,128}$")
_HOST = re.compile(rb"[A-Za-z0-9._~%!$&'()*+,;=:\[\]-]*")
_ABSOLUTE = re.compile(rb"(?i)https?://([^/?#]*)")
_NAME = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_VALUE = re.compile(rb"[\t\x20-\x7e\x80-\xff]*")


def host_of(version: str, url: bytes, headers: HeaderList) -> bytes | None:
    """The host that a request is for; None when it does not say so in the one way it may (RFC 9112, 3.2)."""
    hosts = [value for name, value in headers if name == b"host"]
    host = hosts[0] if hosts else b""
    if len(hosts) > 1 or (not hosts and version != "1.0") or not _HOST.fullmatch(host):
        return None
    if url.startswith((b"/", b"*")):
        return host
    absolute = _ABSOLUTE.match(url)
    named = absolute[1] if absolute else url  # CONNECT has nothing else
    return named if _HOST.fullmatch(named) else None


def is_framed_plainly(version: str, headers: HeaderList) -> bool:
    """Whether everybody who reads a request with these headers finds its end at the same place."""
    codings = [value.lower() for name, value in headers if name == b"transfer-encoding"]
    return not codings or (version == "1.1" and codings == [b"chunked"])


def are_valid(headers: HeaderList) -> bool:
    """Whether these headers can be written into a head, and nothing else with them."""
    return all(_NAME.fullmatch(name) and _VALUE.fullmatch(value) for name, value in headers)


def request_id(given: bytes) -> bytes:
    """The id that the client gave, or a new one."""
    return given if given and _VALID_ID.match(given) else secrets.token_hex(8).encode()


def forwarded(headers: HeaderList) -> HeaderList:
    """What of a request's headers concerns the endpoint. Names are in lower case.

    Length and host stay whatever the client says: without its length a body would be read as another request."""
    return [(name, value) for name, value in _without(headers, _NOT_FORWARDED) if b"_" not in name or not _poses(name)]


def _poses(name: bytes) -> bool:
    """Whether a header's name would be another one's to programs that take - and _ for the same, as CGI and WSGI do."""
    dashed = name.replace(b"_", b"-")
    return dashed.startswith((b"x-forwarded-", b"content-")) or dashed in _NOT_FORWARDED or dashed in _NAMED_BY_US


def answered(headers: HeaderList) -> HeaderList:
    """What of an answer's headers concerns the client. Names are in lower case."""
    return _without(headers, HOP_BY_HOP)


def _without(headers: HeaderList, dropped: frozenset[bytes]) -> HeaderList:
    """The headers but for some, and those that the connection names as its own."""
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
