"""The service of `app.py`, started from a memory snapshot: the running ComfyUI server comes back as it was, models in GPU memory included.

modal deploy snapshot.py
modal run snapshot.py --workflow workflows/text_to_image.json

The marked lines are all that differs.
"""

import inspect
import json
import subprocess
from pathlib import Path

import modal
from app import image, vol
from runs import Runs, WorkflowFailed

app = modal.App("example-comfyui-snapshot")


@app.cls(
    image=image.add_local_python_source("app"),
    scaledown_window=300,
    gpu="L40S",
    volumes={"/cache": vol},
    timeout=20 * 60,  # as long as `comfy run` would wait
    enable_memory_snapshot=True,  # taken once, when launch_server has returned
    experimental_options={
        "enable_gpu_snapshot": True
    },  # so that ComfyUI sees its GPU before the snapshot, and keeps what it put there
)
@modal.concurrent(max_inputs=5)
class ComfyUI:
    port = 8188

    @modal.enter(snap=True)  # before the snapshot; plain `enter` comes after it, at every start
    def launch_server(self):
        subprocess.run(f"comfy launch --background -- --port {self.port}", shell=True, check=True)

    @modal.method()
    def run_workflow(self, workflow_path: str):
        subprocess.run(f"comfy run --workflow {workflow_path} --wait --timeout 1200", shell=True, check=True)
        return self.get_output_image()

    def get_output_image(self) -> bytes:
        workflow_path = inspect.currentframe().f_back.f_locals["workflow_path"]
        return Runs(self.port).outputs(workflow_path)[0].data

    @modal.method()
    def generate(self, workflow: dict) -> dict[str, bytes]:
        """Runs a workflow that is not a file here. Gives all it saved, by file name; raises WorkflowFailed."""
        runs = Runs(self.port)
        with runs.file(workflow, name=modal.current_input_id()) as workflow_path:
            try:
                self.run_workflow.local(workflow_path)
            except subprocess.CalledProcessError:
                raise WorkflowFailed(runs.reason(workflow_path)) from None
            return {output.name: output.data for output in runs.outputs(workflow_path)}


@app.local_entrypoint()
def main(workflow: str = "workflows/text_to_image.json", out: str = "out"):
    for name, data in ComfyUI().generate.remote(json.loads(Path(workflow).read_text())).items():
        path = Path(out, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        print(path)
