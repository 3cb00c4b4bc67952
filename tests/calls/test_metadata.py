"""What clients are told of apps, functions, servers, calls and named objects when they look."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import closing

import pytest

from stoker.services.containers.identity_tokens import DISCOVERY_PATH
from tests.conftest import RunningServer
from tests.services.test_identity_tokens import checked

_PRELUDE = """
import json, time, modal
A = "looked-up"
F = lambda name: modal.Function.from_name(A, name)
show = lambda value: print(json.dumps(value, default=str))
"""


@pytest.fixture(scope="module")
def looked(server: RunningServer) -> Iterator[RunningServer]:
    server.modal("deploy", "looked_up.py")
    yield server
    server.modal("app", "stop", "--yes", "looked-up", check=False)


def ask(server: RunningServer, code: str) -> list[object]:
    return [json.loads(line) for line in server.python(_PRELUDE + code).stdout.splitlines()]


def test_an_app_that_is_looked_up_is_known_at_once(looked: RunningServer) -> None:
    code = """
by_name = modal.App.lookup(A)
refreshed = by_name.info(refresh=True)
listed = {a.name: a for a in modal.Environment.from_name("main").apps.list()}[A].info()
by_id = modal.App.lookup(by_name.app_id).info()
found = by_name.info()
show([found == refreshed, found == listed, found == by_id])
life = found.lifecycle
show([life.state.value, life.version, life.created_by, life.deployed_by, life.stopped_at])
show([time.time() - life.created_at.timestamp() < 600, life.deployed_at >= life.created_at])
show([sorted(found.functions), sorted(found.servers)])
show([sorted(by_name.stats().functions) == sorted(found.functions), list(by_name.stats().servers)])
"""
    same, life, times, members, stats = ask(looked, code)
    assert same == [True, True, True]
    assert life == ["deployed", 1, "local", "local", None]
    assert times == [True, True]
    functions = [
        "Speaker.*",
        "about_volume",
        "environment",
        "failing",
        "restricted_environment",
        "say",
        "spawning",
        "together",
        "twice",
    ]
    assert members == [functions, ["Sleeper"]]
    assert stats == [True, ["Sleeper"]]


def test_an_app_names_whoever_stopped_it(looked: RunningServer) -> None:
    code = """
app = modal.App.lookup("to-be-stopped", create_if_missing=True)
show([app.app_id, app.info(refresh=True).lifecycle.stopped_by])
with modal.App("ends-by-itself").run() as other:
    pass
show([other.app_id])
"""
    [stopped, before], [finished] = ask(looked, code)  # type: ignore[misc]
    looked.modal("app", "stop", "--yes", "to-be-stopped")
    code = f"""
from modal.experimental import get_app_lifecycle
for app_id in ({stopped!r}, {finished!r}):
    while not (life := get_app_lifecycle(app_id)).stopped_at:
        time.sleep(0.1)
    show([life.created_by, life.stopped_by])
"""
    assert before is None and ask(looked, code) == [["local", "local"], ["local", None]]
    again = looked.modal("app", "stop", "--yes", stopped, check=False)
    assert "already stopped" in again.stderr and "by 'local'" in again.stderr


def test_calls_of_a_class_name_their_method(looked: RunningServer) -> None:
    code = """
import urllib.request
speaker = modal.Cls.from_name(A, "Speaker")()
speaker.say.remote("one")
list(speaker.say.map(["two", "three"]))
urllib.request.urlopen(speaker.web.get_web_url()).read()
F("say").remote("no method")
"""
    ask(looked, code)

    def methods(function: str, count: int) -> list[str | None]:
        while len(lines := json.loads(looked.modal("function", "calls", function, "--json").stdout)) < count:
            pass
        return [line["service_method_name"] for line in lines]

    assert sorted(methods("looked-up/Speaker.*", 4)) == ["say", "say", "say", "web"]  # type: ignore[type-var]
    assert set(methods("looked-up/say", 1)) == {None}


def test_the_newest_calls_come_first(looked: RunningServer) -> None:
    code = """
