"""`stoker new`, from a checkout and from a built wheel."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from typer.testing import CliRunner

from stoker.advice.check import check_paths
from stoker.advice.finding import Severity
from stoker.cli.main import cli
from stoker.errors import AlreadyExists, InvalidArgument, NotFound

REPOSITORY = Path(__file__).parents[2]
EXAMPLES = sorted(path.parent.name for path in (REPOSITORY / "examples").glob("*/README.md"))


def new(*arguments: object) -> str:
    result = CliRunner().invoke(cli, ["new", *map(str, arguments)], prog_name="stoker", catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def test_the_examples_are_listed() -> None:
    listed = json.loads(new("--list", "--json"))
    assert [example["name"] for example in listed] == EXAMPLES
    assert all(example["title"] for example in listed)
    assert new() == new("--list")


@pytest.mark.parametrize("example", EXAMPLES)
def test_a_starter_is_an_app_of_its_own(example: str, tmp_path: Path) -> None:
    target = tmp_path / "My first app"
    said = json.loads(new(example, target, "--json"))
    assert said["name"] == "My-first-app"
    assert {str(path.relative_to(target)) for path in target.rglob("*") if path.is_file()} == set(said["files"])
    assert said["next"][0] == f"cd {target}" and len(said["next"]) > 1
    code = "".join(path.read_text() for path in target.rglob("*.py"))
    ast.parse(code.replace("from __future__", "#"))
    assert "My-first-app" in code and f"example-{example}" not in code
    readme = (target / "README.md").read_text()
    assert "](../" not in readme and "examples/" not in readme.replace("/tree/main/examples/", "")
    report = check_paths([target])
    assert not report.errors
    assert [f.rule for _, f in report.findings if f.severity is not Severity.NOTE] == []


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.py").write_text("keep")
    (tmp_path / "file").write_text("keep")
    for target in ("full", "file"):
        with pytest.raises(AlreadyExists):
            new(EXAMPLES[0], tmp_path / target)
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["mine.py"]
    (tmp_path / "empty").mkdir()
    assert "Wrote the app" in new(EXAMPLES[0], tmp_path / "empty")


def test_what_cannot_be_is_said(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=r"'nonsense'.*diffusion"):
        new("nonsense", tmp_path / "a")
    for name in ("a/b", "-x", "x" * 50):
        with pytest.raises(InvalidArgument, match="--name"):
            new(EXAMPLES[0], tmp_path / "a", f"--name={name}")
    with pytest.raises(InvalidArgument):
        new(EXAMPLES[0], tmp_path / "日本")
    assert list(tmp_path.iterdir()) == []


def test_the_wheel_has_the_examples(tmp_path: Path) -> None:
    built = subprocess.run(
        [sys.executable, "-m", "uv", "build", "--wheel", "--quiet", "--out-dir", str(tmp_path), str(REPOSITORY)],
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert built.returncode == 0, built.stderr
    (wheel,) = tmp_path.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    assert not list((tmp_path / "site").rglob("__pycache__"))
    start = (
        "import sys, stoker; assert stoker.__file__.startswith(sys.argv.pop(1)); import stoker.cli.main as m; m.app()"
    )
    done = subprocess.run(
        [sys.executable, "-c", start, str(tmp_path / "site"), "new", "diffusion", "my-app", "--json"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path / "site")},
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert "app.py" in json.loads(done.stdout)["files"]
    assert 'modal.App("my-app")' in (tmp_path / "my-app" / "app.py").read_text()
