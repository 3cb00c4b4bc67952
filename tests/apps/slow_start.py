"""A class that takes longer to start than it may."""

import time

import modal

app = modal.App("slow-start")


@app.cls(startup_timeout=2)
class Slow:
    @modal.enter()
    def load(self) -> None:
        time.sleep(60)

    @modal.method()
    def run(self) -> int:
        return 1
