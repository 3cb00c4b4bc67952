"""Paths in answers of apps that are reached below a prefix (/w/<label>) and say where to go as if they had the host for themselves.

As reverse proxies do it (`proxy_redirect` and `proxy_cookie_path`, ProxyPassReverse): what leads to the app's own host gets the prefix; what
has it already, and what leads elsewhere, stays as it is. Cookies of one app are thereby not sent to the others of the host.
"""

from __future__ import annotations

import re
from urllib.parse import urljoin

from stoker.gateway.web.heads import HeaderList

_WHERE = frozenset((b"location", b"content-location"))
_MOVED = _WHERE | {b"refresh", b"set-cookie", b"link"}
_ABSOLUTE = re.compile(rb"(?i)((?:https?:)?//)([^/?#]*)(.*)", re.DOTALL)
_LABEL = re.compile(rb"/w/[a-z0-9-]*--[a-z0-9-]+(?=[/?#]|$)")  # another endpoint of this server
_REFRESH = re.compile(rb"(?i)(\s*[\d.]+\s*[;,]\s*(?:url\s*=\s*)?)(['\"]?)([^'\"]*)(.*)", re.DOTALL)
_BASE = "http://app"  # for `urljoin`, which leaves dots above the root where there is no host
_LINK = re.compile(rb"<([^<>]*)>")


def relocated(headers: HeaderList, prefix: bytes, path: bytes, host: bytes) -> HeaderList:
    """The headers (names in lower case) of an answer as the client must see them. path: of the request, with the prefix. host: as the client
    named it."""
    if not prefix:
        return headers
    place = _Place(prefix, path.partition(b"?")[0], host.lower())
    return [(name, place.header(name, value)) if name in _MOVED else (name, value) for name, value in headers]


class _Place:
    def __init__(self, prefix: bytes, path: bytes, host: bytes) -> None:
        self._prefix = prefix
        self._path = path
        self._host = host

    def header(self, name: bytes, value: bytes) -> bytes:
        if name in _WHERE:
            return self._url(value)
        if name == b"link":
            return _LINK.sub(lambda match: b"<" + self._url(match[1]) + b">", value)
        if name == b"set-cookie":
            return self._cookie(value)
        match = _REFRESH.match(value)
        return match[1] + match[2] + self._url(match[3]) + match[2] + match[4].lstrip(b"'\"") if match else value

    def _url(self, url: bytes) -> bytes:
        absolute = _ABSOLUTE.fullmatch(url)
        if absolute:
            scheme, host, rest = absolute.groups()
            if host.lower() != self._host:
                return url
            return scheme + host + self._below(rest if rest.startswith(b"/") else b"/" + rest)
        if url.startswith(b".."):  # may lead above the app's root, where the client would leave the prefix
            seen = self._path[len(self._prefix) :] or b"/"
            joined = urljoin(_BASE + seen.decode("latin-1"), url.decode("latin-1"))
            url = joined.encode("latin-1")[len(_BASE) :]
        return self._below(url) if url.startswith(b"/") else url

    def _below(self, path: bytes) -> bytes:
        """An absolute path with the prefix."""
        rest = path[len(self._prefix) :]
        if path.startswith(self._prefix) and rest[:1] in (b"", b"/", b"?", b"#"):
            return path
        return path if _LABEL.match(path) else self._prefix + path

    def _cookie(self, value: bytes) -> bytes:
        if value.lstrip()[:7].lower() == b"__host-":
            return value  # browsers take it with the path / only
        parts = value.split(b";")
        places = [i for i, part in enumerate(parts) if i and part.partition(b"=")[0].strip().lower() == b"path"]
        if places:
            given = parts[places[-1]].partition(b"=")[2].strip()  # the last one counts
            if given.startswith(b"/"):
                below = self._below(given)
                parts[places[-1]] = b" Path=" + (self._prefix if below == self._prefix + b"/" else below)
        elif self._path == self._prefix:  # whose directory would be that of all apps
            parts.append(b" Path=" + self._prefix)
        return b";".join(parts)
