"""A container registry of one image: what a pull needs of the protocol, served from an OCI layout."""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def serving(layout: Path, user: str = "") -> Iterator[tuple[str, list[str]]]:
    """("127.0.0.1:port", paths asked for). With `user` ("name:password" in base64) everything else is refused."""
    asked: list[str] = []
    manifest = json.loads((layout / "index.json").read_text())["manifests"][0]

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            if user and self.headers.get("Authorization") != f"Basic {user}":
                self.send_response(401)
                self.send_header("WWW-Authenticate", 'Basic realm="test"')
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            parts = self.path.strip("/").split("/")
            if parts == ["v2"]:
                self._send(b"{}", "application/json")
            elif parts[-2] == "manifests":
                self._send(self._blob(manifest["digest"]), manifest["mediaType"])
            else:
                self._send(self._blob(parts[-1]), "application/octet-stream")

        def _blob(self, digest: str) -> bytes:
            return (layout / "blobs" / "sha256" / digest.partition(":")[2]).read_bytes()

        def _send(self, data: bytes, kind: str) -> None:
            self.send_response(200)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *args: object) -> None:
            """Quiet."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
