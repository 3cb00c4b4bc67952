"""Where answers of apps below a prefix lead."""

from __future__ import annotations

import asyncio

import pytest

from stoker.gateway.web.relocation import relocated
from tests.web.test_connections import gate, run
from tests.web.test_refusals import _start, _web

PREFIX = b"/w/local--app-f"


@pytest.mark.parametrize(
    "name, value, seen",
    [
        (b"location", b"/x", PREFIX + b"/x"),
        (b"location", b"/", PREFIX + b"/"),
        (b"location", b"/?q=1#f", PREFIX + b"/?q=1#f"),
        (b"location", b"/x?next=/y", PREFIX + b"/x?next=/y"),
        (b"location", b"/w/x", PREFIX + b"/w/x"),
        (b"location", PREFIX, PREFIX),
        (b"location", PREFIX + b"/x", PREFIX + b"/x"),  # the app knows where it is
        (b"location", PREFIX + b"-other/x", PREFIX + b"-other/x"),  # another endpoint
        (b"location", b"/w/other--app-g/x", b"/w/other--app-g/x"),
        (b"location", b"x", b"x"),
        (b"location", b"?q", b"?q"),
        (b"location", b"#f", b"#f"),
        (b"location", b"", b""),
        (b"location", b"../../x", PREFIX + b"/x"),  # above the root of the app, which is no further than its root
        (b"location", b"../c", PREFIX + b"/c"),
        (b"location", b"http://h:1/x", b"http://h:1" + PREFIX + b"/x"),
        (b"location", b"https://H:1/x", b"https://H:1" + PREFIX + b"/x"),
        (b"location", b"http://h:1", b"http://h:1" + PREFIX + b"/"),
        (b"location", b"//h:1/x", b"//h:1" + PREFIX + b"/x"),
        (b"location", b"http://h:1" + PREFIX + b"/x", b"http://h:1" + PREFIX + b"/x"),
        (b"location", b"http://h:2/x", b"http://h:2/x"),
        (b"location", b"http://elsewhere/x", b"http://elsewhere/x"),
        (b"location", b"//elsewhere/x", b"//elsewhere/x"),
        (b"location", b"mailto:a@b", b"mailto:a@b"),
        (b"content-location", b"/x", PREFIX + b"/x"),
        (b"refresh", b"5; url=/x", b"5; url=" + PREFIX + b"/x"),
        (b"refresh", b"0;URL='/x'", b"0;URL='" + PREFIX + b"/x'"),
        (b"refresh", b"5", b"5"),
        (b"refresh", b"5; url=http://elsewhere/", b"5; url=http://elsewhere/"),
        (
            b"link",
            b'</a.css>; rel=preload, <http://e/x>; rel="next"',
            b"<" + PREFIX + b'/a.css>; rel=preload, <http://e/x>; rel="next"',
        ),
        (b"set-cookie", b"a=b; Path=/; HttpOnly", b"a=b; Path=" + PREFIX + b"; HttpOnly"),
        (b"set-cookie", b"a=b;path=/x", b"a=b; Path=" + PREFIX + b"/x"),
        (b"set-cookie", b"a=b; Path=/x; Path=/y", b"a=b; Path=/x; Path=" + PREFIX + b"/y"),
        (b"set-cookie", b"a=b; Path=" + PREFIX, b"a=b; Path=" + PREFIX),
        (b"set-cookie", b"path=/; Secure", b"path=/; Secure"),  # a cookie of this name
        (b"set-cookie", b"a=b", b"a=b"),
        (b"set-cookie", b"__Host-a=b; Secure; Path=/", b"__Host-a=b; Secure; Path=/"),
        (b"x-other", b"/x", b"/x"),
    ],
)
def test_paths_of_an_app_get_its_prefix(name: bytes, value: bytes, seen: bytes) -> None:
    assert relocated([(name, value)], PREFIX, PREFIX + b"/a/b?q", b"h:1") == [(name, seen)]
    assert relocated([(name, value)], b"", b"/a/b?q", b"h:1") == [(name, value)]


def test_a_cookie_without_a_path_stays_with_its_app() -> None:
    assert relocated([(b"set-cookie", b"a=b")], PREFIX, PREFIX, b"h") == [(b"set-cookie", b"a=b; Path=" + PREFIX)]


def test_a_redirect_leads_to_the_same_app_for_functions_and_servers() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 302 Found\r\nLocation: /x\r\nSet-Cookie: a=b; Path=/\r\ncontent-length: 0\r\n\r\n")
        writer.close()

    async def main() -> None:
        start = _start((b"location", b"/x"), (b"set-cookie", b"a=b; Path=/"), (b"content-length", b"0"), status=302)
        gateway, _ = _web(start, {"type": "http.response.body"})
        async with gate(gateway, serve) as made:
            for prefix in (b"/w/l--f", b"/s"):
                answer = await made.talk(b"GET %b/a HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n" % prefix)
                assert b"location: %b/x\r\n" % prefix in answer
                assert b"set-cookie: a=b; Path=%b\r\n" % prefix in answer

    run(main)


def test_a_websocket_sets_its_cookies_for_its_app() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSet-Cookie: a=b; Path=/\r\n\r\n"
        )
        writer.close()

    async def main() -> None:
        async with gate(handler=serve) as made:
            answer = await made.talk(
                b"GET /s/a HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
                b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
            )
            assert b"set-cookie: a=b; Path=/s\r\n" in answer

    run(main)
