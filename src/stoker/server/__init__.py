"""The composition root: the only package that knows all parts.

server.py      starts them in order, stops them in reverse
services.py    builds the services
events.py      what one service tells another
servicers.py   the wire on top of them
web.py         HTTP on top of them
tls.py         both of these over TLS
sandboxes.py   the runtime and the image builder that the settings ask for
addresses.py   the ports and the addresses in URLs
status.py      what `stoker status` shows
"""

from stoker.server.server import Server

__all__ = ["Server"]
