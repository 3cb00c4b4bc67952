"""Which URLs a web endpoint has, and which domains of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from stoker.errors import InvalidArgument
from stoker.services.apps.apps import DEPLOYED
from stoker.services.apps.endpoints import Endpoints, is_local
from stoker.services.environments.environments import Environments
from stoker.services.functions.spec import ServerSpec, WebSpec
from stoker.store.database import Database
from tests.services.world import World

pytestmark = pytest.mark.anyio

NOTHING: Any = None


def test_a_domain_may_not_be_what_the_server_makes_of_a_label() -> None:
    endpoints = Endpoints(
        workspace="local",
        host="h",
        port=443,
        secure=True,
        custom_domains=["*.example.test"],
        domain="example.test",
        apps=NOTHING,
        functions=NOTHING,
        environments=NOTHING,
    )
    endpoints._check_domain("site", "shop.example.test")
    endpoints._check_domain("site", "a--b.shop.example.test")
    with pytest.raises(InvalidArgument, match="labels"):
        endpoints._check_domain("site", "local--shop-site.example.test")


INSIDE = "http://172.21.0.1:5"
LABEL = "local--shop-site"


@pytest.mark.parametrize(
    ("host", "domain", "secure", "outside", "inside"),
    [
        ("127.0.0.1", "", False, "http://127.0.0.1:8080/w/LABEL", f"{INSIDE}/w/LABEL"),
        ("127.9.9.9", "", False, "http://127.9.9.9:8080/w/LABEL", f"{INSIDE}/w/LABEL"),
        ("localhost", "", True, "https://localhost:8080/w/LABEL", f"{INSIDE}/w/LABEL"),
        ("::1", "", False, "http://[::1]:8080/w/LABEL", f"{INSIDE}/w/LABEL"),
        ("2001:db8::1", "", False, "http://[2001:db8::1]:8080/w/LABEL", f"{INSIDE}/w/LABEL"),
        ("127.0.0.1", "localhost", False, "http://LABEL.localhost:8080", f"{INSIDE}/w/LABEL"),
        ("192.0.2.2", "apps.localhost", False, "http://LABEL.apps.localhost:8080", f"{INSIDE}/w/LABEL"),
        ("192.0.2.2", "", False, "http://192.0.2.2:8080/w/LABEL", "http://192.0.2.2:8080/w/LABEL"),
        ("192.0.2.2", "", True, "https://192.0.2.2:8080/w/LABEL", "https://192.0.2.2:8080/w/LABEL"),
        ("127.0.0.1", "example.test", True, "https://LABEL.example.test:8080", "https://LABEL.example.test:8080"),
        ("127.0.0.1", "notlocalhost", False, "http://LABEL.notlocalhost:8080", "http://LABEL.notlocalhost:8080"),
    ],
)
async def test_containers_get_urls_that_lead_somewhere(
    tmp_path: Path, host: str, domain: str, secure: bool, outside: str, inside: str
) -> None:
    database = Database.open(f"sqlite:///{tmp_path / 'db'}")
    try:
        environments = Environments(database=database, default="main")
        await environments.load()
        world = World(database)
        app = await world.apps.create(environments.default().id, "shop", DEPLOYED, "shop")

        def endpoints(container_base: str) -> Endpoints:
            return Endpoints(
                workspace="local",
                host=host,
                port=8080,
                secure=secure,
                domain=domain,
                apps=world.apps,
                functions=world.functions,
                environments=environments,
                container_base=container_base,
            )

        outside, inside = (url.replace("LABEL", LABEL) for url in (outside, inside))
        site = WebSpec("site", domains=("api.localhost", "api.example.test"))
        for target in (site, ServerSpec("site", 8000)):
            assert endpoints(INSIDE).url(app.id, target) == outside
            assert endpoints(INSIDE).url(app.id, target, "container") == inside
            # Containers that share the network of the host are told what everybody is told.
            assert endpoints("").url(app.id, target, "container") == outside
        assert len(endpoints(INSIDE).domain_urls(app.id, site)) == 2
        (own,) = endpoints(INSIDE).domain_urls(app.id, site, "container")
        assert "api.example.test" in own
    finally:
        await database.close()


def test_names_that_only_this_machine_reaches() -> None:
    for host in ("localhost", "LOCALHOST.", "a.b.localhost", "127.0.0.1", "127.1.2.3", "::1", "fe80::1"):
        assert is_local(host), host
    for host in ("example.test", "localhost.example.test", "192.0.2.1", "0.0.0.0", "localhost6"):
        assert not is_local(host), host
