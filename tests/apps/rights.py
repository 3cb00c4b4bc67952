"""Functions that ask the server for whatever they are told, as code in a container can, past the client."""

import asyncio
import os
import time
from collections.abc import Iterator

import modal

app = modal.App("rights")
image = modal.Image.debian_slim(python_version="3.11")
shelf = modal.Volume.from_name("rights-shelf", create_if_missing=True)

Question = tuple[str, bytes, dict[str, str]]
"""An RPC, its request, and the metadata that goes with it."""


async def put_questions(questions: list[Question], host: str = "", port: int = 0) -> list[tuple[str, str, bytes]]:
    """The status, the sentence and the (first) answer to each. What is still waited for after a moment counts as OK. host, port: of the server
    for a client; a container has its own socket."""
    from google.protobuf import message_factory
    from grpclib.client import Channel
    from grpclib.exceptions import GRPCError
    from modal_proto import api_grpc, api_pb2

    methods = api_pb2.DESCRIPTOR.services_by_name["ModalClient"].methods_by_name
    path = None if host else os.environ["MODAL_SERVER_URL"].removeprefix("unix://")
    channel = Channel(host or None, port or None, path=path)
    stub = api_grpc.ModalClientStub(channel)

    async def put(question: Question) -> tuple[str, str, bytes]:
        name, encoded, metadata = question
        request = message_factory.GetMessageClass(methods[name].input_type).FromString(encoded)
        answer = None
        try:
            if methods[name].server_streaming:
                async with getattr(stub, name).open(timeout=5, metadata=metadata) as stream:
                    await stream.send_message(request, end=True)
                    answer = await stream.recv_message()
            else:
                answer = await getattr(stub, name)(request, timeout=5, metadata=metadata)
        except GRPCError as error:
            return error.status.name, error.message or "", b""
        except asyncio.TimeoutError:
            pass
        return "OK", "", answer.SerializeToString() if answer is not None else b""

    try:
        return list(await asyncio.gather(*map(put, questions)))
    finally:
        channel.close()


@app.function(image=image)
def ask(questions: list[Question]) -> list[tuple[str, str, bytes]]:
    return asyncio.run(put_questions(questions))


@app.function(image=image, restrict_modal_access=True, volumes={"/shelf": shelf})
def ask_restricted(questions: list[Question]) -> list[tuple[str, str, bytes]]:
    return asyncio.run(put_questions(questions))


@app.function(image=image)
def identity() -> tuple[str, str]:
    """The ids of its container and of its input."""
    return os.environ["MODAL_TASK_ID"], modal.current_input_id() or ""


@app.function(image=image)
def echo(value: object) -> object:
    return value


@app.function(image=image)
def slow(seconds: float) -> str:
    print("slow begins", flush=True)
    time.sleep(seconds)
    return "slow"


@app.function(image=image)
def count_slowly(seconds: float) -> Iterator[int]:
    for number in range(3):
        yield number
        time.sleep(seconds)


@app.function(image=image)
def call_and_cancel(app_name: str) -> str:
    """Ends a call of another app that it made itself."""
    call = modal.Function.from_name(app_name, "slow").spawn(60)
    call.cancel()
    try:
        return str(call.get(timeout=30))
    except Exception as error:
        return str(error)


@app.function(image=image)
def use(app_name: str, environment: str) -> dict[str, object]:
    """What apps do with the objects of their workspace."""
    there = {"environment_name": environment} if environment else {}
    found: dict[str, object] = {}
    found["remote"] = modal.Function.from_name(app_name, "echo", **there).remote("hi")
    found["spawn"] = modal.Function.from_name(app_name, "echo", **there).spawn(2).get()
    found["map"] = list(modal.Function.from_name(app_name, "echo", **there).map([1, 2, 3]))
    found["generator"] = list(modal.Function.from_name(app_name, "count_slowly", **there).remote_gen(0.0))
    found["large"] = len(modal.Function.from_name(app_name, "echo", **there).remote(bytes(3 << 20)))
    entries = modal.Dict.from_name("rights-entries", **there)
    entries["key"] = "value"
    found["dict"] = entries["key"]
    line = modal.Queue.from_name("rights-line", **there)
    line.put(7)
    found["queue"] = line.get()
    volume = modal.Volume.from_name("rights-shelf", **there)
    with volume.batch_upload(force=True) as batch:
        batch.put_file(__file__, "/uploaded.py")
    found["volume"] = b"".join(volume.read_file("uploaded.py")).startswith(b'"""Functions')
    if not environment:
        modal.Dict.from_name("rights-made-inside", create_if_missing=True)["a"] = 1
        modal.Dict.objects.delete("rights-made-inside")
        found["secret"] = modal.Secret.from_name("rights-secret").hydrate().object_id[:3]
        found["app"] = modal.App.lookup("rights-looked-up", create_if_missing=True).app_id[:3]
        with modal.Dict.ephemeral() as passing:
            passing["x"] = 1
            found["ephemeral"] = passing["x"]
    return found


@app.function(image=image)
def use_as_client(token_id: str, token_secret: str) -> list[str]:
    """What only somebody with a token can do."""
    with modal.Client.from_credentials(token_id, token_secret) as client:
        return sorted(environment.name for environment in modal.Environment.objects.list(client=client))


@app.function(image=image, restrict_modal_access=True, volumes={"/shelf": shelf})
def work_restricted(value: bytes) -> tuple[bytes, str]:
    """Runs its inputs and its volume, and finds everything else closed."""
    with open("/shelf/from-restricted.txt", "w") as file:
        file.write(str(len(value)))
    shelf.commit()
    shelf.reload()
    closed = []
    for attempt in (
        lambda: modal.Function.from_name("rights", "echo").remote(1),
        lambda: echo.remote(1),
        lambda: modal.Dict.from_name("rights-entries", create_if_missing=True).put("a", 1),
        lambda: modal.Volume.from_name("rights-other-shelf", create_if_missing=True).hydrate(),
        lambda: modal.Secret.from_name("rights-secret").hydrate(),
        lambda: modal.App.lookup("rights", create_if_missing=True),
        lambda: shelf.listdir("/"),
        lambda: shelf.remove_file("from-restricted.txt"),
    ):
        try:
            attempt()
            closed.append("got through")
        except Exception as error:
            closed.append(type(error).__name__)
    return value, ",".join(closed)


@app.function(image=image, restrict_modal_access=True)
def count_restricted(count: int) -> Iterator[int]:
    yield from range(count)


@app.cls(image=image, restrict_modal_access=True)
class Restricted:
    @modal.enter()
    def begin(self) -> None:
        self.number = 41

    @modal.method()
    def add(self, more: int) -> int:
        return self.number + more

    @modal.exit()
    def end(self) -> None:
        print("the restricted one leaves", flush=True)


@app.function(image=image.pip_install("fastapi[standard]"), restrict_modal_access=True)
@modal.fastapi_endpoint(method="POST")
def page(item: dict) -> dict:
    return {"size": len(item["text"])}
