"""Retries, concurrency, batching, cancellation: functions whose behaviour tests can see from outside."""

import asyncio
import os
import threading
import time

import modal

app = modal.App("semantics")
image = modal.Image.debian_slim(python_version="3.11")


def note_attempt(key: str) -> int:
    """Counts attempts over containers, in a file that all processes share."""
    path = f"{os.environ['NOTES']}/{key}"
    with open(path, "a") as file:
        file.write("x")
    return os.path.getsize(path)


with_notes = [modal.Secret.from_dict({"NOTES": os.environ.get("NOTES", "/tmp")})]


@app.function(
    image=image, secrets=with_notes, retries=modal.Retries(max_retries=3, initial_delay=0.0, backoff_coefficient=1.0)
)
def flaky(key: str, good_attempt: int) -> int:
    attempt = note_attempt(key)
    if attempt < good_attempt:
        raise RuntimeError(f"attempt {attempt} fails")
    return attempt


@app.function(
    image=image,
    secrets=with_notes,
    timeout=1,
    retries=modal.Retries(max_retries=1, initial_delay=0.0, backoff_coefficient=1.0),
)
def slow_then_fast(key: str) -> int:
    attempt = note_attempt(key)
    if attempt == 1:
        time.sleep(30)
    return attempt


running = 0
most = 0
lock = threading.Lock()


def observe(seconds: float) -> int:
    """How many ran at once in this container, at most, so far."""
    global running, most
    with lock:
        running += 1
        most = max(most, running)
    time.sleep(seconds)
    with lock:
        running -= 1
    return most


@app.function(image=image, max_containers=1)
@modal.concurrent(max_inputs=4)
def together(seconds: float) -> int:
    return observe(seconds)


@app.function(image=image, max_containers=1)
def alone(seconds: float) -> int:
    return observe(seconds)


@app.function(image=image, max_containers=1)
@modal.batched(max_batch_size=4, wait_ms=300)
def batch(xs: list[int]) -> list[int]:
    return [len(xs)] * len(xs)


@app.function(image=image, max_containers=4, single_use_containers=True)
def once(x: int) -> int:
    return os.getpid()


@app.function(image=image, secrets=with_notes)
def linger(key: str) -> str:
    note_attempt(key)
    try:
        time.sleep(60)
    except modal.exception.InputCancellation:
        note_attempt(f"{key}-cancelled")
        raise
    return "not cancelled"


@app.function(image=image)
async def whoami(seconds: float) -> tuple[str | None, str | None]:
    await asyncio.sleep(seconds)
    return modal.current_input_id(), modal.current_function_call_id()


@app.function(image=image)
def parent(n: int) -> int:
    return sum(child.map(range(n)))


@app.function(image=image)
def child(x: int) -> int:
    return x + 1


@app.function(image=image)
def echo(data: bytes) -> bytes:
    return data


@app.cls(image=image)
class Sized:
    @modal.method()
    def timeout_is(self) -> str:
        return "fine"
