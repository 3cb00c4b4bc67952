"""Which domains of its own a function may have."""

from __future__ import annotations

from typing import Any

import pytest

from stoker.errors import InvalidArgument
from stoker.services.endpoints import Endpoints

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
