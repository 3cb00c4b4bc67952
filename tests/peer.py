"""Another machine, so to speak: a network namespace with a server for HTTP (keep-alive), TCP and UDP that containers reach."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

PORT = 8080
_SERVER = """
import http.server, sys
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        body = f"hello {self.client_address[1]}".encode()
        self.send_response(200); self.send_header("content-length", str(len(body))); self.end_headers(); self.wfile.write(body)
    def log_message(self, *_): pass
class Server(http.server.ThreadingHTTPServer):
    def handle_error(self, *_): pass
server = Server(("0.0.0.0", int(sys.argv[1])), Handler)
print("up", flush=True)
server.serve_forever()
"""


@contextmanager
def peer() -> Iterator[str]:
    """Its address. It answers GET at `PORT` with "hello <the port of the caller>", over connections that stay open."""
    name = f"stoker-peer-{os.getpid()}"
    link, host, address = f"skp-{os.getpid()}", *_free_pair()
    _ip(
        f"netns add {name}\nlink add {link} type veth peer name far netns {name}\naddr add {host}/30 dev {link}\n"
        f"link set {link} up\n"
    )
    _ip(f"link set lo up\naddr add {address}/30 dev far\nlink set far up\nroute add default via {host}\n", "-n", name)
    command = ["ip", "netns", "exec", name, sys.executable, "-c", _SERVER, str(PORT)]
    try:
        with subprocess.Popen(command, stdout=subprocess.PIPE) as server:
            assert server.stdout is not None and server.stdout.readline() == b"up\n"
            try:
                yield address
            finally:
                server.kill()
    finally:
        subprocess.run(["ip", "link", "delete", link], check=True)
        subprocess.run(["ip", "netns", "delete", name], check=True)


def _ip(batch: str, *options: str) -> None:
    subprocess.run(["ip", *options, "-batch", "-"], input=batch, text=True, check=True)


def _free_pair() -> tuple[str, str]:
    """Two addresses of a network for documentation that nothing else here uses."""
    routes = subprocess.run(["ip", "route"], capture_output=True, text=True, check=True).stdout
    for n in range(os.getpid() % 32 * 4 + 64, 256, 4):
        if f"203.0.113.{n}/30" not in routes:
            return f"203.0.113.{n + 1}", f"203.0.113.{n + 2}"
    raise AssertionError("no free network")
