"""Nodes that ComfyUI does not have: what tests need to see work take time, and go wrong."""

from __future__ import annotations

import time

from nodes import FLOAT, IMAGE, INT, STRING, Batch, Node, Run


def slow(run: Run, image: Batch, seconds: float, steps: int) -> tuple[Batch]:
    """Passes the picture on after a while, with progress at each step, as a sampler does."""
    for step in range(1, steps + 1):
        time.sleep(seconds / steps)
        run.progress(step, steps)
    return (image,)


def failing(run: Run, image: Batch, message: str) -> tuple[Batch]:
    """Raises, as a node without enough GPU memory does."""
    raise RuntimeError(message)


NODES = {
    "TestingSlow": Node(slow, {"image": IMAGE, "seconds": FLOAT, "steps": INT}, category="testing"),
    "TestingFailure": Node(failing, {"image": IMAGE, "message": STRING}, category="testing"),
}