ids = [call.object_id for call in (F("about_volume").spawn(), F("about_volume").spawn())]
modal.FunctionCall.gather(*map(modal.FunctionCall.from_id, ids))
show(ids)
"""
    [[first, second]] = ask(looked, code)  # type: ignore[misc]
    for options, expected in (((), [second, first]), (("--since", "1h"), [first, second])):
        lines = json.loads(looked.modal("function", "calls", "looked-up/about_volume", "--json", *options).stdout)
        ids = [line["function_call_id"] for line in lines]
        assert [id for id in ids if id in expected] == expected


def test_lists_are_of_one_environment(looked: RunningServer) -> None:
    code = """
modal.Environment.objects.create("elsewhere")
elsewhere = modal.App.lookup("far-away", environment_name="elsewhere", create_if_missing=True)
from modal.experimental import list_deployed_apps
names = lambda environment: [app.name for app in list_deployed_apps(environment)]
show([A in names(""), "far-away" in names(""), names("elsewhere")])
show([app.name for app in modal.Environment.from_name("elsewhere").apps.list()])
"""
    assert ask(looked, code) == [[True, False, ["far-away"]], ["far-away"]]
    listed = [
        {row["description"] for row in json.loads(looked.modal("app", "list", "--json", *options).stdout)}
        for options in ((), ("-e", "elsewhere"))
    ]
    assert "looked-up" in listed[0] and "far-away" not in listed[0] and listed[1] == {"far-away"}
    looked.modal("environment", "delete", "--yes", "elsewhere")


def test_a_server_tells_about_itself(looked: RunningServer) -> None:
    code = """
info = modal.Server.from_name(A, "Sleeper").info()
show([info.port, info.unauthenticated, info.sessioned, info.startup_timeout, info.exit_grace_period, info.server_url])
"""
    [[*told, url]] = ask(looked, code)  # type: ignore[misc]
    assert told == [8399, True, False, 41, 7]
    assert "local--looked-up-sleeper" in str(url)
    looked.modal("server", "info", "looked-up/Sleeper")


def test_options_are_seen_in_the_function_that_has_them(looked: RunningServer) -> None:
    code = """
for f in (F("say"), F("say").with_options(timeout=99, max_containers=5, cpu=2, memory=512)):
    f.hydrate()
    f = modal.Function.from_id(f.object_id)
    i = f.info()
    show([i.timeout, i.max_retries, i.cpu, i.memory_mib, f.autoscaler.settings().max_containers])
"""
    assert ask(looked, code) == [[77, 2, None, None, 3], [99, 2, 2.0, 512, 5]]


def test_a_limit_of_containers_can_be_taken_away(looked: RunningServer) -> None:
    code = """
f = F("twice")
show([f.autoscaler.update(max_containers=n).max_containers for n in (1, None)])
show(f.remote("x"))
"""
    assert ask(looked, code) == [[1, None], "xx"]


def test_whoever_made_an_object_is_named(looked: RunningServer) -> None:
    code = """
for kind, options in ((modal.Volume, {}), (modal.Dict, {}), (modal.Queue, {}), (modal.Secret, {"env_dict": {"K": "v"}})):
    kind.objects.create("made-by", allow_existing=True, **options)
    made = kind.from_name("made-by")
    made.hydrate()
    listed = {o.name: o for o in kind.objects.list()}["made-by"]
    show([made.info().created_by, listed.info().created_by, time.time() - made.info().created_at.timestamp() < 600])
    kind.objects.delete("made-by")
show(F("about_volume").remote())
"""
    *objects, inside = ask(looked, code)
    assert objects == [["local", "local", True]] * 4
    assert isinstance(inside, list) and inside[0] > 1.7e9 and inside[1] == "local"
    for noun in ("volume", "dict", "queue", "secret"):
        looked.modal(noun, "create", "made-by-cli", *(["K=v"] if noun == "secret" else []))
        listed = json.loads(looked.modal(noun, "list", "--json").stdout)
        assert {row["created_by"] for row in listed} == {"local"}, noun


def test_a_call_tells_its_app_and_how_far_it_is(looked: RunningServer) -> None:
    code = """
