"""The text that says what must work, its code blocks, and apps that fill in what the blocks leave out.

mission.txt is the text as it was given; it has lost the indentation of its code. blocks/ holds the code with indentation, and nothing else
is different, which test_text.py proves. apps/ holds apps made of the blocks: the line `#: NAME` stands for a block, and `#: NAME WRONG`,
`#: NAME RIGHT` or `#: NAME For ComfyUI` for the part of it that is headed by a comment with these words.
"""

from __future__ import annotations

import re
import textwrap
from pathlib import Path

HERE = Path(__file__).parent
BLOCKS = ("memory_snapshots", "volumes", "scaling", "diffusion", "endpoint", "comfyui", "image")
"""In the order of the text."""

_PLACE = re.compile(r"^( *)#: (\w+)(?: (.+))?$", re.MULTILINE)


def text() -> str:
    return (HERE / "mission.txt").read_text()


def block(name: str, heading: str = "") -> str:
    """The code called `name`, or its part below the comment that starts with `heading`."""
    code = (HERE / "blocks" / f"{name}.py").read_text()
    if not heading:
        return code
    [part] = [part for part in re.split(r"^(?=# )", code, flags=re.MULTILINE) if part.startswith(f"# {heading}")]
    return part


def app(name: str) -> str:
    """The source of an app with the blocks in their places."""
    source = (HERE / "apps" / f"{name}.txt").read_text()
    return _PLACE.sub(lambda place: textwrap.indent(block(place[2], place[3] or ""), place[1]).rstrip("\n"), source)
