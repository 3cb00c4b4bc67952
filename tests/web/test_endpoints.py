"""Functions that answer HTTP, through the official client and a real gateway."""

from __future__ import annotations

import http.client
import json

import pytest

from tests.web.conftest import MIB, Web, until

JSON = {"Content-Type": "application/json"}


def test_an_endpoint_with_a_model_calls_a_class(web: Web) -> None:
    path = web.path("inference-api")
    body = json.dumps({"prompt": "cat", "steps": 7})
    answer = web.ask("POST", path, body, JSON)
    assert (answer.status, answer.json()) == (200, {"filename": "/outputs/cat-7.mp4"})
    wrong = web.ask("POST", path, "{}", JSON)
    assert wrong.status == 422
    assert wrong.json()["detail"][0]["loc"] == ["body", "prompt"]
    assert web.ask("GET", path).status == 405


def test_docs_find_their_schema(web: Web) -> None:
    page = web.get("inference-api", "/docs").text
    schema_path = page.split("url: '")[1].split("'")[0]
    schema = web.ask("GET", schema_path).json()
    assert "GenerationRequest" in schema["components"]["schemas"]
    assert web.get("model-describe", "/openapi.json").status == 404  # docs were not asked for


def test_methods_of_a_class_are_endpoints(web: Web) -> None:
    assert web.get("model-describe", "/?name=Ada").json() == {"hello": "Ada"}
    assert web.get("model-describe", "").json() == {"hello": "nobody"}


def test_the_client_knows_the_urls(web: Web) -> None:
    done = web.server.python(
        "import modal\n"
        "print(modal.Function.from_name('web', 'site').get_web_url())\n"
        "print(modal.Cls.from_name('web', 'Model')().describe.get_web_url())\n"
        "print(modal.Function.from_name('web', 'private').get_web_url())\n"
    )
    site, describe, private = done.stdout.split()
    assert site == web.base + web.path("site")
    assert describe == web.base + web.path("model-describe")
    assert private == web.base + "/w/local--chosen-name"


def test_a_host_name_and_a_path_lead_to_the_same_app(web: Web) -> None:
    by_path = web.get("site", "/scope").json()
    assert by_path["root_path"] == web.path("site")
    assert by_path["url"] == web.base + web.path("site", "/scope")
    by_name = web.ask("GET", "/scope", headers={"Host": "local--web-site.localhost:80"}).json()
    assert by_name["root_path"] == ""
    assert by_name["url"] == "http://local--web-site.localhost:80/scope"
    assert web.ask("GET", "/healthz").text == "ok"  # the gateway itself is still there


def test_an_unknown_label_is_named(web: Web) -> None:
    for answer in (web.ask("GET", "/w/nobody/"), web.ask("GET", "/", headers={"Host": "nobody.localhost"})):
        assert answer.status == 404
        assert "'nobody'" in answer.text


def test_headers_are_passed_on_except_those_of_the_connection(web: Web) -> None:
    given = {"X-Mine": "1", "Connection": "x-hop", "X-Hop": "2", "TE": "trailers", "X-Request-Id": "abc-1"}
    answer = web.ask("GET", web.path("site", "/scope"), headers=given)
    names = [name for name, _ in answer.json()["headers"]]
    assert "x-mine" in names
    assert not {"connection", "x-hop", "te"} & set(names)
    assert answer.headers["x-request-id"] == "abc-1"
    assert answer.headers["modal-function-call-id"].startswith("fc-")
    bad = web.ask("GET", web.path("site", "/scope"), headers={"X-Request-Id": "a b\tc"})
    assert bad.headers["x-request-id"] != "a b\tc"


def test_events_come_while_the_app_goes_on_and_its_end_is_told_when_the_client_leaves(web: Web) -> None:
    before = web.get("site", "/seen").json()["disconnected"]
    connection, response = web.open("GET", web.path("site", "/forever"))  # never ends by itself
    assert response.readline() == b"tick\n"
    assert response.readline() == b"tick\n"
    response.close()
    connection.close()
    until(lambda: web.get("site", "/seen").json()["disconnected"] == before + 1)


def test_server_sent_events(web: Web) -> None:
    answer = web.get("site", "/events?n=4&pause=0.01")
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.text == "data: 0\n\ndata: 1\n\ndata: 2\n\ndata: 3\n\n"


def test_an_app_that_ignores_the_leaving_client_is_cancelled(web: Web) -> None:
    before = web.get("site", "/seen").json()["cancelled"]
    connection = http.client.HTTPConnection(*web.address)
    connection.request("GET", web.path("site", "/stubborn"))
    until(lambda: _is_running(web, "site"))
    connection.close()
    until(lambda: web.get("site", "/seen").json()["cancelled"] == before + 1)


