"""All that goes over the seam, as messages of v1/node.proto and back."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from stoker.errors import InvalidArgument, ResourceExhausted, StokerError, TooManyAttempts
from stoker.nodes.buckets import BucketMount, Credentials
from stoker.nodes.builds import ContextRef, FunctionStep, ImageConfig, ImageSpec, Leftover, RegistryAuth
from stoker.nodes.endings import Exit, ExitKind, Limits, Usage
from stoker.nodes.events import BuildOutput, Called, Ended, Event, LayerCompared, Output
from stoker.nodes.messages import ContainerRequest, Started, VolumeUse
from stoker.nodes.twins import Twin, readable, twin_enum
from stoker.nodes.v1 import node_pb2 as pb

twin_enum({kind: pb.ExitKind.Value(f"EXIT_KIND_{kind.name}") for kind in ExitKind})

# What others hold comes first.
CREDENTIALS = Twin(Credentials, pb.Credentials)
BUCKET_MOUNT = Twin(BucketMount, pb.BucketMount)
VOLUME_USE = Twin(VolumeUse, pb.VolumeUse)
LIMITS = Twin(Limits, pb.Limits)
EXIT = Twin(Exit, pb.Exit, shown=("detail",))
USAGE = Twin(Usage, pb.Usage)
IMAGE_CONFIG = Twin(ImageConfig, pb.ImageConfig)
FUNCTION_STEP = Twin(FunctionStep, pb.FunctionStep)
IMAGE_SPEC = Twin(ImageSpec, pb.ImageSpec)
REGISTRY_AUTH = Twin(RegistryAuth, pb.RegistryAuth)
CONTEXT_REF = Twin(ContextRef, pb.ContextRef)
LEFTOVER = Twin(Leftover, pb.Leftover)
CONTAINER_REQUEST = Twin(ContainerRequest, pb.ContainerRequest)
STARTED = Twin(Started, pb.Started)

_CALLED = Twin(Called, pb.Called)
_OUTPUT = Twin(Output, pb.Output, shown=("text",))
_ENDED = Twin(Ended, pb.Ended)
_LAYER_COMPARED = Twin(LayerCompared, pb.LayerCompared, shown=("wrong",))
_BUILD_OUTPUT = Twin(BuildOutput, pb.BuildOutput, shown=("text",))


def encode_event(event: Event) -> pb.Event:
    if isinstance(event, Called):
        return pb.Event(called=_CALLED.encode(event))
    if isinstance(event, Output):
        return pb.Event(output=_OUTPUT.encode(event))
    if isinstance(event, Ended):
        return pb.Event(ended=_ENDED.encode(event))
    if isinstance(event, LayerCompared):
        return pb.Event(layer_compared=_LAYER_COMPARED.encode(event))
    return pb.Event(build_output=_BUILD_OUTPUT.encode(event))


def decode_event(message: pb.Event) -> Event:
    """Raises InvalidArgument for an event of a kind that is not known here."""
    kind = message.WhichOneof("event")
    if kind == "called":
        return _CALLED.decode(message.called)
    if kind == "output":
        return _OUTPUT.decode(message.output)
    if kind == "ended":
        return _ENDED.decode(message.ended)
    if kind == "layer_compared":
        return _LAYER_COMPARED.decode(message.layer_compared)
    if kind == "build_output":
        return _BUILD_OUTPUT.decode(message.build_output)
    raise InvalidArgument("A node told something of a kind that is not known here.")


def encode_paths(paths: Sequence[str]) -> pb.Paths:
    """Names of files as Python has them, where lone surrogates stand for bytes that are no text."""
    return pb.Paths(paths=[path.encode("utf-8", "surrogatepass") for path in paths])


def decode_paths(message: pb.Paths) -> tuple[str, ...]:
    """Raises InvalidArgument."""
    try:
        return tuple(path.decode("utf-8", "surrogatepass") for path in message.paths)
    except UnicodeDecodeError as error:
        raise InvalidArgument(f"A node named a file that cannot be read: {error}.") from None


def encode_error(error: Exception) -> pb.Fault:
    """An error that is not of the family comes as a StokerError, with its class in the sentence. Who sends it notes it before."""
    if not isinstance(error, StokerError):
        return pb.Fault(kinds=[StokerError.__name__], sentence=readable(f"{type(error).__name__}: {error}"))
    kinds = [kind.__name__ for kind in type(error).__mro__ if issubclass(kind, StokerError)]
    fault = pb.Fault(kinds=kinds, sentence=readable(str(error)))
    if isinstance(error, (ResourceExhausted, TooManyAttempts)):
        fault.retry_after = error.retry_after
    return fault


def decode_error(fault: pb.Fault) -> StokerError:
    """An error of the first class that is known here."""
    known = {kind.__name__: kind for kind in _family(StokerError)}
    kind = next((known[name] for name in fault.kinds if name in known), StokerError)
    if issubclass(kind, (ResourceExhausted, TooManyAttempts)):
        return kind(fault.sentence, fault.retry_after)
    return kind(fault.sentence)


def _family(kind: type[StokerError]) -> Iterator[type[StokerError]]:
    yield kind
    for below in kind.__subclasses__():
        yield from _family(below)
