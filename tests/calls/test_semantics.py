"""What calls promise: retries, time limits, concurrency, batches, cancellation, identity, big payloads."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import modal
import pytest

from tests.conftest import RunningServer


@pytest.fixture(scope="module")
def notes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("notes")


@pytest.fixture(scope="module")
def deployed(server: RunningServer, notes: Path) -> Iterator[RunningServer]:
    server.modal("deploy", "semantics.py", NOTES=str(notes))
    yield server


@pytest.fixture(scope="module")
def client(deployed: RunningServer) -> modal.Client:
    """The official client in this process."""
    env = deployed.env
    os.environ |= {"MODAL_SERVER_URL": env["MODAL_SERVER_URL"], "MODAL_CONFIG_PATH": env["MODAL_CONFIG_PATH"]}
    from modal.config import config

    config.override_locally("server_url", env["MODAL_SERVER_URL"])
    return modal.Client.from_credentials(env["MODAL_TOKEN_ID"], env["MODAL_TOKEN_SECRET"])


@pytest.fixture
def function(client: modal.Client) -> Any:
    return lambda name: modal.Function.from_name("semantics", name, client=client)


def attempts(notes: Path, key: str) -> int:
    path = notes / key
    return path.stat().st_size if path.exists() else 0


def test_retries_end_with_the_first_success(function: Any, notes: Path) -> None:
    assert function("flaky").remote("third", 3) == 3
    assert attempts(notes, "third") == 3


def test_retries_end_when_none_is_left(function: Any, notes: Path) -> None:
    with pytest.raises(RuntimeError, match="attempt 4 fails"):
        function("flaky").remote("never", 99)
    assert attempts(notes, "never") == 4


def test_a_map_of_retried_inputs_is_complete_and_ordered(function: Any, notes: Path) -> None:
    keys = [f"map-{n}" for n in range(20)]
    results = list(function("flaky").map(keys, [1 + n % 3 for n in range(20)]))
    assert results == [1 + n % 3 for n in range(20)]


def test_the_time_limit_holds_per_attempt(function: Any, notes: Path) -> None:
    assert function("slow_then_fast").remote("slow") == 2


def test_concurrency_is_reached_and_not_exceeded(function: Any) -> None:
    assert max(function("together").map([0.2] * 16)) == 4
    assert set(function("alone").map([0.05] * 6)) == {1}


def test_batches_fill_and_never_exceed(function: Any) -> None:
    sizes = list(function("batch").map(range(40)))
    assert max(sizes) == 4 and len(sizes) == 40
    assert function("batch").remote(1) == 1, "a single input must not wait for ever"


def test_single_use_containers_are_used_once(function: Any) -> None:
    pids = list(function("once").map(range(4)))
    assert len(set(pids)) == 4


def test_cancelling_a_spawned_call_ends_it(function: Any, notes: Path) -> None:
    call = function("linger").spawn("cancel-me")
    wait_for(lambda: attempts(notes, "cancel-me") == 1)
    call.cancel()
    with pytest.raises(modal.exception.RemoteError if hasattr(modal.exception, "RemoteError") else Exception):
        call.get(timeout=20)
    wait_for(lambda: attempts(notes, "cancel-me-cancelled") == 1)
    assert function("child").remote(1) == 2


def test_cancelling_with_terminate_containers(function: Any, notes: Path) -> None:
    call = function("linger").spawn("terminate-me")
    wait_for(lambda: attempts(notes, "terminate-me") == 1)
    call.cancel(terminate_containers=True)
    with pytest.raises(Exception, match="cancel"):
        call.get(timeout=20)


def test_get_with_a_timeout_gives_up_and_the_call_goes_on(function: Any) -> None:
    call = function("whoami").spawn(2.0)
    with pytest.raises((TimeoutError, modal.exception.TimeoutError)):
        call.get(timeout=0.2)
    input_id, call_id = call.get(timeout=30)
    assert call_id == call.object_id and input_id.startswith("in-")


def test_gather(function: Any) -> None:
    calls = [function("child").spawn(n) for n in range(5)]
    assert modal.FunctionCall.gather(*calls) == [1, 2, 3, 4, 5]


def test_maps_of_every_form(function: Any) -> None:
    child, flaky = function("child"), function("flaky")
    assert list(child.map([])) == list(child.starmap([])) == []
    assert list(child.starmap([(1,), (2,)])) == [2, 3]
    assert list(child.starmap([(), ()], kwargs={"x": 1})) == [2, 2]
    assert sorted(child.map(range(50), order_outputs=False)) == list(range(1, 51))
    with pytest.raises(ZeroDivisionError):
        list(child.map(1 // (2 - n) for n in range(4)))
    assert child.for_each([1, 2]) is None
    with pytest.raises(RuntimeError, match="attempt 4 fails"):
        flaky.for_each(["for-each"], kwargs={"good_attempt": 99})
    flaky.for_each(["ignored"], kwargs={"good_attempt": 99}, ignore_exceptions=True)


def test_spawned_maps_run_and_keep_their_results(function: Any, client: modal.Client, notes: Path) -> None:
    keys = [f"spawned-{n}" for n in range(20)]
    function("flaky").spawn_map(keys, kwargs={"good_attempt": 1})
    deadline = time.monotonic() + 60
    while [attempts(notes, key) for key in keys] != [1] * 20:
        assert time.monotonic() < deadline, "not all inputs ran"
        time.sleep(0.1)
    call_id = function("child").experimental_spawn_map([1, 2, 3]).object_id
    call = modal.FunctionCall.from_id(call_id, client=client)
    assert (call.num_inputs(), list(call.iter()), list(call.iter(start=1, end=3))) == (3, [2, 3, 4], [3, 4])
    assert [call.get(index=n) for n in range(3)] == [2, 3, 4]
    assert [item.status.name for item in call.get_call_graph()] == ["SUCCESS"] * 3


def test_functions_call_functions(function: Any) -> None:
    assert function("parent").remote(10) == 55


def test_results_can_be_fetched_again_by_id(function: Any, client: modal.Client) -> None:
    call_id = function("child").spawn(41).object_id
    assert modal.FunctionCall.from_id(call_id, client=client).get(timeout=20) == 42
    assert modal.FunctionCall.from_id(call_id, client=client).get(timeout=20) == 42


@pytest.mark.parametrize("size", [0, 1, 2 << 20, (2 << 20) + 1, 40 << 20])
def test_payloads_of_every_size(function: Any, size: int) -> None:
    data = os.urandom(1024) * (size // 1024 + 1)
    assert function("echo").remote(data[:size]) == data[:size]


def test_autoscaler_settings_change_live(function: Any) -> None:
    child = function("child")
    child.update_autoscaler(min_containers=2, scaledown_window=2)
    wait_for(lambda: child.get_current_stats().num_total_runners >= 2)
    child.update_autoscaler(min_containers=0, scaledown_window=2)
    wait_for(lambda: child.get_current_stats().num_total_runners == 0, 30)


def test_options_make_a_pool_of_their_own(client: modal.Client) -> None:
    sized = modal.Cls.from_name("semantics", "Sized", client=client)
    assert sized.with_options(timeout=100, max_containers=1)().timeout_is.remote() == "fine"


def test_a_start_that_takes_too_long_is_ended(server: RunningServer) -> None:
    done = server.modal("run", "slow_start.py::Slow.run", check=False)
    assert done.returncode != 0
    assert "start-up timeout of 2 s" in done.stdout + done.stderr


def test_the_books_say_who_called(deployed: RunningServer, function: Any) -> None:
    code = "import modal; print(modal.Function.from_name('semantics', 'parent').spawn(3).object_id)"
    call_id = deployed.python(code).stdout.split()[-1]
    code = (
        f"import modal, json; call = modal.FunctionCall.from_id({call_id!r}); call.get(timeout=30)\n"
        "[top] = call.get_call_graph()\n"
        "print(json.dumps([top.function_name, top.status.name, sorted(c.function_name for c in top.children)]))"
    )
    assert json.loads(deployed.python(code).stdout.splitlines()[-1]) == ["parent", "SUCCESS", ["child"] * 3]


def wait_for(condition: Any, seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)