call = F("say").spawn("soon")
call.get()
again = modal.FunctionCall.from_id(call.object_id)
show([again.num_inputs(), again.get_call_graph()[0].module_name, again.get_call_graph()[0].function_name])
show([e.message for e in again.logs.stream(timeout=30)])
"""
    told, streamed = ask(looked, code)
    assert told == [1, "looked_up", "say"]
    assert streamed == ["said soon\n"]


def test_web_requests_leave_a_line_and_nothing_that_they_carried(looked: RunningServer) -> None:
    code = """
import urllib.error, urllib.request
def get(name, query=""):
    try:
        with urllib.request.urlopen(F(name).get_web_url() + query) as answer:
            return answer.headers["Modal-Function-Call-Id"], json.loads(answer.read())
    except urllib.error.HTTPError as error:
        return error.headers["Modal-Function-Call-Id"], error.code
web, answer = get("spawning", "?word=a-word-of-the-request")
failed, status = get("failing")
call = modal.FunctionCall.from_id(answer["call"])
assert call.get() == "a-word-of-the-request"
while True:
    try:
        modal.FunctionCall.from_id(web).hydrate().get_call_graph(), modal.FunctionCall.from_id(failed).get_call_graph()
        break
    except modal.exception.NotFoundError:
        time.sleep(0.1)
[root] = call.get_call_graph()
[child] = root.children
show([root.function_call_id == web, root.function_name, root.module_name, root.status.name, root.task_id[:3]])
show([child.function_call_id == call.object_id, child.function_name, child.children, status, failed])
stats = F("spawning").stats()
show([stats.input_success_count, F("failing").stats().input_failure_count, stats.container_started_count])
"""
    root, child, stats = ask(looked, code)
    assert root == [True, "spawning", "looked_up", "SUCCESS", "ta-"]
    assert isinstance(child, list) and child[:4] == [True, "say", [], 500]
    assert stats == [1, 1, 1]
    [line] = json.loads(looked.modal("function", "calls", "looked-up/failing", "--json").stdout)
    assert line["function_call_id"] == child[4] and line["status"] == "failure"
    assert line["enqueued_at"] <= line["started_at"] and line["container_id"].startswith("ta-")
    with closing(sqlite3.connect(looked.data / "stoker.db")) as database:
        of_web = "select i.payload, o.result from inputs i join outputs o on o.input_id = i.id join calls c on c.id = i.call_id"
        assert {*database.execute(f"{of_web} where c.kind = 'web'")} == {(b"", b"")}


def test_a_call_is_seen_whose_parent_is_not_known_any_more(looked: RunningServer) -> None:
    code = """
parent = F("twice").spawn("x")
parent.get()
[root] = parent.get_call_graph()
show([parent.object_id, root.children[0].function_call_id])
"""
    [[parent, child]] = ask(looked, code)  # type: ignore[misc]
    with closing(sqlite3.connect(looked.data / "stoker.db", timeout=30)) as database, database:
        for table, column in (("inputs", "call_id"), ("outputs", "call_id"), ("calls", "id")):
            database.execute(f"delete from {table} where {column} = ?", (parent,))
    code = f"[i] = modal.FunctionCall.from_id({child!r}).get_call_graph(); show([i.function_name, i.function_call_id])"
    assert ask(looked, code) == [["say", child]]


def test_stats_tell_how_much_room_is_left(looked: RunningServer) -> None:
    code = """
f = F("together")
call = f.spawn("in-between", 4)
while not (stats := f.get_current_stats()).num_running_inputs:
    time.sleep(0.1)
show([stats.num_total_runners, stats.num_running_inputs, stats.input_headroom])
call.get()
"""
    assert ask(looked, code) == [[1, 1, 7]]


def test_logs_of_one_call_are_its_own(looked: RunningServer) -> None:
    code = """
