"""Each rule: code it must speak about, and code on which it must be silent."""

from __future__ import annotations

import pytest

from stoker.advice.check import check_source
from stoker.advice.edits import apply
from stoker.advice.finding import Severity
from stoker.advice.rules import RULES
from tests.advice.cases import check, fixed, only, rules, source
from tests.advice.examples import HEAD, LOADS, RIGHT, WRONG


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


class TestPublicApps:
    """What was wrong about apps that others have written."""

    def test_an_image_that_grows_in_a_loop_is_named_once(self) -> None:
        code = """
        import modal

        image = modal.Image.debian_slim().pip_install("torch", "numpy")
        image = image.pip_install("einops")
        for extra in ["a", "b"]:
            image = image.pip_install(extra, "timm")
        image = image.env({"A": "1"})
        app = modal.App("x", image=image)

        @app.function(image=image)
        def f():
            pass
        """
        said = [finding.message for finding in check(code) if finding.rule == "STK010"]
        assert [sum(name in message for message in said) for name in ("torch", "einops", "timm")] == [1, 1, 1]
        assert all(len(message) < 200 for message in said)

    def test_lists_in_terms_of_each_other_are_read_once(self) -> None:
        doubled = "".join(f"P{n + 1} = P{n} + P{n}\n" for n in range(40))
        code = f'import modal\nP0 = ["torch"]\n{doubled}image = modal.Image.debian_slim().pip_install(P40, P40)\n'
        assert [finding.message.count("torch") for finding in check(code)] == [1]

    @pytest.mark.parametrize(
        ("load", "place"),
        [
            ("whisper.load_model('base')", '"/root/.cache/whisper": vol'),
            ("whisper.load_model('base', download_root='/weights')", '"/weights": vol'),
            ("faster_whisper.WhisperModel('base')", '"HF_HUB_CACHE": "/models"'),
        ],
    )
    def test_each_loader_is_told_of_its_own_cache(self, load: str, place: str) -> None:
        code = HEAD + (
            "import whisper\nimport faster_whisper\n@app.cls(image=image)\nclass A:\n    @modal.enter()\n    def up(self):\n"
            f"        self.model = {load}"
        )
        corrected = fixed(code, "STK001")
        assert place in corrected
        assert ("HF_" in corrected) == ("HF_" in place)

    def test_nothing_loads_anew_where_a_snapshot_has_it(self) -> None:
        code = HEAD + (
            '@app.cls(image=image, gpu="A10G", scaledown_window=5, volumes={"/root/.cache": vol}, enable_memory_snapshot=True,'
            ' experimental_options={"enable_gpu_snapshot": True})' + LOADS.replace("enter()", "enter(snap=True)")
        )
        finding = only(code, "STK003")
        assert "restored from its snapshot" in finding.message and "anew" not in finding.message

    def test_what_is_not_offered_is_told_once_with_what_to_use(self) -> None:
        code = HEAD + "def a():\n    modal.Sandbox.create()\ndef b():\n    return modal.Sandbox.list()"
        finding = only(code, "STK015")
        assert finding.message.startswith("This server does not offer sandboxes") and "subprocess" in finding.help

    def test_old_options_get_their_new_names(self) -> None:
        code = HEAD + "@app.function(keep_warm=1, concurrency_limit=4, container_idle_timeout=60)\ndef f():\n    pass"
        renamed = [finding for finding in check(code) if finding.rule == "STK014"]
        assert len(renamed) == 3 and all(finding.fix for finding in renamed)
        corrected = apply(source(code).text, [edit for f in renamed if f.fix for edit in f.fix.edits])
        assert "@app.function(min_containers=1, max_containers=4, scaledown_window=60)" in corrected


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
