"""The server's command line, started by `comfy launch` as `python main.py --port N`."""

from __future__ import annotations

import argparse
import asyncio
import sqlite3
from pathlib import Path

from aiohttp import web
from comfy.prompts import Prompts
from comfy_api.server import Server

WORKSPACE = Path(__file__).resolve().parent


async def serve(listen: str, port: int) -> None:
    for name in ("input", "output", "temp", "user"):
        (WORKSPACE / name).mkdir(exist_ok=True)
    database = sqlite3.connect(WORKSPACE / "user" / "comfyui.db")
    database.execute("create table if not exists prompts (id text primary key, status text)")
    server = Server(WORKSPACE)
    prompts = Prompts(WORKSPACE, server.send, database)
    runner = web.AppRunner(server.application(prompts), access_log=None)
    await runner.setup()
    await web.TCPSite(runner, listen, port).start()
    print(f"Starting server\n\nTo see the GUI go to: http://{listen}:{port}", flush=True)
    await prompts.run()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--listen", nargs="?", const="0.0.0.0", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8188)
    parser.add_argument("--cpu", action="store_true", help="accepted; nothing here would use a GPU")
    options, ignored = parser.parse_known_args()
    if ignored:
        print(f"ignored: {' '.join(ignored)}", flush=True)
    asyncio.run(serve(options.listen, options.port))


if __name__ == "__main__":
    main()
