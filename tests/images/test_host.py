"""The builder of the process runtime: nothing is built, everything is said."""

from __future__ import annotations

import asyncio
import platform
import sys
from pathlib import Path

import pytest

from stoker.errors import FailedPrecondition, NotFound
from stoker.images.base import BuildContext
from stoker.images.host import HostImages
from stoker.nodes.builds import ImageConfig, ImageSpec


def build(images: HostImages, image_id: str, commands: list[str], base: str = "") -> tuple[ImageConfig, str]:
    log: list[str] = []
    spec = ImageSpec(tuple(commands), {"base": base} if base else {}, builder_version="2026.10")
    return asyncio.run(images.build(image_id, spec, BuildContext(), log.append)), "".join(log)


def test_settings_are_kept_and_steps_are_named(tmp_path: Path) -> None:
    images = HostImages(tmp_path)
    first, said = build(
        images, "im-1", ["FROM python:3.11-slim", "ENV A='x y'", "WORKDIR /app", "RUN pip install torch", 'CMD ["a"]']
    )
    assert first.env.pop("PATH").split(":")[0] == str(Path(sys.executable).parent)
    assert (first.env, first.workdir, first.cmd) == ({"A": "x y"}, "/app", ("a",))
    assert first.python_version == platform.python_version()
    assert first.python_packages["modal"] == "1.6.4"
    assert "  RUN pip install torch\n" in said
    assert sys.executable in said
    second, said = build(images, "im-2", ["FROM base", "ENV B=$A C=1", "WORKDIR sub", "ENTRYPOINT tini"], "im-1")
    assert second.env.pop("PATH")
    assert second.env == {"A": "x y", "B": "x y", "C": "1"}
    assert (second.workdir, second.entrypoint, second.cmd) == ("/app/sub", ("/bin/sh", "-c", "tini"), ())
    assert said == "", "nothing was skipped, so there is nothing to say"
    # Another server on the same data directory knows them.
    assert asyncio.run(HostImages(tmp_path).layers("im-2")) == ()
    asyncio.run(images.remove("im-2"))
    with pytest.raises(NotFound):
        asyncio.run(images.layers("im-2"))


def test_an_interpreter_that_does_not_run(tmp_path: Path) -> None:
    with pytest.raises(FailedPrecondition, match=r"/no/python.*process_python"):
        asyncio.run(HostImages(tmp_path, python="/no/python").open())
