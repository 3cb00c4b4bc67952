"""The apps whose classes have a case each, by the parameter `name`: deployed, called, and looked at."""

from __future__ import annotations

import json
import subprocess
import time
from pathlib import Path
from typing import Any

from tests.conftest import STOKER, RunningServer

_CALL = """
import json, modal
case = modal.Cls.from_name({app!r}, "Case")
calls = {{name: case(name=name).check.spawn() for name in {names}}}
answers = {{}}
for name, call in calls.items():
    try: answers[name] = call.get()
    except Exception as error: answers[name] = {{"answer": repr(error), "task": "", "restored": False}}
print(json.dumps(answers))
"""


class CasesApp:
    def __init__(self, server: RunningServer, name: str, scratch: Path) -> None:
        self.server, self.name, self._scratch = server, name, scratch

    def deploy(self, peer: str) -> None:
        """peer: the address of another machine, see `tests.peer`."""
        self.server.modal("deploy", f"{self.name.replace('-', '_')}.py", timeout=1800, PEER=peer)
        if self.name == "snapshot-cases":
            self.put_weights(bytes([7]) * 100_000)

    def put_weights(self, content: bytes) -> None:
        (self._scratch / "weights").write_bytes(content)
        self.server.modal("volume", "put", "--force", self.name, str(self._scratch / "weights"), "/weights")

    def call(self, *names: str) -> dict[str, dict[str, Any]]:
        """What new containers of the cases answer."""
        self.wait_for_end()
        code = _CALL.format(app=self.name, names=names)
        answers: dict[str, dict[str, Any]] = json.loads(self.server.python(code, timeout=500).stdout)
        return answers

    def wait_for_end(self) -> None:
        """Its containers end by themselves, two seconds after their last call."""
        while any(container["app"] == self.name for container in self.stoker("status")["containers"]):
            time.sleep(0.5)

    def snapshot(self, name: str) -> dict[str, Any]:
        """The snapshot of a case."""
        (snapshot,) = self._snapshots(name)
        return snapshot

    def reason(self, name: str) -> str:
        """Why a case has no snapshot; empty when it has one."""
        reasons = [str(snapshot["reason"]) for snapshot in self._snapshots(name)]
        return reasons[0] if reasons else "None was begun: see the answer."

    def _snapshots(self, name: str) -> list[dict[str, Any]]:
        found = [s for s in self.stoker("snapshots", "list") if s["app"] == self.name]
        return [dict(s) for s in found if s["parameters"] == f"name={name!r}"]

    def logged(self) -> str:
        return self.server.modal("app", "logs", self.name).stdout

    def stoker(self, *arguments: str) -> Any:
        command = [*STOKER, *arguments, "--data", str(self.server.data), "--json"]
        return json.loads(subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout)