def test_a_large_upload_flows_at_the_pace_of_the_app(web: Web) -> None:
    web.get("site", "/seen")
    before, peak = web.memory(), 0

    def body() -> object:
        nonlocal peak
        for _ in range(100):
            peak = max(peak, web.memory())
            yield b"u" * MIB

    path = web.path("site", "/trickle")
    answer = web.ask("POST", path, body(), {"Content-Length": str(100 * MIB)})
    assert answer.json()["size"] == 100 * MIB
    assert peak - before < 40 * MIB
    chunked = web.ask("POST", web.path("site", "/upload"), iter([b"a" * 70_000] * 10))
    assert chunked.json() == {"size": 700_000}


def test_a_large_answer_waits_for_a_slow_client(web: Web) -> None:
    web.get("site", "/seen")
    before, peak, size = web.memory(), 0, 0
    connection, response = web.open("GET", web.path("site", "/download?mib=100"))
    while chunk := response.read(MIB):
        size += len(chunk)
        peak = max(peak, web.memory())
    connection.close()
    assert size == 100 * MIB
    assert peak - before < 60 * MIB


def test_one_huge_message_passes_through_a_file(web: Web) -> None:
    web.get("bare", "/whole?1")
    before, peak, size = web.memory(), 0, 0
    connection, response = web.open("GET", web.path("bare", "/whole?60"))
    while chunk := response.read(MIB):
        assert chunk == b"y" * len(chunk)
        size += len(chunk)
        peak = max(peak, web.memory())
    connection.close()
    assert size == 60 * MIB
    assert peak - before < 50 * MIB


def test_apps_that_fail(web: Web) -> None:
    raised = web.get("site", "/raise")
    assert raised.status == 500
    assert "secret" not in raised.text
    nothing = web.get("bare", "/nothing")
    assert (nothing.status, nothing.text) == (500, "The app ended without an answer.\n")
    with pytest.raises((http.client.IncompleteRead, ConnectionError)):
        web.get("bare", "/half")
    never = web.get("silent")
    assert never.status == 504
    assert web.get("bare", "/whole?1").status == 200  # others go on


def test_a_request_that_kills_its_container_is_given_up(web: Web) -> None:
    answer = web.get("site", "/die")
    assert (answer.status, answer.text) == (500, "The app failed; `modal app logs` shows why.\n")
    assert web.get("site", "/seen").status == 200


def test_an_answer_that_has_begun_is_never_begun_again(web: Web) -> None:
    connection, response = web.open("GET", web.path("site", "/forever"))
    assert response.readline() == b"tick\n"
    web.get("site", "/die")  # takes the container with it
    with pytest.raises((http.client.IncompleteRead, ConnectionError)):
        while response.readline():
            pass
        raise http.client.IncompleteRead(b"")  # readline does not tell an early end from another
    connection.close()


def test_wsgi(web: Web) -> None:
    answer = web.ask("POST", web.path("flasky", "/a/b"), b"hello")
    assert answer.text == "POST hello"
    assert answer.headers["x-path"] == "/a/b"


def test_a_web_server_in_a_subprocess(web: Web) -> None:
    assert web.get("files", "/hostname").status == 200
    assert web.get("files", "/no/such%20file").status == 404
    assert web.ask("HEAD", web.path("files", "/hostname")).body == b""


def test_a_guarded_endpoint_wants_a_token(web: Web) -> None:
    for headers in ({}, {"Modal-Key": "wk-1", "Modal-Secret": "ws-1"}):
        answer = web.ask("GET", "/w/local--chosen-name/", headers=headers)
        assert answer.status == 401
        assert "Modal-Key" in answer.text
    made = json.loads(web.server.modal("workspace", "proxy-tokens", "create", "--name", "ci", "--json").stdout)
    key, secret = made["Modal-Key"], made["Modal-Secret"]
    good = {"Modal-Key": key, "Modal-Secret": secret}
    bearer = {"Authorization": made["Authorization"]}
    assert web.ask("GET", "/w/local--chosen-name/", headers=bearer).status == 200
    assert web.ask("GET", "/w/local--chosen-name/", headers=good).json() == "secret"
    assert web.ask("GET", "/w/local--chosen-name/", headers=good | {"Modal-Secret": secret[:-1]}).status == 401
    web.server.modal("workspace", "proxy-tokens", "delete", key, "--yes")
    assert web.ask("GET", "/w/local--chosen-name/", headers=good).status == 401


def test_guessing_a_proxy_token_is_slowed_down_where_it_comes_from(web: Web) -> None:
    made = json.loads(web.server.modal("workspace", "proxy-tokens", "create", "--name", "guessed", "--json").stdout)
    path, key = "/w/local--chosen-name/", {"Modal-Key": made["Modal-Key"]}
    answers = [web.ask_from("127.0.0.3", path, key | {"Modal-Secret": f"ws-{number}"}) for number in range(40)]
    assert answers[0].status == 401 and answers[-1].status == 429
    assert "Too many wrong tokens" in answers[-1].text and 1 <= int(answers[-1].headers["retry-after"]) <= 3
    assert web.ask_from("127.0.0.4", path, key | {"Modal-Secret": made["Modal-Secret"]}).status == 200


def _is_running(web: Web, function: str) -> bool:
    return any(f["name"] == function and f["running"] for f in web.status()["functions"])
