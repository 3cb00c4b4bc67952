"""ComfyUI as a service: workflows go in as JSON, images come out; five at a time share one GPU.

modal run app.py --workflow workflows/text_to_image.json
modal deploy app.py          # then POST workflows to the URL it prints

Nothing here knows about Stoker: this is an ordinary Modal app, and `modal run` finds it the server.
"""

import inspect
import os
import subprocess
from pathlib import Path

import modal
from runs import COMFYUI, Runs, WorkflowFailed

HERE = Path(__file__).parent
COMFY_CLI = os.environ.get("COMFY_CLI", "1.23.0")
CHECKOUT = os.environ.get("COMFYUI_DIR")  # a ComfyUI of your own on this machine, instead of the released one

app = modal.App("example-comfyui")
vol = modal.Volume.from_name("example-comfyui-cache", create_if_missing=True)

cli_image = (
    modal.Image.debian_slim(python_version="3.11")
    .apt_install("git")
    .uv_pip_install(f"comfy-cli=={COMFY_CLI}")
    .run_commands("comfy --skip-prompt tracking disable")
)
if CHECKOUT:
    image = cli_image.add_local_dir(CHECKOUT, str(COMFYUI), copy=True, ignore=["**/__pycache__", ".git"]).run_commands(
        f"pip install --quiet --requirement {COMFYUI}/requirements.txt"
    )
else:
    image = cli_image.run_commands("comfy --skip-prompt install --fast-deps --nvidia --version 0.3.64")
image = image.add_local_file(HERE / "extra_model_paths.yaml", f"{COMFYUI}/extra_model_paths.yaml")
image = image.add_local_python_source("runs")

web_image = (
    modal.Image.debian_slim(python_version="3.11")
    .uv_pip_install("fastapi[standard]==0.142.2")
    .add_local_python_source("runs")
)


@app.cls(
    image=image,
    scaledown_window=300,
    gpu="L40S",
    volumes={"/cache": vol},
)
@modal.concurrent(max_inputs=5)
class ComfyUI:
    port = 8188

    @modal.enter()
    def launch_server(self):
        subprocess.run(
            f"comfy launch --background -- --port {self.port}",
            shell=True, check=True
        )  # fmt: skip

    @modal.method()
    def run_workflow(self, workflow_path: str):
        subprocess.run(
            f"comfy run --workflow {workflow_path} --wait --timeout 1200",
            shell=True, check=True
        )  # fmt: skip
        return self.get_output_image()

    def get_output_image(self) -> bytes:
        # Five runs share this object, so it cannot remember which was the last one: the caller's own file says whose image.
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


@app.function(image=web_image)
@modal.concurrent(max_inputs=100)
@modal.fastapi_endpoint(method="POST", docs=True)
async def images_api(workflow: dict):
    """Runs a workflow in ComfyUI's API format. `{"images": {name: base64}}`, or 422 and what was wrong with it."""
    from base64 import b64encode

    from fastapi import HTTPException

    try:
        images = await ComfyUI().generate.remote.aio(workflow)
    except WorkflowFailed as failed:
        raise HTTPException(422, str(failed)) from None
    return {"images": {name: b64encode(data).decode() for name, data in images.items()}}


@app.local_entrypoint()
def main(workflow: str = "workflows/text_to_image.json", out: str = "out"):
    import json

    for name, data in ComfyUI().generate.remote(json.loads(Path(workflow).read_text())).items():
        path = Path(out, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        print(path)
