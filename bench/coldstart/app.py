"""The same start with and without a memory snapshot. Answers a digest of what was loaded, and the container's id."""

import hashlib
import os

import modal

app = modal.App("bench-coldstart")
packages = ["numpy", "scipy", "pandas"]
if os.environ.get("BENCH_HEAVY"):
    packages += ["torch", "diffusers", "transformers", "accelerate", "sentencepiece"]
image = modal.Image.debian_slim(python_version="3.11").pip_install(*packages).add_local_python_source("loads")


@app.cls(image=image, enable_memory_snapshot=True, scaledown_window=600)
class Restored:
    what: str = modal.parameter()

    @modal.enter(snap=True)
    def load(self):
        import loads

        self.loaded = getattr(loads, self.what)()

    @modal.method()
    def digest(self) -> tuple[str, str]:
        return hashlib.sha256(self.loaded).hexdigest(), os.environ["MODAL_TASK_ID"]


@app.cls(image=image, scaledown_window=600)
class Loaded:
    what: str = modal.parameter()

    @modal.enter()
    def load(self):
        import loads

        self.loaded = getattr(loads, self.what)()

    @modal.method()
    def digest(self) -> tuple[str, str]:
        return hashlib.sha256(self.loaded).hexdigest(), os.environ["MODAL_TASK_ID"]
