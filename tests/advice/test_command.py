"""`stoker check` as people and CI run it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from stoker.advice.edits import Edit, apply
from stoker.advice.rules import RULES
from stoker.cli.main import cli

DOCS = Path(__file__).parents[2] / "docs" / "advice.md"
WARNS = 'import modal\n\nimage = modal.Image.from_registry("ubuntu:latest")\n'
NOTES = 'import modal\n\nimage = modal.Image.debian_slim().pip_install("a==1", "unheard-of")\n'
FAILS = 'import modal\n\nTOKEN = "hf_' + "Zz09" * 10 + '"\n'


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    (tmp_path / "warns.py").write_text(WARNS)
    (tmp_path / "notes.py").write_text(NOTES)
    (tmp_path / "fails.py").write_text(FAILS)
    (tmp_path / "clean.py").write_text("import modal\n")
    (tmp_path / "other.py").write_text('x = "no app of ours"\n')
    (tmp_path / "broken.py").write_text("import modal\ndef f(:\n")
    hidden = tmp_path / ".venv" / "lib"
    hidden.mkdir(parents=True)
    (hidden / "warns.py").write_text(WARNS)
    return tmp_path


@dataclass
class Done:
    stdout: str
    stderr: str


def check(cwd: Path, *arguments: str, code: int) -> Done:
    before = Path.cwd()
    os.chdir(cwd)
    try:
        result = CliRunner().invoke(cli, ["check", *arguments], prog_name="stoker")
    finally:
        os.chdir(before)
    assert result.exit_code == code, result.output
    return Done(result.stdout, result.stderr)


def test_exit_codes_follow_what_was_found(directory: Path) -> None:
    assert check(directory, "clean.py", code=0).stdout == "Nothing found in 1 file\n"
    assert "1 note in 1 file" in check(directory, "notes.py", code=0).stdout
    check(directory, "warns.py", code=1)
    check(directory, "warns.py", "--fail-on", "error", code=0)
    check(directory, "notes.py", "--fail-on", "note", code=1)
    check(directory, "fails.py", "--fail-on", "never", code=0)


def test_what_cannot_be_checked_is_an_error(directory: Path) -> None:
    assert "broken.py:2:7: syntax error" in check(directory, "broken.py", code=2).stderr
    assert "There is no file missing.py" in check(directory, "missing.py", code=2).stderr
    (directory / "bytes.py").write_bytes(b"\xff\xfe\x00")
    assert "not Python source" in check(directory, "bytes.py", code=2).stderr
    assert "There is no rule 'STK999'" in check(directory, "warns.py", "--select", "STK999", code=2).stderr
    assert "--json" in check(directory, "warns.py", "--json", "--sarif", code=2).stderr
    empty = directory / "empty"
    empty.mkdir()
    assert "No Python file" in check(directory, "empty", code=2).stderr


def test_one_bad_file_does_not_hide_the_others(directory: Path) -> None:
    done = check(directory, "broken.py", "warns.py", code=2)
    assert "STK009" in done.stdout and "broken.py:2:7" in done.stderr


def test_a_directory_is_searched_for_apps(directory: Path) -> None:
    (directory / "broken.py").unlink()
    document = json.loads(check(directory, "--json", code=1).stdout)
    assert document["files"] == ["clean.py", "fails.py", "notes.py", "warns.py"]


def test_rules_are_chosen_by_id_or_name(directory: Path) -> None:
    check(directory, "warns.py", "--ignore", "floating-tag", code=0)
    check(directory, "warns.py", "--select", "stk009", code=1)
    check(directory, "warns.py", "--select", "STK001,STK002", code=0)


def test_the_text_has_place_correction_and_link_and_no_colours(directory: Path) -> None:
    out = check(directory, "warns.py", code=1).stdout
    assert out.startswith("warns.py:3:35 warning STK009 ")
    assert '    +image = modal.Image.from_registry("ubuntu:22.04")\n' in out
    assert "/docs/advice.md#stk009" in out


def test_a_process_ends_with_the_code_and_writes_no_colours_into_a_pipe(directory: Path) -> None:
    command = [sys.executable, "-m", "stoker", "check", "warns.py"]
    environment = {name: value for name, value in os.environ.items() if name != "FORCE_COLOR"}
    done = subprocess.run(command, capture_output=True, text=True, cwd=directory, env=environment, timeout=60)
    assert done.returncode == 1
    assert "STK009" in done.stdout and "\x1b" not in done.stdout
    assert done.stderr == ""


def test_json_has_edits_that_correct_the_file(directory: Path) -> None:
    (finding,) = json.loads(check(directory, "warns.py", "--json", code=1).stdout)["findings"]
    assert (finding["rule"], finding["name"], finding["severity"]) == ("STK009", "floating-tag", "warning")
    assert (finding["path"], finding["line"], finding["column"]) == ("warns.py", 3, 35)
    starts = [0, *(index + 1 for index, character in enumerate(WARNS) if character == "\n")]

    def index(position: list[int]) -> int:
        return starts[position[0] - 1] + position[1] - 1

    edits = [Edit(index(edit["start"]), index(edit["end"]), edit["text"]) for edit in finding["fix"]["edits"]]
    (directory / "warns.py").write_text(apply(WARNS, edits))
    check(directory, "warns.py", code=0)


def test_no_output_shows_a_secret(directory: Path) -> None:
    for flag in ([], ["--json"], ["--sarif"]):
        assert "Zz09" not in check(directory, "fails.py", *flag, code=1).stdout


def test_sarif_has_the_shape_of_the_standard(directory: Path) -> None:
    document = json.loads(check(directory, "warns.py", "notes.py", "fails.py", "--sarif", code=1).stdout)
    assert document["version"] == "2.1.0" and document["$schema"].endswith("sarif-2.1.0.json")
    (run,) = document["runs"]
    driver = run["tool"]["driver"]
    assert [rule["id"] for rule in driver["rules"]] == [rule.id for rule in RULES]
    assert run["invocations"] == [{"executionSuccessful": True, "toolExecutionNotifications": []}]
    assert {result["level"] for result in run["results"]} == {"note", "warning", "error"}
    for result in run["results"]:
        assert driver["rules"][result["ruleIndex"]]["id"] == result["ruleId"]
        assert result["message"]["text"]
        (location,) = result["locations"]
        physical = location["physicalLocation"]
        assert physical["artifactLocation"]["uri"] in {"warns.py", "notes.py", "fails.py"}
        _check_region(physical["region"])
        for fix in result.get("fixes", []):
            (change,) = fix["artifactChanges"]
            assert change["artifactLocation"] == physical["artifactLocation"]
            assert change["replacements"]
            for replacement in change["replacements"]:
                _check_region(replacement["deletedRegion"])
                assert isinstance(replacement["insertedContent"]["text"], str)
    broken = json.loads(check(directory, "broken.py", "--sarif", code=2).stdout)["runs"][0]["invocations"][0]
    assert broken["executionSuccessful"] is False
    assert "syntax error" in broken["toolExecutionNotifications"][0]["message"]["text"]


def _check_region(region: dict[str, Any]) -> None:
    assert all(isinstance(value, int) and value >= 1 for value in region.values())
    assert (region["startLine"], region["startColumn"]) <= (region["endLine"], region["endColumn"])


def test_the_list_and_the_page_name_all_rules(directory: Path) -> None:
    listed = json.loads(check(directory, "--list", "--json", code=0).stdout)
    assert [rule["id"] for rule in listed] == [rule.id for rule in RULES]
    headings = [line for line in DOCS.read_text().splitlines() if line.startswith("### ")]
    assert headings == [f"### {rule.id}" for rule in RULES]
    text = DOCS.read_text()
    for rule in RULES:
        section = text.partition(f"### {rule.id}\n")[2].partition("\n### ")[0]
        assert section.startswith(f"\n**{rule.title}** (`{rule.name}`)"), rule.id


def test_help_shows_examples(directory: Path) -> None:
    assert "stoker check . --sarif" in check(directory, "--help", code=0).stdout
