"""A server in this process made of the parts that keep state, with the unmodified client and its command line pointed at it."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
from collections.abc import Coroutine, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import pytest
from modal.client import Client

from stoker.gateway.api.app import make_container_gateway, make_gateway
from stoker.gateway.api.tokens import TokenRoutes, page_path
from stoker.gateway.transfer import Transfer
from stoker.gateway.web.serve import HttpServer
from stoker.protocol.blobs import BlobServicer
from stoker.protocol.dicts import DictServicer
from stoker.protocol.environments import EnvironmentServicer
from stoker.protocol.mounts import MountServicer
from stoker.protocol.network_files import NetworkFileServicer
from stoker.protocol.queues import QueueServicer
from stoker.protocol.secrets import SecretServicer
from stoker.protocol.tokens import TokenServicer
from stoker.protocol.volumes import VolumeServicer
from stoker.rpc.methods import methods_of
from stoker.rpc.transport import Transport
from stoker.services.access.keys import load_or_create_key
from stoker.services.access.proxy_tokens import ProxyTokens
from stoker.services.access.token_flows import TokenFlows
from stoker.services.access.tokens import Tokens
from stoker.services.environments.environments import Environments
from stoker.services.files.blobs import Blobs
from stoker.services.files.mounts import Mounts
from stoker.services.files.network_files import NetworkFiles
from stoker.services.files.transfer import TransferUrls, UrlSigner
from stoker.services.files.volume_files import VolumeFiles
from stoker.services.files.volumes import Volumes
from stoker.services.state.dicts import Dicts
from stoker.services.state.queues import Queues
from stoker.services.state.secrets import Secrets
from stoker.store.blobs import BlobStore
from stoker.store.contents import Contents
from stoker.store.database import Database

T = TypeVar("T")


@dataclass
class StateServer:
    """The parts; `run` runs a coroutine in the server's own event loop."""

    data: Path
    loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.new_event_loop)
    token: tuple[str, str] = ("", "")
    port: int = 0
    http_port: int = 0
    container_port: int = 0

    def run(self, work: Coroutine[Any, Any, T], timeout: float = 60) -> T:
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(timeout)

    async def start(self) -> None:
        data = self.data
        self.database = Database.open(f"sqlite:///{data / 'stoker.db'}")
        self.environments = Environments(database=self.database, default="main")
        await self.environments.load()
        self.tokens = Tokens(self.database)
        self.token = await self.tokens.create("test")
        self.signer = UrlSigner(load_or_create_key(data / "signing.key"))
        self.blobs = Blobs(database=self.database, store=BlobStore.local(data / "blobs"))
        contents = Contents(data / "files")
        self.mounts = Mounts(database=self.database, contents=contents, blobs=self.blobs, directory=data / "mounts")
        self.volumes = Volumes(database=self.database, environments=self.environments, directory=data / "volumes")
        self.files = VolumeFiles(volumes=self.volumes, contents=contents)
        self.network_files = NetworkFiles(
            database=self.database,
            environments=self.environments,
            volumes=self.volumes,
            blobs=self.blobs,
            directory=data / "volumes",
        )
        key = load_or_create_key(data / "secret.key")
        self.secrets = Secrets(database=self.database, environments=self.environments, key=key)
        self.dicts = Dicts(database=self.database, environments=self.environments)
        self.queues = Queues(database=self.database, environments=self.environments)
        self.proxy_tokens = ProxyTokens(database=self.database, environments=self.environments)
        self.flows = TokenFlows(self.tokens)

        transfer = Transfer(blobs=self.blobs, files=self.files, network_files=self.network_files, signer=self.signer)
        token_routes = TokenRoutes(tokens=self.tokens, flows=self.flows)
        self.http = HttpServer(
            make_gateway(
                transfer=transfer,
                status=self.status,
                authenticate=self.tokens.authenticate,
                metrics=bytes,
                administration=token_routes.administration(),
                open_routes=token_routes.pages(),
            )
        )
        self.http_port = await self.http.start(["127.0.0.1"], 0)
        self.container_http = HttpServer(make_container_gateway(transfer=transfer))
        self.container_port = await self.container_http.start(["127.0.0.1", "127.0.0.2"], 0)
        self.urls = TransferUrls(
            signer=self.signer,
            client_host="127.0.0.1",
            client_port=self.http_port,
            container_base=f"http://127.0.0.2:{self.container_port}",
        )
        servicers = [
            BlobServicer(blobs=self.blobs, network_files=self.network_files, urls=self.urls),
            NetworkFileServicer(files=self.network_files, environments=self.environments),
            DictServicer(dicts=self.dicts, environments=self.environments, user="local"),
            EnvironmentServicer(environments=self.environments),
            MountServicer(mounts=self.mounts),
            QueueServicer(queues=self.queues, environments=self.environments, user="local"),
            TokenServicer(
                workspace="local",
                tokens=self.tokens,
                flows=self.flows,
                proxy_tokens=self.proxy_tokens,
                environments=self.environments,
                page_url=lambda page: self.http_url + page_path(page),
            ),
            SecretServicer(secrets=self.secrets, environments=self.environments, user="local"),
            VolumeServicer(
                volumes=self.volumes,
                files=self.files,
                environments=self.environments,
                urls=self.urls,
                open_files=no_open_files,
                user="local",
            ),
        ]
        self.transport = Transport(methods_of(servicers), self.tokens)
        self.port = await self.transport.listen("127.0.0.1", self.port)

    async def stop(self) -> None:
        await self.transport.close()
        await self.http.stop(0)
        await self.container_http.stop(0)
        await self.database.close()

    async def status(self) -> dict[str, Any]:
        return {"answer": 42}

    @property
    def http_url(self) -> str:
        return f"http://127.0.0.1:{self.http_port}"

    @property
    def env(self) -> dict[str, str]:
        clean = {k: v for k, v in os.environ.items() if not k.startswith("MODAL_")}
        return clean | {
            "MODAL_SERVER_URL": f"http://127.0.0.1:{self.port}",
            "MODAL_TOKEN_ID": self.token[0],
            "MODAL_TOKEN_SECRET": self.token[1],
            "MODAL_CONFIG_PATH": str(self.data / "no-modal.toml"),
            "COLUMNS": "200",
        }

    def modal(self, *arguments: str, check: bool = True, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
        """Runs the official command line."""
        command = [sys.executable, "-m", "modal", *arguments]
        done = subprocess.run(command, env=self.env, capture_output=True, text=True, timeout=60, cwd=cwd or self.data)
        if check and done.returncode:
            pytest.fail(f"{' '.join(arguments)} ended with {done.returncode}\n{done.stdout}\n{done.stderr}")
        return done


async def no_open_files(task_id: str, volume_id: str) -> list[str]:
    return []


@pytest.fixture(scope="session")
def state(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StateServer]:
    server = StateServer(tmp_path_factory.mktemp("state"))
    thread = threading.Thread(target=server.loop.run_forever, daemon=True)
    thread.start()
    server.run(server.start())
    yield server
    server.run(server.stop())
    server.loop.call_soon_threadsafe(server.loop.stop)
    thread.join(10)


@pytest.fixture(scope="session")
def client(state: StateServer) -> Iterator[Client]:
    """The official client as a library."""
    os.environ["MODAL_SERVER_URL"] = f"http://127.0.0.1:{state.port}"
    from modal.config import config

    config.override_locally("server_url", f"http://127.0.0.1:{state.port}")
    with Client.from_credentials(*state.token) as client:
        yield client
    del os.environ["MODAL_SERVER_URL"]
