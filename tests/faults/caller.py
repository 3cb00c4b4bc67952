"""The client of a storm: maps inputs through every function at once and checks what comes back. Arguments: inputs per function, and
functions if not all that only compute."""

import sys
import threading
import time

import modal

count = int(sys.argv[1])
names = sys.argv[2:] or ["plain", "concurrent", "batched", "shaky"]
problems: list[str] = []


def run(name: str) -> None:
    function = modal.Function.from_name("storm", name)
    started = time.monotonic()
    try:
        results = list(function.map(range(count), return_exceptions=name == "shaky"))
    except BaseException as error:
        problems.append(f"{name}: {type(error).__name__}: {error}")
        return
    if len(results) != count:
        problems.append(f"{name}: {len(results)} results for {count} inputs")
    for x, result in enumerate(results):
        if result != (name, x) and not (name == "shaky" and isinstance(result, Exception) and f"on {x}" in str(result)):
            problems.append(f"{name}: input {x} gave {result!r}")
    print(f"{name}: {count} inputs in {time.monotonic() - started:.1f} s", flush=True)


threads = [threading.Thread(target=run, args=(name,)) for name in names]
print("calling", flush=True)
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print("\n".join(problems[:20]) or "every result arrived once, in order", flush=True)
sys.exit(bool(problems))
