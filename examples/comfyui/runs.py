"""What became of a workflow: asks the ComfyUI server that runs beside us. Standard library only."""

import json
import shutil
import tempfile
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

COMFYUI = Path("/root/comfy/ComfyUI")
"""Where `comfy` installs it, and where it looks for it."""

RECENT = 100
"""How many of the newest runs are searched; far more than run at once."""


class WorkflowFailed(Exception):
    """The workflow did not run to its end; the text says at which node and why."""


@dataclass(frozen=True)
class Output:
    name: str
    data: bytes


class Runs:
    def __init__(self, port: int) -> None:
        self._url = f"http://127.0.0.1:{port}"

    @contextmanager
    def file(self, workflow: dict, name: str) -> Iterator[str]:
        """The path of a file with `workflow`, whose outputs go into a folder called `name`; all are gone afterwards.

        Raises WorkflowFailed when this is no workflow in the API format."""
        if not workflow or not all(isinstance(step, dict) and "class_type" in step for step in workflow.values()):
            raise WorkflowFailed("This is no workflow in the API format; ComfyUI's File > Export (API) writes one.")
        own = {node: _saving_in(name, step) for node, step in workflow.items()}
        with tempfile.TemporaryDirectory() as directory:
            path = Path(directory, f"{name}.json")
            path.write_text(json.dumps(own))
            try:
                yield str(path)
            finally:
                self._forget(own)
                shutil.rmtree(COMFYUI / "output" / name, ignore_errors=True)

    def outputs(self, workflow_path: str) -> list[Output]:
        """What the newest run of this file saved, in the order of its nodes. Raises WorkflowFailed when that is nothing."""
        _, run = self._find(_read(workflow_path))
        lists = [items for output in run.get("outputs", {}).values() for items in output.values()]
        files = [item for items in lists for item in items if isinstance(item, dict) and "filename" in item]
        saved = [
            item for item in files if item["type"] == "output"
        ] or files  # previews count when there is nothing else
        if not saved:
            raise WorkflowFailed("The workflow ran, but saved nothing. Does it have a SaveImage node?")
        folder = f"{Path(workflow_path).stem}/"
        return [
            Output(
                f"{item['subfolder']}/{item['filename']}".removeprefix(folder).lstrip("/"),
                self._ask("/view?" + urllib.parse.urlencode(item)),
            )
            for item in saved
        ]

    def reason(self, workflow_path: str) -> str:
        """Why the file's newest run failed, or was not accepted."""
        workflow = _read(workflow_path)
        _, run = self._find(workflow)
        for kind, about in run.get("status", {}).get("messages", []):
            if kind == "execution_error":
                return f"Node {about['node_id']} ({about['node_type']}) failed: {about['exception_message'].strip()}"
        known = json.loads(self._ask("/object_info"))
        unknown = sorted({step["class_type"] for step in workflow.values()} - set(known))
        if unknown:
            return f"This ComfyUI has no node called {', '.join(unknown)}."
        return "ComfyUI did not run this workflow; the container's log says why."

    def _find(self, workflow: dict) -> tuple[str, dict]:
        """(prompt id, history entry) of the newest run of exactly this workflow; empty ones when there was none."""
        history = json.loads(self._ask(f"/history?max_items={RECENT}"))
        return next((item for item in reversed(history.items()) if item[1]["prompt"][2] == workflow), ("", {}))

    def _forget(self, workflow: dict) -> None:
        prompt, _ = self._find(workflow)
        if prompt:
            self._ask("/history", {"delete": [prompt]})

    def _ask(self, path: str, body: dict | None = None) -> bytes:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self._url + path, data, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=60) as response:
            return response.read()


def _read(workflow_path: str) -> dict:
    return json.loads(Path(workflow_path).read_text())


def _saving_in(folder: str, step: dict) -> dict:
    """The same node; when it saves files, then into `folder`."""
    prefix = step.get("inputs", {}).get("filename_prefix")
    if not isinstance(prefix, str):
        return step
    return step | {"inputs": step["inputs"] | {"filename_prefix": f"{folder}/{prefix}"}}
