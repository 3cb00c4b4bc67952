"""Each rule: code it must speak about, and code on which it must be silent."""

from __future__ import annotations

import pytest

from stoker.advice.check import check_source
from stoker.advice.finding import Severity
from stoker.advice.rules import RULES
from tests.advice.cases import check, fixed, only, rules, source

HEAD = """
import modal
import os
import subprocess
import time

import requests
from sentence_transformers import SentenceTransformer
from transformers import AutoModel, AutoTokenizer

app = modal.App("x")
vol = modal.Volume.from_name("model-cache", create_if_missing=True)
image = modal.Image.debian_slim(python_version="3.11").uv_pip_install("torch==2.7.1")
"""
LOADS = """
class Model:
    @modal.enter()
    def load(self):
        self.model = AutoModel.from_pretrained("org/name")
"""
# rule, and code behind HEAD that has exactly one finding of it
WRONG = {
    "hub, no volume": ("STK001", "@app.cls(image=image)" + LOADS),
    "hub, no volume, cache variable": ("STK001", '@app.cls(image=image.env({"HF_HOME": "/cache"}))' + LOADS),
    "hub in a function": ("STK001", '@app.function()\ndef run():\n    return AutoModel.from_pretrained("org/name")'),
    "volume, cache elsewhere": ("STK002", '@app.cls(image=image, volumes={"/models": vol})' + LOADS),
    "volume, cache at a third place": (
        "STK002",
        '@app.cls(image=image.env({"HF_HOME": "/cache"}), volumes={"/models": vol})' + LOADS,
    ),
    "window too short": ("STK003", '@app.cls(gpu="A10G", scaledown_window=10, volumes={"/models": vol})' + LOADS),
    "window too long": ("STK003", 'MINUTES = 60\n@app.cls(gpu="A10G", scaledown_window=20 * MINUTES)\nclass A:\n    pass'),
    "window refused": ("STK003", "@app.function(scaledown_window=7200)\ndef f():\n    pass"),
    "web server with one input": (
        "STK004",
        '@app.function(gpu="H100")\n@modal.web_server(8000)\ndef serve():\n    subprocess.Popen("vllm serve", shell=True)',
    ),
    "global model": (
        "STK004",
        'with image.imports():\n    from engine import make\nmodel = make()\n@app.function(gpu="T4")\ndef f(text):\n    return model(text)',
    ),
    "snapshot after the load": (
        "STK005",
        '@app.cls(gpu="A10G", volumes={"/models": vol}, enable_memory_snapshot=True)' + LOADS,
    ),
    "GPU used before the snapshot": (
        "STK005",
        """
@app.cls(gpu="A10G", volumes={"/models": vol}, enable_memory_snapshot=True, experimental_options={"other": 1})
class Model:
    @modal.enter(snap=True)
    def load(self):
        self.model = AutoModel.from_pretrained("org/name").to("cuda")
""",
    ),
    "video, default timeout": (
        "STK006",
        """
@app.function(volumes={"/models": vol})
def video(prompt):
    from diffusers.utils import export_to_video
    export_to_video(frames(prompt), "/models/x.mp4")
""",
    ),
    "comfy waits longer": (
        "STK006",
        '@app.function(timeout=600)\ndef f(path):\n    subprocess.run(["comfy", "run", "--workflow", path, "--timeout", "1200"])',
    ),
    "map without retries": (
        "STK007",
        """
@app.cls(gpu="A10G", volumes={"/models": vol})
class Model:
    @modal.method()
    def run(self, items: list[str]):
        return items

@app.local_entrypoint()
def main():
    list(Model().run.map([["a"]]))
""",
    ),
    "wget in enter": (
        "STK008",
        """
@app.cls(gpu="A10G")
class Model:
    @modal.enter()
    def load(self):
        subprocess.run("wget -q https://host/model.safetensors -O /tmp/m", shell=True, check=True)
""",
    ),
    "latest": ("STK009", 'base = modal.Image.from_registry("nvidia/cuda:latest")'),
    "no tag, port in the name": ("STK009", 'base = modal.Image.from_registry("registry:5000/team/base", add_python="3.11")'),
    "nothing pinned": ("STK010", 'other = modal.Image.debian_slim().pip_install("torch", "numpy>=2")'),
    "list of packages": ("STK010", 'PACKAGES = ["torch"]\nother = modal.Image.debian_slim().pip_install(PACKAGES)'),
    "sleep": (
        "STK011",
        "@app.function()\n@modal.concurrent(max_inputs=10)\nasync def f(x):\n    time.sleep(1)",
    ),
    "remote call without aio": (
        "STK011",
        "@app.function()\ndef g(x):\n    pass\n@app.function()\n@modal.concurrent(max_inputs=10)\nasync def f(x):\n    return g.remote(x)",
    ),
    "token": ("STK012", 'TOKEN = "hf_' + "a1B2" * 9 + '"'),
    "password by name": ("STK012", 'config = {"db_password": "s3cr3tP4ssw0rdX"}'),
    "load in a method": (
        "STK013",
        """
@app.cls(volumes={"/models": vol})
class Model:
    @modal.method()
    def run(self, text):
        model = AutoModel.from_pretrained("org/name")
        return model(text)
""",
    ),
    "file of weights in a function": (
        "STK013",
        'import torch\n@app.function(gpu="T4")\ndef f(x):\n    model = torch.load("model.pt")\n    return model(x)',
    ),
    "load in the constructor": (
        "STK013",
        '@app.cls(volumes={"/models": vol})\nclass Model:\n    def __init__(self):\n        self.model = AutoModel.from_pretrained("org/name")',
    ),
    "load at import": (
        "STK013",
        'model = AutoModel.from_pretrained("org/name")\n@app.function()\ndef f(text):\n    return model(text)',
    ),
}  # fmt: skip
RIGHT = {
    "a file that the call names": 'import torch\n@app.function()\ndef f(path):\n    return torch.load(path).mean()',
    "local path": "@app.cls()" + LOADS.replace("org/name", "/weights/name"),
    "path by name": "@app.cls()" + LOADS.replace('"org/name"', "MODEL_DIR"),
    "offline": "@app.cls()" + LOADS.replace('"org/name"', '"org/name", local_files_only=True'),
    "options not in sight": "@app.cls(**shared.options)" + LOADS,
    "volumes not in sight": "@app.cls(volumes=mounts())" + LOADS,
    "baked into the image": 'baked = image.run_commands("hf download org/name")\n@app.cls(image=baked)' + LOADS,
    "baked by a function": """
def download():
    AutoModel.from_pretrained("org/name")
@app.cls(image=image.run_function(download))
""" + LOADS,
    "cache on the volume": '@app.cls(image=image.env({"HF_HOME": "/models/hf"}), volumes={"/models": vol})' + LOADS,
    "cache by the unit's env": '@app.cls(image=image, env={"HF_HOME": "/models"}, volumes={"/models": vol})' + LOADS,
    "cache by os.environ": 'os.environ["HF_HOME"] = "/models"\n@app.cls(image=image, volumes={"/models": vol})' + LOADS,
    "default cache mounted": '@app.cls(image=image, volumes={"/root/.cache/huggingface": vol})' + LOADS,
    "cache_dir": '@app.cls(image=image, volumes={"/models": vol})' + LOADS.replace('"org/name"', '"org/name", cache_dir="/models"'),
    "short window, restored": """
@app.cls(gpu="A10G", scaledown_window=20, volumes={"/models": vol}, enable_memory_snapshot=True, experimental_options={"enable_gpu_snapshot": True})
""" + LOADS.replace("enter()", "enter(snap=True)"),
    "snapshot on the CPU, moved after": """
@app.cls(gpu="A10G", volumes={"/models": vol}, enable_memory_snapshot=True)
class Model:
    @modal.enter(snap=True)
    def load(self):
        self.model = AutoModel.from_pretrained("org/name")
    @modal.enter(snap=False)
    def move(self):
        self.model.to("cuda")
""",
    "caller sends lists": '@app.function(gpu="T4")\ndef f(texts):\n    return model(texts)',
    "batched": """
@app.cls(gpu="A10G", volumes={"/models": vol}, scaledown_window=60, enable_memory_snapshot=True, experimental_options={"enable_gpu_snapshot": True})
class Model:
    @modal.enter(snap=True)
    def load(self):
        self.model = AutoModel.from_pretrained("org/name")
    @modal.batched(max_batch_size=8, wait_ms=100)
    def run(self, text):
        return self.model(text)
""",
    "a training run": '@app.function(gpu="H100", retries=1)\ndef train(config):\n    fit(model, config)',
    "a GPU only by the environment": '@app.cls(gpu=os.environ.get("GPU"), volumes={"/models": vol})' + LOADS,
    "another library's decorator": "router = Router()\n@router.function(gpu=1, scaledown_window=5000)\ndef f(x):\n    pass",
    "tags and digests": """
a = modal.Image.from_registry("nvidia/cuda:12.8.1-devel-ubuntu22.04")
b = modal.Image.from_registry("team/base@sha256:0123456789abcdef")
c = modal.Image.from_registry("registry:5000/team/base:1.0")
d = modal.Image.from_registry(NAME_FROM_ELSEWHERE)
""",
    "pinned in every way": 'a = modal.Image.debian_slim().pip_install("a==1", "b~=2.0", "c<3", "d @ https://host/d.whl", "/tmp/e-1.whl")',
    "async without concurrency": "@app.function()\nasync def f(x):\n    time.sleep(1)",
    "awaited and threaded": """
import asyncio
@app.function()
@modal.concurrent(max_inputs=10)
async def f(x):
    await asyncio.to_thread(requests.get, x)
    def helper():
        time.sleep(1)
    await asyncio.to_thread(helper)
    return await g.remote.aio(x)
""",
    "words that are no secrets": """
tokenizer = AutoTokenizer.from_pretrained("/weights", pad_token="<|finetune_right_pad_id|>")
HF_TOKEN = "your-token-here"
token = os.environ["HF_TOKEN"]
API_KEY = ""
secret = modal.Secret.from_name("huggingface-secret", required_keys=["HF_TOKEN"])
""",
    "a download job": '@app.function(volumes={"/root/.cache": vol}, retries=2)\ndef download_model():\n    AutoModel.from_pretrained("org/name")',
    "kept by the method": """
@app.cls(volumes={"/models": vol})
class Model:
    @modal.method()
    def run(self, name):
        if name not in self.models:
            self.models[name] = AutoModel.from_pretrained(name)
        return self.models[name]
""",
    "no app at all": 'def f():\n    return AutoModel.from_pretrained("org/name")',
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_speaks(case: str) -> None:
    rule, code = WRONG[case]
    finding = only(HEAD + code, rule)
    assert finding.fix is not None or finding.help
    assert finding.place.line >= HEAD.count("\n")


@pytest.mark.parametrize("case", RIGHT)
def test_is_silent(case: str) -> None:
    assert rules(HEAD + RIGHT[case]) == []


def test_every_rule_has_a_case() -> None:
    assert {rule for rule, _ in WRONG.values()} == {rule.id for rule in RULES}


def test_severities() -> None:
    refused = only(HEAD + WRONG["window refused"][1], "STK003")
    secret = only(HEAD + WRONG["token"][1], "STK012")
    early = only(HEAD + WRONG["GPU used before the snapshot"][1], "STK005")
    assert {refused.severity, secret.severity, early.severity} == {Severity.ERROR}
    partly = 'other = modal.Image.debian_slim().pip_install("torch==2.7.1", "numpy")'
    assert only(HEAD + partly, "STK010").severity is Severity.NOTE
    warm = '@app.cls(gpu="A10G", scaledown_window=600, volumes={"/models": vol})' + LOADS
    assert only(HEAD + warm, "STK005").severity is Severity.NOTE


def test_place_is_that_of_the_expression() -> None:
    finding = only("import modal\n\nä = '€'; base = modal.Image.from_registry('ubuntu:latest')\n", "STK009")
    place = finding.place
    assert (place.line, place.column, place.end_line, place.end_column) == (3, 43, 3, 58)


class TestFixes:
    """The corrected lines are right for the code at hand."""

    def test_the_image_gets_the_variable_before_local_files(self) -> None:
        code = """
        import modal
        from transformers import AutoModel

        app = modal.App("x")
        models = modal.Volume.from_name("models")
        image = (
            modal.Image.debian_slim()
            .pip_install("torch==2.7.1")  # heavy
            .add_local_python_source("helpers")
        )

        @app.cls(
            image=image,
            gpu="A10G",  # cheap
        )
        @modal.concurrent(max_inputs=4)
        class Model:
            @modal.enter()
            def load(self):
                self.model = AutoModel.from_pretrained("org/name")
        """
        corrected = fixed(code, "STK001")
        assert '    .pip_install("torch==2.7.1")\n    .env({"HF_HUB_CACHE": "/models"})  # heavy\n' in corrected
        assert '    gpu="A10G",  # cheap\n    volumes={"/models": models},\n)' in corrected
        assert corrected.count("Volume.from_name") == 1

    def test_a_volume_joins_the_others(self) -> None:
        code = HEAD + '@app.cls(gpu="A10G", volumes={})' + LOADS
        assert 'volumes={"/models": vol}' in fixed(code, "STK001")

    def test_the_concurrent_decorator_goes_below(self) -> None:
        code = """
        import modal as m

        app = m.App("x")

        @app.cls(gpu="A10G", scaledown_window=300)  # kept
        class Model:
            @m.enter()
            def load_model(self):
                self.model = load_model()

            @m.method()
            def run(self, text: str):
                return self.model(text)
        """
        assert "  # kept\n@m.concurrent(max_inputs=32, target_inputs=25)\nclass Model:" in fixed(code, "STK004")

    def test_a_function_that_loads_becomes_a_class(self) -> None:
        code = """
        import modal
        from transformers import pipeline

        app = modal.App("x")
        vol = modal.Volume.from_name("models")

        @app.function(gpu="T4", volumes={"/root/.cache": vol})
        def classify_text(text: str) -> str:
            pipe = pipeline("sentiment-analysis", model="org/name")
            return pipe(text)[0]["label"]

        @app.local_entrypoint()
        def main():
            print(classify_text.remote("good"))
        """
        corrected = fixed(code, "STK013")
        assert corrected.endswith(
            """
@app.cls(gpu="T4", volumes={"/root/.cache": vol})
class ClassifyText:
    @modal.enter()
    def load_model(self):
        self.pipe = pipeline("sentiment-analysis", model="org/name")

    @modal.method()
    def classify_text(self, text: str) -> str:
        return self.pipe(text)[0]["label"]

@app.local_entrypoint()
def main():
    print(ClassifyText().classify_text.remote("good"))
"""
        )

    def test_a_load_that_needs_the_input_is_left_to_the_reader(self) -> None:
        code = (
            HEAD
            + '@app.function(volumes={"/models": vol})\ndef f(name, text):\n    m = AutoModel.from_pretrained(name)\n    return m(text)'
        )
        finding = only(code, "STK013")
        assert finding.fix is None and "@modal.enter()" in finding.help

    def test_blocking_calls_go_to_a_thread(self) -> None:
        code = HEAD + (
            "@app.cls()\n@modal.concurrent(max_inputs=9)\nclass A:\n    @modal.method()\n"
            "    async def run(self, url):\n        return requests.get(url, timeout=3).json()"
        )
        corrected = fixed(code, "STK011")
        assert "(await asyncio.to_thread(requests.get, url, timeout=3)).json()" in corrected
        assert "\nimport asyncio\nimport modal\n" in "\n" + corrected

    def test_versions_come_from_a_lock_beside_the_app(self, tmp_path_factory: pytest.TempPathFactory) -> None:
        directory = tmp_path_factory.mktemp("app")
        (directory / "uv.lock").write_text('[[package]]\nname = "some-package"\nversion = "1.2.3"\n')
        (directory / "requirements.txt").write_text("other_package[extra]==4.5 ; python_version > '3'\n")
        text = 'import modal\nimage = modal.Image.debian_slim().pip_install("Some_Package", "other-package", "unheard-of")\n'
        (finding,) = check_source(source(text, str(directory / "app.py")))
        assert finding.fix is not None
        assert {edit.text for edit in finding.fix.edits} == {'"Some_Package==1.2.3"', '"other-package==4.5"'}
        assert "unheard-of" in finding.help

    def test_a_secret_leaves_the_image_and_comes_to_who_uses_it(self) -> None:
        token = "hf_" + "Zz09" * 10
        code = f"""
        import modal

        app = modal.App("x")
        image = modal.Image.debian_slim().env({{"A": "1", "HF_TOKEN": "{token}"}})

        @app.function(image=image)
        def uses():
            pass

        @app.function()
        def does_not():
            pass
        """
        corrected = fixed(code, "STK012")
        assert token not in corrected and '.env({"A": "1"})' in corrected
        assert (
            '@app.function(image=image, secrets=[modal.Secret.from_name("hf-token", required_keys=["HF_TOKEN"])])'
            in corrected
        )
        assert "@app.function()\ndef does_not" in corrected

    def test_no_diff_shows_a_secret(self) -> None:
        token = "hf_" + "Zz09" * 10
        code = f'import modal\nTOKEN = "{token}"\nimage = modal.Image.debian_slim().pip_install("pytest")\n'
        read = source(code)
        found = check_source(read)
        assert {finding.rule for finding in found} == {"STK010", "STK012"}
        for finding in found:
            assert finding.fix is not None
            assert token not in finding.fix.diff(read) + finding.message + finding.help
            assert "hf_..." in finding.fix.diff(read)


class TestIgnores:
    LINE = 'base = modal.Image.from_registry("ubuntu:latest")'

    def test_on_the_line(self) -> None:
        assert rules(f"import modal\n{self.LINE}  # stoker: ignore[STK009]") == []
        assert rules(f"import modal\n{self.LINE}  # once only. stoker: ignore") == []
        assert rules(f"import modal\n{self.LINE}  # stoker: ignore[STK001, stk009]") == []

    def test_of_another_rule_or_line(self) -> None:
        assert rules(f"import modal\n{self.LINE}  # stoker: ignore[STK001]") == ["STK009"]
        assert rules(f"import modal  # stoker: ignore\n{self.LINE}") == ["STK009"]
        assert rules(f"import modal\n{self.LINE.replace('base', 'text')}; t = '# stoker: ignore'") == ["STK009"]

    def test_for_the_file(self) -> None:
        assert rules(f"# stoker: ignore-file[STK009]\nimport modal\n{self.LINE}\n{self.LINE}") == []

    def test_anywhere_in_a_call_over_several_lines(self) -> None:
        code = HEAD + '@app.cls(\n    gpu="A10G",\n    volumes={"/models": vol},  # stoker: ignore[STK005]\n)' + LOADS
        assert check(code) == []