words = ["north", "east", "south", "west"]
calls = [F("say").spawn(word) for word in words]
modal.FunctionCall.gather(*calls)
parent = F("twice").spawn("up")
parent.get()
[root] = parent.get_call_graph()
both = [F("together").spawn(word, 1.5) for word in ("left", "right")]
modal.FunctionCall.gather(*both)
ids = [*(c.object_id for c in calls), parent.object_id, root.children[0].function_call_id, both[0].object_id]
show(ids)
show([[e.message for e in modal.FunctionCall.from_id(id).logs.tail()] for id in ids])
[entry] = calls[0].logs.tail()
show([id[:3] for id in entry.context_ids])
"""
    ids, messages, context = ask(looked, code)
    assert isinstance(ids, list) and isinstance(messages, list)
    assert messages[:6] == [[f"said {w}\n"] for w in ("north", "east", "south", "west")] + [
        ["twice up\n"],
        ["said up\n"],
    ]
    # Of calls that run in one container at the same time, nobody can tell whose a line is.
    assert (
        {"begins left\n", "ends left\n"}
        <= {*messages[6]}
        <= {f"{w} {d}\n" for w in ("begins", "ends") for d in ("left", "right")}
    )
    assert context == ["in-", "ta-"]

    def log(*options: str) -> list[str]:
        return looked.modal("app", "logs", "looked-up", *options).stdout.splitlines()

    assert log("--function-call", ids[1]) == ["said east"]
    assert log("--function-call", ids[1], "--since", "1h") == ["said east"]
    assert log("--function-call", "fc-" + "0" * 22) == []
    assert "said west" in log()


def test_logs_of_a_container_end_with_it(looked: RunningServer) -> None:
    code = """
call = F("say").spawn("for the container")
call.get()
show(call.get_call_graph()[0].task_id)
"""
    [task_id] = ask(looked, code)
    assert isinstance(task_id, str)
    following = [sys.executable, "-m", "modal", "container", "logs", "--follow", task_id]
    with subprocess.Popen(following, env=looked.env, stdout=subprocess.PIPE, text=True) as follower:
        assert follower.stdout is not None
        assert any("said for the container" in line for line in follower.stdout)
        follower.terminate()
    looked.modal("container", "stop", "--yes", task_id)
    for _ in range(100):
        if task_id not in looked.modal("container", "list", "--json").stdout:
            break
    assert "said for the container" in looked.modal("container", "logs", "--follow", task_id, timeout=30).stdout


def test_a_container_knows_where_it_is_and_can_prove_who_it_is(looked: RunningServer) -> None:
    code = """
f = F("environment").hydrate()
show([f.remote(), f.object_id, modal.App.lookup(A).app_id])
"""
    [[environment, function_id, app_id]] = ask(looked, code)  # type: ignore[misc]
    assert isinstance(environment, dict)
    assert environment["MODAL_REGION"] == "local"
    assert environment["MODAL_CLOUD_PROVIDER"] == "CLOUD_PROVIDER_UNSPECIFIED"
    token = environment["MODAL_IDENTITY_TOKEN"]
    base = json.loads((looked.data / "server.json").read_text())["http_url"]
    with urllib.request.urlopen(base + DISCOVERY_PATH) as answer:
        discovery = json.load(answer)
    assert discovery["issuer"] == base
    with urllib.request.urlopen(discovery["jwks_uri"]) as answer:
        claims = checked(token, json.load(answer))
    assert claims["iss"] == base
    assert (claims["app_id"], claims["function_id"], claims["app_name"]) == (app_id, function_id, "looked-up")
    assert claims["container_id"] == environment["MODAL_TASK_ID"]


def test_a_restricted_container_has_no_identity(looked: RunningServer) -> None:
    [environment] = ask(looked, 'show(F("restricted_environment").remote())')
    assert isinstance(environment, dict) and environment["MODAL_REGION"] == "local"
    assert "MODAL_IDENTITY_TOKEN" not in environment
