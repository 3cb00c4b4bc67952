"""Python for base images that have none, such as those of CUDA: the distribution's own, where apt can install it.

Functions need a `python`. A base taken as it is, without `add_python` and without commands of its own, gets one that stays out of the
way: its directory is the last one of PATH, so that any Python which later steps install goes before it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from stoker.images import dockerfile
from stoker.images.dockerfile import Dockerfile

DIRECTORY = "/opt/stoker/python"

_INSTALL = f"""\
RUN <<'END'
echo "This base image has no python; installing that of its distribution."
if ! command -v python3 > /dev/null; then
  export DEBIAN_FRONTEND=noninteractive
  apt-get -q update && apt-get -q -y --no-install-recommends install python3 python3-pip python3-venv ca-certificates
  rm -rf /var/lib/apt/lists/*
fi
if python3=$(command -v python3); then
  mkdir -p {DIRECTORY}
  ln -s "$python3" {DIRECTORY}/python
  # Packages go straight into the image, as with the official images of Python.
  rm -f /usr/lib/python3*/EXTERNALLY-MANAGED
else
  echo "That failed. Functions need a python: pass add_python= to Image.from_registry, or install one."
fi
END
ENV PATH="$PATH:{DIRECTORY}"
"""


def possible(layers: Sequence[Path]) -> bool:
    """Whether apt could install something in the file system of `layers`."""
    return any((layer / "usr/bin/apt-get").exists() for layer in layers)


def added(source: Dockerfile) -> Dockerfile:
    """The same, with a Python."""
    steps = dockerfile.parse(["FROM base", *_INSTALL.splitlines()], {}).final.instructions
    final = replace(source.final, instructions=(*steps, *source.final.instructions))
    return replace(source, stages=(*source.stages[:-1], final))
