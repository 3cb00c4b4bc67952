"""Who runs what when pytest-xdist has several workers run the tests (`make unit`)."""

from __future__ import annotations

import pytest
from xdist.scheduler import LoadScopeScheduling

# Areas that stay on one worker, because their tests share servers, images or data, by the beginnings of their paths. The first that
# fits counts. The longest come first, so that the workers end at about the same time; what is not named comes last, by file.
_AREAS = {
    "sandboxes": (
        "tests/examples/test_batch",
        "tests/calls/",
        "tests/snapshots/",
        "tests/matrix/",
        "tests/web/test_sandboxes",
        "tests/state/test_buckets",
        "tests/state/test_volumes_m",
    ),
    "models": ("tests/examples/test_diffusion", "tests/examples/test_comfyui", "tests/mission/"),
    "images": ("tests/images/",),
    "scaling": ("tests/scaling/",),
    "web": ("tests/web/",),
    "rights": ("tests/rights/",),
    "runtime": ("tests/runtime/",),  # also has the one network namespace of its name
    "state": ("tests/state/",),
}


def area(nodeid: str) -> str:
    named = (name for name, paths in _AREAS.items() if nodeid.startswith(paths))
    return next(named, nodeid.split("::", 1)[0])


def in_order(items: list[pytest.Item]) -> list[pytest.Item]:
    order = list(_AREAS)
    return sorted(items, key=lambda item: order.index(name) if (name := area(item.nodeid)) in order else len(order))


class ByArea(LoadScopeScheduling):  # type: ignore[misc]
    """Gives a free worker the next whole area."""

    def _split_scope(self, nodeid: str) -> str:
        return area(nodeid)
