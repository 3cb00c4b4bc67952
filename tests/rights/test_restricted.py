"""Functions with restrict_modal_access=True: they run like others, and reach nothing."""

from __future__ import annotations

import json
import urllib.request

from tests.rights.conftest import Rights

_CLOSED = ",".join(["PermissionDeniedError"] * 8)


def test_a_function_works_and_reaches_nothing(rights: Rights) -> None:
    for size in (3, 3 << 20):  # the larger value travels through blobs
        value, closed = rights.function("work_restricted").remote(bytes(size))
        assert len(value) == size
        assert closed == _CLOSED
    shelf = rights.server.modal("volume", "get", "rights-shelf", "from-restricted.txt", "-").stdout
    assert shelf.startswith(str(3 << 20))


def test_calls_of_all_kinds(rights: Rights) -> None:
    assert list(rights.function("count_restricted").remote_gen(50)) == list(range(50))
    assert sorted(rights.function("ask_restricted").map([[], [], []])) == [[], [], []]
    spawned = rights.function("work_restricted").spawn(b"x")
    assert spawned.get(timeout=60)[0] == b"x"


def test_a_class_is_entered_and_left(rights: Rights) -> None:
    code = "import modal; print(modal.Cls.from_name('rights', 'Restricted')().add.remote(1))"
    assert rights.server.python(code).stdout.strip() == "42"


def test_a_web_endpoint_answers(rights: Rights) -> None:
    page = rights.function("page")
    page.hydrate()
    for text in ("short", "x" * (3 << 20)):
        body = json.dumps({"text": text}).encode()
        request = urllib.request.Request(page.get_web_url(), body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=60) as answer:
            assert json.load(answer) == {"size": len(text)}


def test_the_client_shows_it(rights: Rights) -> None:
    shown = rights.server.modal("function", "info", "rights/ask_restricted").stdout
    assert "Modal API Access" in shown and "isabled" in shown.split("Modal API Access")[1].splitlines()[0]


def test_a_volume_that_is_not_mounted_is_closed(rights: Rights) -> None:
    for name in ("VolumeCommit", "VolumeReload"):
        other = rights.tell("VolumeGetOrCreate", deployment_name="rights-unmounted", object_creation_type=1)
        status, sentence, _ = rights.ask(name, by="ask_restricted", volume_id=other.volume_id)
        assert status == "PERMISSION_DENIED" and "mounted in it" in sentence
