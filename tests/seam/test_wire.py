"""Values of the seam as messages: they come back as they were, and what is not plain or not known is refused."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stoker import errors
from stoker.errors import InvalidArgument, StokerError
from stoker.nodes import events, wire
from stoker.nodes.buckets import BucketMount, Credentials
from stoker.nodes.builds import ContextRef, FunctionStep, ImageConfig, ImageSpec, Leftover, RegistryAuth
from stoker.nodes.endings import Exit, ExitKind, Limits
from stoker.nodes.messages import ContainerRequest, Started, VolumeUse
from stoker.nodes.twins import Twin
from stoker.nodes.v1 import node_pb2 as pb
from tests.seam.values import values

TWINS: dict[str, Twin[Any, Any]] = {twin.value.__name__: twin for twin in vars(wire).values() if isinstance(twin, Twin)}
REQUEST = ContainerRequest("ta-1", "im-1", ImageConfig(), "1.6.4", b"arguments", "main")
every_twin = pytest.mark.parametrize("twin", TWINS.values(), ids=TWINS.keys())


def over(message: Any) -> Any:
    """What comes of a message that was bytes."""
    return type(message).FromString(message.SerializeToString())


@every_twin
@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_every_value_comes_back_as_it_was(twin: Twin[Any, Any], data: st.DataObject) -> None:
    value = data.draw(values(twin.value))
    back = twin.decode(over(twin.encode(value)))
    assert back == value


@settings(deadline=None)
@given(event=values(events.Event))
def test_every_event_comes_back_as_it_was(event: events.Event) -> None:
    assert wire.decode_event(over(wire.encode_event(event))) == event


@settings(deadline=None)
@given(spec=values(ImageSpec))
def test_an_image_is_the_same_on_the_other_side(spec: ImageSpec) -> None:
    assert wire.IMAGE_SPEC.decode(over(wire.IMAGE_SPEC.encode(spec))).fingerprint() == spec.fingerprint()


def test_none_and_empty_are_not_the_same() -> None:
    for twin, none, empty in (
        (wire.LIMITS, Limits(), Limits(cpu_milli=0, memory_bytes=0, disk_bytes=0, tasks=0)),
        (wire.CONTEXT_REF, ContextRef(), ContextRef(registry_auth=RegistryAuth("static", {}))),
        (wire.IMAGE_SPEC, ImageSpec((), {}), ImageSpec((), {}, function=FunctionStep(""))),
    ):
        assert none != empty
        for value in (none, empty):
            assert twin.decode(over(twin.encode(value))) == value


@every_twin
@settings(max_examples=3, deadline=None)
@given(data=st.data())
def test_what_is_not_plain_is_refused(twin: Twin[Any, Any], data: st.DataObject) -> None:
    value = data.draw(values(twin.value))
    for field in fields(twin.value):
        for wrong in (Path("/x"), object(), print, [], bytearray(b"x")):
            for held in (wrong, (wrong,), {"name": wrong}, {wrong if wrong.__hash__ else wrong.__class__: "value"}):
                with pytest.raises(TypeError):
                    twin.encode(with_field(value, field.name, held))


def with_field(value: Any, name: str, held: object) -> Any:
    """A value as nobody who is checked by mypy can make it."""
    changed = copy.copy(value)
    object.__setattr__(changed, name, held)
    return changed


class Name(str):
    """Would come back as plain text."""


def test_what_only_looks_plain_is_refused() -> None:
    for name, held in (
        ("task_id", Name("x")),
        ("task_id", b"x"),
        ("arguments", "x"),
        ("network", 1),
        ("mounts", ["x"]),
    ):
        with pytest.raises(TypeError, match=rf"ContainerRequest\.{name}"):
            wire.CONTAINER_REQUEST.encode(with_field(REQUEST, name, held))
    with pytest.raises(TypeError, match=r"Limits\.tasks"):
        wire.LIMITS.encode(Limits(tasks=True))  # would come back as 1
    with pytest.raises(TypeError, match=r"Exit\.kind"):
        wire.EXIT.encode(Exit("oom", 137))  # type: ignore[arg-type]

    class Request(ContainerRequest):
        pass

    with pytest.raises(TypeError, match="Request"):
        wire.CONTAINER_REQUEST.encode(Request("ta-1", "im-1", ImageConfig(), "1.6.4", b"", "main"))


def test_what_does_not_fit_is_refused_without_showing_it() -> None:
    for twin, value in (
        (wire.CONTAINER_REQUEST, with_field(REQUEST, "env", {"KEY": "secret\udc80"})),
        (wire.CONTAINER_REQUEST, with_field(REQUEST, "env", {"secret\udc80": ""})),
        (wire.VOLUME_USE, VolumeUse("vo-1", "/secret\ud800")),
        (wire.LIMITS, Limits(memory_bytes=1 << 63)),
        (wire.LEFTOVER, Leftover("secret", "x", 1)),  # type: ignore[arg-type]
    ):
        with pytest.raises(InvalidArgument) as error:
            twin.encode(value)
        if twin is wire.CONTAINER_REQUEST:
            assert "secret" not in str(error.value) and "ContainerRequest.env" in str(error.value)


def test_what_people_read_never_fails() -> None:
    said = events.Output("ta-1", 2, "no file \udcff\n")
    assert wire.decode_event(over(wire.encode_event(said))) == events.Output("ta-1", 2, "no file ?\n")
    ended = Exit(ExitKind.FAILED, 1, "no file \udcff")
    assert wire.EXIT.decode(over(wire.EXIT.encode(ended))).detail == "no file ?"


@every_twin
@settings(max_examples=3, deadline=None)
@given(data=st.data())
def test_what_is_missing_is_the_default_or_refused(twin: Twin[Any, Any], data: st.DataObject) -> None:
    value = data.draw(values(twin.value))
    for field in fields(twin.value):
        message = twin.encode(value)
        if message.DESCRIPTOR.fields_by_name[field.name].is_repeated:
            continue  # none is none of them
        message.ClearField(field.name)
        if field.default is MISSING and field.default_factory is MISSING:
            with pytest.raises(InvalidArgument, match=f"{twin.value.__name__} came without '{field.name}'"):
                twin.decode(over(message))
        else:
            default = field.default if field.default is not MISSING else field.default_factory()  # type: ignore[misc]
            assert getattr(twin.decode(over(message)), field.name) == default


@every_twin
def test_a_message_of_nothing_is_no_value_that_needs_something(twin: Twin[Any, Any]) -> None:
    needs = [f.name for f in fields(twin.value) if f.default is MISSING and f.default_factory is MISSING]
    if any(not twin.message.DESCRIPTOR.fields_by_name[name].is_repeated for name in needs):
        with pytest.raises(InvalidArgument):
            twin.decode(twin.message())


def test_what_is_not_known_is_refused() -> None:
    unspecified, newer = pb.EXIT_KIND_UNSPECIFIED, 99
    for number in (unspecified, newer):
        message = pb.Exit(code=1)
        message.kind = number  # type: ignore[assignment]
        with pytest.raises(InvalidArgument, match=r"Exit\.kind"):
            wire.EXIT.decode(over(message))
    with pytest.raises(InvalidArgument, match=r"RegistryAuth\.kind is 'newer'"):
        wire.REGISTRY_AUTH.decode(pb.RegistryAuth(kind="newer"))
    with pytest.raises(InvalidArgument, match=r"BucketMount\.kind is 'newer'"):
        wire.BUCKET_MOUNT.decode(pb.BucketMount(name="bucket", mount_path="/x", kind="newer"))
    with pytest.raises(InvalidArgument, match="not known here"):
        wire.decode_event(pb.Event())
    with pytest.raises(InvalidArgument, match="not known here"):
        wire.decode_event(pb.Event.FromString(b"\xa2\x06\x00"))  # field 100
    with pytest.raises(InvalidArgument, match="name of a bucket"):
        wire.BUCKET_MOUNT.decode(pb.BucketMount(name="s3://x", mount_path="/x"))


def test_a_newer_field_is_passed_over() -> None:
    message = wire.STARTED.encode(Started("ta-1", "10.0.0.1"))
    newer = pb.Started.FromString(message.SerializeToString() + b"\xa2\x06\x01x")
    assert wire.STARTED.decode(newer) == Started("ta-1", "10.0.0.1")


def test_names_of_files_need_not_be_text() -> None:
    paths = ("/data/a", "", "/data/\udcff", "/data/\ud800", "\n")
    assert wire.decode_paths(over(wire.encode_paths(paths))) == paths
    with pytest.raises(InvalidArgument):
        wire.decode_paths(pb.Paths(paths=[b"\xff"]))


def family(kind: type[StokerError] = StokerError) -> Iterator[type[StokerError]]:
    yield kind
    for below in kind.__subclasses__():
        yield from family(below)


def test_every_error_keeps_its_class_and_its_sentence() -> None:
    for kind in family():
        if kind.__module__ != errors.__name__:
            continue  # of another test
        limited = issubclass(kind, (errors.ResourceExhausted, errors.TooManyAttempts))
        error = kind("What was wrong. \udcff", 2.5) if limited else kind("What was wrong. \udcff")  # type: ignore[call-arg]
        back = wire.decode_error(over(wire.encode_error(error)))
        assert type(back) is kind and str(back) == "What was wrong. ?"
        assert {k: v for k, v in vars(back).items() if not k.startswith("__")} == vars(error)


def test_an_error_that_is_not_known_is_the_next_one_that_is() -> None:
    back = wire.decode_error(pb.Fault(kinds=["Newer", "NotFound", "StokerError"], sentence="Gone."))
    assert type(back) is errors.NotFound and str(back) == "Gone."
    assert type(wire.decode_error(pb.Fault(kinds=["Newer"], sentence="Odd."))) is StokerError
    back = wire.decode_error(over(wire.encode_error(OSError(28, "No space left on device"))))
    assert type(back) is StokerError and str(back) == "OSError: [Errno 28] No space left on device"


def test_a_value_and_a_message_that_differ_are_no_twins() -> None:
    with pytest.raises(TypeError, match="not the same"):
        Twin(Started, pb.Usage)

    @dataclass(frozen=True)
    class Named:
        name: Path

    with pytest.raises(TypeError, match=r"Named\.name .* no message can hold"):
        Twin(Named, pb.Layer)


def test_secrets_are_not_shown() -> None:
    mount = BucketMount("bucket", "/x", credentials=Credentials("id", "secret"))
    with pytest.raises(TypeError) as error:
        wire.BUCKET_MOUNT.encode(with_field(mount, "credentials", "secret"))
    assert "secret" not in str(error.value)
    assert "secret" not in repr(wire.BUCKET_MOUNT.decode(over(wire.BUCKET_MOUNT.encode(mount))))
