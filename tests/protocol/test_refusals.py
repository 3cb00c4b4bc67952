"""What this server does not offer is refused in the words of who asks for it, as early as the client's requests allow."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from grpclib.client import Channel
from grpclib.const import Status
from grpclib.exceptions import GRPCError
from modal_proto import api_grpc, api_pb2

from stoker.protocol.servicers import SERVICERS
from stoker.rpc.methods import SERVICE, declared_by
from stoker.unoffered import FEATURES, of_rpc, refusal
from tests.conftest import RunningServer

_OFFERED = {name for servicer in SERVICERS for name in declared_by(servicer)}
_APP = """
import modal
import modal.experimental

app = modal.App("asks-for-too-much")
"""
_FUNCTIONS = {
    "@app.function()\n@modal.clustered(size=2)\ndef f():\n    pass": "clusters of containers (@modal.clustered)",
    "@app.function(i6pn=True)\ndef f():\n    pass": "private addresses of containers (i6pn=True)",
    "@app.cls()\n@modal.experimental.http_server(port=8000, proxy_regions=['us-east'])\nclass C:\n    pass": "modal.experimental.http_server",
    "@app.server(port=8000, h2_enabled=True)\nclass C:\n    @modal.enter()\n    def go(self):\n        pass": "h2_enabled=True",
    "bucket = modal.CloudBucketMount('b', oidc_auth_role_arn='arn:aws:iam::1:role/r')\n"
    "@app.function(volumes={'/b': bucket})\ndef f():\n    pass": "oidc_auth_role_arn",
    "@app.function(proxy=modal.Proxy.from_name('p'))\ndef f():\n    pass": "proxies with static addresses (modal.Proxy)",
}  # fmt: skip
_CALLS = {
    "modal.Sandbox.create('true', app=modal.App.lookup('refusals', create_if_missing=True))": "sandboxes (modal.Sandbox",
    "list(modal.Sandbox.list())": "sandboxes (modal.Sandbox",
    "modal.Sandbox.from_name('refusals', 'x')": "sandboxes (modal.Sandbox",
    "modal.Workspace.from_context().billing.summary()": "billing (modal.billing",
    "modal.Workspace.from_context().service_users.list()": "service users",
    "modal.experimental.list_cluster_reservations()": "clusters of containers (@modal.clustered)",
}


def test_every_rpc_that_is_not_offered_is_explained() -> None:
    missing = set(SERVICE.methods_by_name) - _OFFERED
    assert {name for name in missing if of_rpc(name) is None} == set()
    names = re.compile(r"\b(" + "|".join(SERVICE.methods_by_name) + r")\b")
    for name in missing:
        assert not names.search(refusal(name)), f"{name} is refused in the words of the wire"
    assert "NotThere" in refusal("NotThere")


def test_every_feature_is_one_of_the_protocol_or_of_the_client() -> None:
    for feature in FEATURES:
        known = [name for name in SERVICE.methods_by_name if feature.rpcs and re.fullmatch(feature.rpcs, name)]
        assert bool(known) == bool(feature.rpcs), feature.title
        assert feature.instead.endswith(".") and feature.instead[:1] in "`" + feature.instead[:1].upper()
    for name in set(SERVICE.methods_by_name) - _OFFERED:
        owners = [f.title for f in FEATURES if f.rpcs and re.fullmatch(f.rpcs, name)]
        assert len(owners) == 1, (name, owners)


@pytest.mark.parametrize("code", _FUNCTIONS)
def test_a_function_that_asks_for_it_is_not_deployed(server: RunningServer, tmp_path: Path, code: str) -> None:
    (tmp_path / "app.py").write_text(_APP + code)
    done = server.modal("deploy", str(tmp_path / "app.py"), check=False)
    said = " ".join((done.stdout + done.stderr).replace("│", " ").split())
    assert done.returncode != 0 and _FUNCTIONS[code] in said, said
    assert "App deployed" not in said


@pytest.mark.parametrize("code", _CALLS)
def test_a_program_that_asks_for_it_is_told_what_to_use(server: RunningServer, code: str) -> None:
    done = server.python(f"import modal, modal.experimental\n{code}", check=False)
    assert done.returncode != 0
    assert f"This server does not offer {_CALLS[code]}" in done.stderr, done.stderr


def test_code_in_a_container_is_told_as_well(server: RunningServer, tmp_path: Path) -> None:
    code = "@app.function()\ndef f():\n    try:\n        with modal.forward(8000):\n            pass\n    except Exception as error:\n        return str(error)\n"
    (tmp_path / "app.py").write_text(_APP + code)
    done = server.modal("run", "-w", str(tmp_path / "said"), f"{tmp_path / 'app.py'}::f")
    assert done.returncode == 0
    assert "tunnels (modal.forward)" in (tmp_path / "said").read_text()


@pytest.fixture
def taken(server: RunningServer, tmp_path: Path) -> Iterator[str]:
    """A web label that a deployed app has."""
    label = "taken-label"
    code = f"import modal\napp = modal.App('has-the-label')\n@app.function()\n@modal.asgi_app(label={label!r})\ndef web():\n    pass\n"
    (tmp_path / "taken.py").write_text(code)
    server.modal("deploy", str(tmp_path / "taken.py"))
    yield label
    server.modal("app", "stop", "--yes", "has-the-label")


def test_a_web_label_is_refused_before_images_are_built(server: RunningServer, taken: str) -> None:
    """The client sends FunctionPrecreate of all functions first, then has images built, then sends FunctionCreate."""

    async def precreate() -> Status:
        host, port = server.env["MODAL_SERVER_URL"].removeprefix("http://").split(":")
        channel = Channel(host, int(port))
        metadata = {
            "x-modal-token-id": server.env["MODAL_TOKEN_ID"],
            "x-modal-token-secret": server.env["MODAL_TOKEN_SECRET"],
            "x-modal-client-version": "1.6.4",
            "x-modal-client-type": "1",
        }
        stub = api_grpc.ModalClientStub(channel)
        app = await stub.AppGetOrCreate(
            api_pb2.AppGetOrCreateRequest(
                app_name="wants-the-label",
                object_creation_type=api_pb2.OBJECT_CREATION_TYPE_CREATE_IF_MISSING,
            ),
            metadata=metadata,
        )
        config = api_pb2.WebhookConfig(type=api_pb2.WEBHOOK_TYPE_ASGI_APP, requested_suffix=taken)
        request = api_pb2.FunctionPrecreateRequest(app_id=app.app_id, function_name="web", webhook_config=config)
        try:
            await stub.FunctionPrecreate(request, metadata=metadata)
        except GRPCError as error:
            return error.status
        finally:
            await stub.AppStop(api_pb2.AppStopRequest(app_id=app.app_id), metadata=metadata)
            channel.close()
        return Status.OK

    assert asyncio.run(precreate()) is Status.ALREADY_EXISTS


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ('gpu="B200:2"', "a GPU of type B200:2, and this machine has 1 x H100"),
        ('gpu=["A100", "L4"]', "a GPU of type A100 or L4"),
        ("cpu=10_000", "10000 CPU cores"),
        ("memory=2**30", "MiB of memory"),
    ],
)
def test_a_deployment_warns_of_functions_that_no_machine_can_hold(
    server: RunningServer, tmp_path: Path, options: str, says: str
) -> None:
    code = f"import modal\napp = modal.App('too-large')\n@app.function({options})\ndef f():\n    pass\n@app.function(gpu='H100')\ndef fits():\n    pass\n"
    (tmp_path / "app.py").write_text(code)
    done = server.modal("deploy", str(tmp_path / "app.py"))
    said = " ".join(done.stdout.replace("│", " ").split())
    assert "f cannot run on this server as it is now. The function asks for" in said
    assert says in said and "App deployed" in said
    assert "fits cannot run" not in said
    server.modal("app", "stop", "--yes", "too-large")


def test_an_old_name_of_a_gpu_means_the_same(server: RunningServer) -> None:
    from stoker.protocol.definitions import parse_definition

    resources = api_pb2.Resources(gpu_config=api_pb2.GPUConfig(gpu_type="A10G", count=1))
    request = api_pb2.FunctionCreateRequest(function=api_pb2.Function(resources=resources))
    (gpu,) = parse_definition(request.SerializeToString(), b"").resources.gpus
    assert gpu.model == "A10"
