"""`python -m stoker.testing.serve`: a server that asks its machine as if it were far away, in place of `stoker up`. Its settings come from STOKER_*.

It says one line when it is ready. When it has ended it says how many messages of each kind went between the services and the machine, as JSON."""

from __future__ import annotations

import json

from stoker.agent.node import LocalNode
from stoker.cli.log import configure_logging
from stoker.cli.serve import serve
from stoker.config import Settings
from stoker.nodes.base import Node
from stoker.server.services import Services
from stoker.testing.far_node import FarNode, Line


def main() -> None:
    settings, line = Settings.load(), Line()

    class FarServices(Services):
        def reach(self, machine: LocalNode) -> Node:
            return FarNode(machine, line)

    configure_logging(settings)
    serve(settings, lambda server: print(server.url, flush=True), services=FarServices)
    print(json.dumps(line.carried), flush=True)


if __name__ == "__main__":
    main()
