"""The client's side of the measurement; `run.py` starts it against a server. Prints one JSON document: seconds from call to verified answer."""

import json
import os
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import modal

HOST_PYTHON, NAMES, SNAPSHOTS, PLAIN = sys.argv[1], sys.argv[2].split(","), int(sys.argv[3]), int(sys.argv[4])
LOADS = Path(__file__).with_name("loads.py")
HEADERS = {
    "Modal-Token-Id": os.environ["MODAL_TOKEN_ID"],
    "Modal-Token-Secret": os.environ["MODAL_TOKEN_SECRET"],
}
STATUS = urllib.request.Request(f"{sys.argv[5]}/_stoker/status", headers=HEADERS)


def cold_call(cls: modal.Cls, what: str, expected: str) -> float:
    """Calls, checks the answer, and ends the container, so that the next call is cold again."""
    start = time.perf_counter()
    digest, task_id = cls(what=what).digest.remote()
    seconds = time.perf_counter() - start
    assert digest == expected, f"{what}: a wrong answer"
    end(task_id)
    return seconds


def end(task_id: str) -> None:
    """Ends a container and waits until it is gone, so that its end does not disturb the next start."""
    command = [sys.executable, "-m", "modal", "container", "stop", "--yes", task_id]
    subprocess.run(command, check=True, capture_output=True)
    while task_id in urllib.request.urlopen(STATUS).read().decode():
        time.sleep(0.05)


def on_host(what: str) -> tuple[str, float]:
    start = time.perf_counter()
    done = subprocess.run([HOST_PYTHON, LOADS, what], check=True, capture_output=True, text=True)
    return done.stdout.strip(), time.perf_counter() - start


results: dict[str, dict[str, object]] = {}
for what in NAMES:
    restored, loaded = (modal.Cls.from_name("bench-coldstart", name) for name in ("Restored", "Loaded"))
    runs = [on_host(what) for _ in range(max(3, PLAIN))]
    expected = runs[0][0]
    cold_call(loaded, what, expected)  # brings files into the page cache, as the host's runs did
    row: dict[str, object] = {
        "host": [seconds for _, seconds in runs[1:]],
        "loaded": [cold_call(loaded, what, expected) for _ in range(PLAIN)],
        "saving": [cold_call(restored, what, expected)],
        "restored": [],
        "failed": 0,
    }
    for _ in range(SNAPSHOTS):
        try:
            row["restored"].append(cold_call(restored, what, expected))
        except Exception as error:
            row["failed"] += 1
            print(f"{what}: {error}", file=sys.stderr)
    results[what] = row
print(json.dumps(results))
