"""The commands of the `modal` client, run against a server: what works gives the right output, what is not offered says so clearly.

The states come from stoker.protocol.commands, which docs/compatibility.md shows; a command of the client that no row covers is a failure.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from modal.cli.entry_point import entrypoint_cli

from stoker.protocol.commands import CLOUD, COMMANDS, LOCAL, NOT_YET, UNTESTED, WORKS
from stoker.unoffered import FEATURES
from tests.conftest import RunningServer

_APP = """
import modal
app = modal.App("cli-app")

@app.function()
def square(x: int) -> int:
    print("squaring", x)
    return x * x

@app.local_entrypoint()
def main():
    print("result", square.remote(7))
"""
_UNKNOWN = "A" * 22
_REFUSED = [feature.sentence for feature in FEATURES]

Check = Callable[[str], bool]


def says(*words: str) -> Check:
    return lambda out: all(word in out for word in words)


def rows(key: str, *values: str) -> Check:
    """The JSON list has rows with these values under `key`."""
    return lambda out: {*values} <= {str(row[key]) for row in json.loads(out)}


def no_rows(key: str, value: str) -> Check:
    return lambda out: value not in {str(row[key]) for row in json.loads(out)}


def anything(out: str) -> bool:
    return True


class Shell:
    """Runs commands in one directory, with one configuration file, one after the other."""

    def __init__(self, server: RunningServer, directory: Path) -> None:
        self.server, self.directory = server, directory
        self.ran: set[str] = set()
        (directory / "cli_app.py").write_text(_APP)

    def __call__(self, line: str, **env: str) -> subprocess.CompletedProcess[str]:
        words = shlex.split(line)
        self.ran.add(command_of(words))
        environment = self.server.env | {"MODAL_CONFIG_PATH": str(self.directory / "modal.toml")} | env
        return subprocess.run(
            [sys.executable, "-m", "modal", *words],
            env=environment, cwd=self.directory, capture_output=True, text=True, timeout=120, stdin=subprocess.DEVNULL,
        )  # fmt: skip

    def ok(self, line: str, check: Check = anything, **env: str) -> str:
        done = self(line, **env)
        assert done.returncode == 0, f"modal {line}\n{done.stdout}\n{done.stderr}\n{self.server.log_tail()}"
        assert check(done.stdout), f"modal {line} wrote:\n{done.stdout}"
        return done.stdout

    def fails(self, line: str, *words: str) -> None:
        done = self(line)
        out = done.stdout + done.stderr
        assert done.returncode != 0 and all(w in out for w in words), f"modal {line}: {done.returncode}\n{out}"
        assert "Traceback" not in out, out

    def json(self, line: str) -> Any:
        return json.loads(self.ok(line))


def command_of(words: list[str]) -> str:
    """The longest command of the client that a line begins with."""
    for count in range(min(3, len(words)), 0, -1):
        if (name := " ".join(words[:count])) in COMMANDS:
            return name
    raise AssertionError(f"{words} is no command in the table")


def commands_of_the_client(group: Any = entrypoint_cli, path: tuple[str, ...] = ()) -> Iterator[str]:
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands_of_the_client(command, (*path, name))
        else:
            yield " ".join((*path, name))


@pytest.fixture(scope="module")
def sh(server: RunningServer, tmp_path_factory: pytest.TempPathFactory) -> Shell:
    shell = Shell(server, tmp_path_factory.mktemp("commands"))
    shell.ok("deploy cli_app.py", says("App deployed"))
    return shell


def test_the_table_has_every_command_of_the_client() -> None:
    own = {"run"}  # a group made from the user's file, so the client lists it apart
    assert set(commands_of_the_client()) - set(COMMANDS) == set()
    assert set(COMMANDS) - set(commands_of_the_client()) - own == set()
    assert set(COMMANDS.values()) == {WORKS, LOCAL, CLOUD, NOT_YET}
    assert set(UNTESTED) <= {name for name, state in COMMANDS.items() if state != LOCAL}


def test_apps(sh: Shell) -> None:
    sh.ok("run cli_app.py", says("result 49"))
    sh.ok("app list --json", rows("description", "cli-app"))
    sh.ok("deploy cli_app.py --staged --tag waiting")
    staged = sh.json("app history cli-app --json")[0]
    assert staged["tag"] == "waiting", staged
    sh.fails("app rollback cli-app v1", "v1 is what runs")
    sh.fails("app promote cli-app v1", "was deployed, not staged")
    sh.ok(f"app promote cli-app {staged['version']}", says("Promoted App"))
    sh.fails("deploy cli_app.py --name never-deployed --staged", "Deploy it once without --staged")
    sh.ok("deploy cli_app.py --tag second")
    history = sh.json("app history cli-app --json")
    assert history[0]["tag"] == "second" and history[-1]["version"] == "v1"
    sh.ok("app rollback cli-app v1", says("rollback successful"))
    sh.ok("app rollover cli-app", says("Rollover completed"))
    assert len(sh.json("app history cli-app --json")) == len(history) + 2
    sh.fails("app rollback cli-app v99", "has no version v99")
    info = json.loads(sh.ok("app info cli-app --json"))
    assert list(info["functions"]) == ["square"] and info["lifecycle"]["state"] == "deployed"
    sh.fails("app info cli-ap", "Did you mean", "cli-app")
    sh.ok("app stats cli-app", says("deployed", f"{len(history) + 2} deployments"))
    sh.ok("app dashboard cli-app", says("ap-"), BROWSER="true")
    sh.ok("deploy --name to-stop cli_app.py")
    sh.ok("app stop to-stop --yes")
    sh.fails("app rollback to-stop", "not deployed")


def test_functions_and_containers(sh: Shell) -> None:
    call = "import modal; print(modal.Function.from_name('cli-app', 'square').remote(5))"
    assert sh.server.python(call).stdout.strip() == "25"
    sh.ok("function info cli-app/square", says("square"))
    calls = json.loads(sh.ok("function calls cli-app/square --json"))
    assert calls[-1]["status"].lower() == "success" and calls[-1]["function_call_id"].startswith("fc-")
    task = calls[-1]["container_id"]
    sh.ok("function calls cli-app/square --json --since 1h", says(task))
    stats = json.loads(sh.ok("function stats cli-app/square --json"))
    assert stats["input_success_count"] >= 1 and stats["input_failure_count"] == 0, stats
    sh.ok("function variants cli-app/square", says("No variants"))
    sh.ok("function logs cli-app/square", says("squaring 5"))
    sh.ok("app logs cli-app", says("squaring 5"))
    sh.ok("function autoscaler update cli-app/square --max-containers 3")
    sh.ok("function autoscaler settings cli-app/square --json", says("3"))
    running = json.loads(sh.ok("container list --json"))
    if task not in {c["container_id"] for c in running}:
        assert sh.server.python(call).returncode == 0
        task = json.loads(sh.ok("container list --json"))[0]["container_id"]
    sh.ok(f"container logs {task}", says("squaring"))
    sh.ok(f"container stop {task} --yes")
    sh.fails(f"container logs ta-{_UNKNOWN}", "no container")


def test_dicts_and_queues(sh: Shell) -> None:
    sh.ok("dict create shelf")
    put = "import modal; modal.Dict.from_name('shelf').update({'a': 1}); modal.Queue.from_name('line').put_many([1, 2])"
    sh.ok("queue create line")
    sh.server.python(put)
    sh.ok("dict list --json", rows("name", "shelf"))
    sh.ok("dict get shelf a", lambda out: out.strip() == "1")
    assert sh.json("dict items shelf --json") == [{"key": "a", "value": 1}]
    sh.ok("dict clear shelf --yes")
    assert sh.json("dict items shelf --json") == []
    sh.ok("dict delete shelf --yes")
    sh.fails("dict get shelf a", "Dict 'shelf' not found")
    sh.ok("queue list --json", rows("name", "line"))
    sh.ok("queue len line", lambda out: out.strip() == "2")
    sh.ok("queue peek line 2", says("1", "2"))
    sh.ok("queue clear line --yes")
    sh.ok("queue len line", lambda out: out.strip() == "0")
    sh.ok("queue delete line --yes")
    sh.fails("queue len line", "Queue 'line' not found")


def test_volumes_and_secrets(sh: Shell) -> None:
    (sh.directory / "file.txt").write_text("content")
    network_file_systems(sh)
    sh.ok("volume create box")
    sh.ok("volume put box file.txt /a.txt")
    sh.ok("volume cp box a.txt b.txt")
    assert {Path(e["filename"]).name for e in sh.json("volume ls box --json")} == {"a.txt", "b.txt"}
    sh.ok("volume get box b.txt got.txt")
    assert (sh.directory / "got.txt").read_text() == "content"
    sh.ok("volume rm box a.txt")
    sh.ok("volume list --json", rows("name", "box"))
    sh.ok("volume dashboard box", says("vo-"), BROWSER="true")
    sh.ok("volume rename box chest --yes")
    sh.ok("volume delete chest --yes")
    sh.ok("volume list --json", no_rows("name", "chest"))
    sh.ok("secret create cli-secret KEY=hidden-value")
    assert "hidden-value" not in sh.ok("secret list --json", rows("name", "cli-secret"))
    sh.ok("secret delete cli-secret --yes")
    sh.ok("secret list --json", no_rows("name", "cli-secret"))
    for noun in ("secret", "volume", "dict", "queue", "nfs"):  # who deletes is not told to create
        sh.fails(f"{noun} delete never-was --yes", "never-was", f"`modal {noun} list` shows those there are")


def network_file_systems(sh: Shell) -> None:
    sh.ok("nfs create shelf", says("Created volume"))
    sh.fails("nfs create shelf", "exists already")
    sh.ok("nfs list --json", rows("name", "shelf"))
    sh.ok("nfs put shelf file.txt /sub/g.txt")
    sh.ok("nfs ls shelf sub", lambda out: out.split() == ["g.txt"])
    sh.ok("nfs get shelf sub/g.txt -", says("content"))
    (sh.directory / "all").mkdir()
    sh.ok("nfs get shelf ** all")
    assert (sh.directory / "all/sub/g.txt").read_text() == "content"
    sh.ok("nfs rm shelf sub --recursive")
    sh.ok("nfs ls shelf", lambda out: out.strip() == "")
    sh.ok("nfs delete shelf --yes")
    sh.fails("nfs ls shelf", "NFS 'shelf' not found")


def test_images(sh: Shell) -> None:
    (sh.directory / "Dockerfile").write_text("FROM python:3.11-slim\nRUN echo hello\n")
    sh.ok("image build -t lab:v1 .", says("Image published as lab:v1"))
    named = sh.json("image names list --json --prefix la")
    assert [item["tag"] for item in named] == ["lab:v1"]
    image_id = named[0]["image_id"]
    use = f"import modal; i = modal.Image.from_id('{image_id}'); i.build(modal.App.lookup('cli-app')); i.publish('lab')"
    assert sh.server.python(use).returncode == 0
    assert sh.json("image names history lab --json")[0]["image_id"] == image_id
    assert len(sh.json("image names list --json")) == 2
    sh.ok(f"image logs {image_id} --all")
    sh.ok("image names delete lab:v1 --yes", says("Deleted named Image"))
    sh.fails("image names history lab:v1", "No publishing history")
    sh.fails("image names delete lab:v1 --yes", "Image 'lab:v1' not found")
    sh.fails(f"image logs im-{_UNKNOWN}", "Could not find image with ID")


def test_environments_and_workspace(sh: Shell) -> None:
    sh.ok("environment create cli-env")
    sh.ok("environment update cli-env --set-name cli-env2")
    sh.ok("environment list --json", rows("name", "main", "cli-env2"))
    assert sh.json("workspace members list --json")[0]["role"] == "owner"
    sh.ok("workspace settings list --json", rows("setting", "default-environment", "image-builder-version"))
    sh.ok("workspace settings set default-environment cli-env2")
    sh.ok("workspace settings list --json", rows("value", "cli-env2"))
    sh.fails("environment delete cli-env2 --yes", "default environment")
    sh.ok("workspace settings set default-environment main")
    sh.fails("workspace settings set image-builder-version nope", "not an image builder version")
    made = json.loads(sh.ok("workspace proxy-tokens create --name hooks --json"))
    token = made["Modal-Key"]
    sh.ok(f"workspace proxy-tokens update {token} name renamed")
    sh.ok(f"workspace proxy-tokens allow {token} cli-env2")
    sh.ok("workspace proxy-tokens list --environment main --json", no_rows("token_id", token))
    sh.ok("workspace proxy-tokens list --environment cli-env2 --json", rows("name", "renamed"))
    sh.ok(f"workspace proxy-tokens revoke {token} cli-env2")
    sh.ok(f"workspace proxy-tokens delete {token} --yes")
    sh.ok("workspace proxy-tokens list --json", no_rows("token_id", token))
    sh.ok("environment delete cli-env2 --yes")
    sh.ok("dashboard", says("http://"), BROWSER="true")


def test_tokens_and_profiles(sh: Shell) -> None:
    first = sh.server.env["MODAL_TOKEN_ID"]
    sh.ok("token info", says(first))
    made = stoker(sh, "token", "new", "--name", "cli", "--json")
    sh.ok("workspace member-tokens list --json", says(made["id"], first))
    mine = {"MODAL_TOKEN_ID": made["id"], "MODAL_TOKEN_SECRET": made["secret"]}
    sh.ok(f"workspace member-tokens disable {made['id']} --yes")
    assert sh("app list", **mine).returncode != 0
    sh.ok(f"workspace member-tokens enable {made['id']} --yes")
    sh.ok("app list", **mine)
    sh.ok(f"token set --token-id {made['id']} --token-secret {made['secret']} --activate", MODAL_PROFILE="other")
    sh.ok("profile activate other")
    sh.ok("profile current")
    sh.ok("profile list --json", says("other"))
    assert stoker(sh, "token", "disable", "cli", "--json")["enabled"] is False
    assert stoker(sh, "token", "enable", "cli", "--json")["enabled"] is True
    sh.ok(f"workspace member-tokens delete {made['id']} --yes")
    assert sh("app list", **mine).returncode != 0
    sh.fails(f"workspace member-tokens disable {first} --yes", "No token that works would be left")
    for command in ("token new", "token rotate"):
        approve(sh, command)


def stoker(sh: Shell, *arguments: str) -> Any:
    command = [sys.executable, "-m", "stoker.cli.main", *arguments, "--data", str(sh.server.data)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=os.environ)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def approve(sh: Shell, command: str) -> None:
    """Runs a command that asks for a token, and gives it one with `stoker token approve`."""
    sh.ran.add(command)
    env = {k: v for k, v in sh.server.env.items() if k not in ("MODAL_TOKEN_ID", "MODAL_TOKEN_SECRET")}
    env |= {"MODAL_CONFIG_PATH": str(sh.directory / "flow.toml"), "MODAL_PROFILE": "flow", "BROWSER": "true"}
    process = subprocess.Popen(
        [sys.executable, "-u", "-m", "modal", *command.split()],
        env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    shown = ""
    for line in process.stdout:
        shown += line
        if "Enter this code:" in line:
            stoker(sh, "token", "approve", line.split("Enter this code:")[1].strip(), "--json")
    assert process.wait(60) == 0, shown


_REFUSALS = (
    ["billing rates", "billing report --for today", "billing summary", "endpoint list"]
    + ["endpoint library"]
    + [f"endpoint {what} x" for what in ("info", "logs", "stats", "stop --yes")]
    + ["environment billing report main --for today", "environment billing summary main"]
    + ["environment members list main", "environment roles list main", "function metrics cli-app/square"]
    + [f"workspace service-users {what}" for what in ("list", "create x", "info x", "delete x --yes")]
    + [f"container exec ta-{_UNKNOWN} ls", f"shell ta-{_UNKNOWN}"]
)


@pytest.mark.parametrize("line", _REFUSALS)
def test_what_is_not_offered_says_so(sh: Shell, line: str) -> None:
    assert COMMANDS[command_of(shlex.split(line))] in (CLOUD, NOT_YET)
    done = sh(line)
    out = " ".join((done.stdout + done.stderr).split())
    assert done.returncode != 0 and any(said in out for said in _REFUSED), f"modal {line}: {done.returncode}\n{out}"
    assert "Traceback" not in out


def test_every_row_was_run(sh: Shell, request: pytest.FixtureRequest) -> None:
    """Last in this file: what no test above ran must be listed with a reason, and nothing else."""
    if request.config.getoption("keyword") or "::" in " ".join(request.config.args):
        pytest.skip("only a part of the file runs")
    offered = {name for name, state in COMMANDS.items() if state != LOCAL}
    assert offered - sh.ran == set(UNTESTED)
