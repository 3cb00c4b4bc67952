"""The batch example through the official CLI, with real models in real sandboxes: MiniLM, Whisper, SmolLM2."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import RunningServer

EXAMPLE = Path(__file__).parents[2] / "examples" / "batch"
RESULTS = "example-batch-results"
PARTS = 10

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(sys.platform != "linux" or os.geteuid() != 0, reason="sandboxes need root on Linux"),
]


class Modal:
    """The `modal` command in the example's directory."""

    def __init__(self, server: RunningServer) -> None:
        self.server = server

    def __call__(self, *words: object) -> str:
        done = subprocess.run(
            self.command(*words), env=self.server.env, capture_output=True, text=True, timeout=1000, cwd=EXAMPLE
        )
        if done.returncode:
            pytest.fail(f"{words} ended with {done.returncode}\n{done.stdout}\n{done.stderr}\n{self.server.log_tail()}")
        return done.stdout

    def command(self, *words: object) -> list[str]:
        return [sys.executable, "-m", "modal", *map(str, words)]

    def parts(self, job: str) -> set[int]:
        """The numbers of a job's parts that are on the Volume."""
        names = [Path(entry["filename"]).name for entry in json.loads(self("volume", "ls", "--json", RESULTS, job))]
        return {int(found[1]) for name in names if (found := re.fullmatch(r"part-(\d{5})\.parquet", name))}

    def parquet(self, path: str, to: Path) -> bytes:
        self("volume", "get", RESULTS, path, to)
        return to.read_bytes()


@pytest.fixture(scope="module")
def modal(sandboxes: RunningServer) -> Modal:
    return Modal(sandboxes)


def test_an_interrupted_run_goes_on_where_it_stopped(modal: Modal, tmp_path: Path) -> None:
    run = ("run", "embed.py", "--count", 100 * PARTS, "--part-size", 100)
    first = subprocess.Popen(
        modal.command(*run),
        env=modal.server.env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=EXAMPLE,
    )
    assert first.stdout is not None
    seen = []
    for line in first.stdout:
        seen.append(line)
        if f"300 of {100 * PARTS} sentences" in line:
            first.kill()
            break
    first.wait()
    job = re.findall(r"Job (embed-\w+): 10 of 10 parts to do", "".join(seen))[0]
    done = modal.parts(job)
    assert len(done) >= 3
    lost = min(done)
    modal("volume", "rm", RESULTS, f"{job}/part-{lost:05}.parquet")

    again = modal(*run, "--query", "a pet that sleeps")
    todo = int(re.findall(rf"Job {job}: (\d+) of 10 parts to do", again)[0])
    assert todo <= PARTS - len(done) + 1
    computed = {int(part) for part in re.findall(r"part (\d+): 100 sentences", again)}
    assert lost in computed
    assert computed.isdisjoint(done - {lost})
    assert modal.parts(job) == set(range(PARTS))
    file = modal.parquet(f"{job}/part-{lost:05}.parquet", tmp_path / "part")
    assert file[:4] == file[-4:] == b"PAR1"
    # The vectors mean something: of all sentences those about a sleeping animal are nearest.
    nearest = re.findall(r"^ *(\d\.\d{3})  (.*)$", again, re.MULTILINE)
    assert len(nearest) == 5
    assert all(re.search(r"(cat|dog|parrot) (sleeps|dreams)", sentence) for _, sentence in nearest), nearest

    assert f"{job}: 0 of 10 parts to do" in modal(*run)


def test_recordings_become_text_and_a_bad_one_does_not_stop_the_others(modal: Modal, tmp_path: Path) -> None:
    said = modal("run", "transcribe.py")
    assert "two_cities.wav: It was the best of times, it was the worst of times." in said
    assert re.search(r"beckett.wav: Ever tried.*Fail better", said)
    (tmp_path / "broken.wav").write_bytes(b"RIFF....")
    mixed = modal("run", "transcribe.py", "--wavs", tmp_path)
    assert re.search(r"broken.wav: \w+Error", mixed)
    assert "All 1 are in 1 files" in mixed


def test_single_prompts_are_answered_in_batches(modal: Modal) -> None:
    said = modal("run", "generate.py", "--count", 4, "--tokens", 8)
    assert "Paris" in said and "Tokyo" in said
    assert "a batch of 4 in" in said
    assert "0 of 1 parts to do" in modal("run", "generate.py", "--count", 4, "--tokens", 8)
