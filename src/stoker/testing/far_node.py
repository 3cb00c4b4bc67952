"""A node as if it were far away: all that is asked of it and told by it goes through bytes, so what no wire can carry is refused."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

import structlog
from google.protobuf.message import Message

from stoker.errors import StokerError
from stoker.nodes import wire
from stoker.nodes.base import Builds, Containers, Files, Node, Observer, Ports
from stoker.nodes.buckets import BucketMount
from stoker.nodes.builds import ContextRef, ImageConfig, ImageSpec, Leftover
from stoker.nodes.endings import Exit, Usage
from stoker.nodes.events import BuildOutput, Called, Ended, Event, LayerCompared, Output, tell
from stoker.nodes.messages import ContainerRequest, Started, VolumeUse
from stoker.nodes.twins import readable
from stoker.nodes.v1 import node_pb2 as pb

M = TypeVar("M", bound=Message)
P = TypeVar("P", bound=asyncio.Protocol)
_log = structlog.get_logger(__name__)


class Line:
    """Carries messages as bytes, and counts them by the names of their kinds."""

    def __init__(self) -> None:
        self.carried: Counter[str] = Counter()

    def carry(self, message: M) -> M:
        self.carried[message.DESCRIPTOR.name] += 1
        return type(message).FromString(message.SerializeToString())

    @contextmanager
    def errors(self) -> Iterator[None]:
        """What is raised meanwhile on the far side is raised on this one."""
        try:
            yield
        except Exception as error:
            if not isinstance(error, StokerError):
                _log.exception("a node failed")
            raise wire.decode_error(self.carry(wire.encode_error(error))) from None


class FarNode:
    """Implements `nodes.base.Node` with another one."""

    def __init__(self, near: Node, line: Line) -> None:
        self._near, self._line = near, line
        self.containers: Containers = FarContainers(near.containers, line)
        self.files: Files = FarFiles(near.files, line)
        self.builds: Builds = FarBuilds(near.builds, line)
        self.ports: Ports = FarPorts(near.ports, line)

    def observe(self, observer: Observer) -> None:
        self._near.observe(FarObserver(observer, self._line))

    def start_slots(self) -> int:
        return self._line.carry(pb.Count(count=self._near.start_slots())).count

    def disk_free(self) -> int:
        return self._line.carry(pb.Count(count=self._near.disk_free())).count

    def snapshot_identity(self, gpu: str) -> str:
        asked = self._line.carry(pb.Gpu(model=gpu))
        return self._line.carry(pb.Text(text=self._near.snapshot_identity(asked.model))).text

    def gpu_snapshot_obstacle(self) -> str:
        return self._line.carry(_shown(self._near.gpu_snapshot_obstacle())).text


class FarObserver:
    """Implements `nodes.base.Observer`: tells another one."""

    def __init__(self, observer: Observer, line: Line) -> None:
        self._observer, self._line = observer, line

    def called(self, task_id: str) -> None:
        self._tell(Called(task_id))

    def output(self, task_id: str, fd: int, text: str) -> asyncio.Future[None] | None:
        """A real wire is read no further until the future is done, so that whoever writes waits. Here it is a future of its own."""
        enough = self._tell(Output(task_id, fd, text))
        return asyncio.shield(enough) if enough is not None else None

    def ended(self, task_id: str, exit: Exit) -> None:
        self._tell(Ended(task_id, exit))

    def layer_compared(self, name: str, wrong: str) -> None:
        self._tell(LayerCompared(name, wrong))

    def build_output(self, image_id: str, text: str) -> None:
        self._tell(BuildOutput(image_id, text))

    def _tell(self, event: Event) -> asyncio.Future[None] | None:
        return tell(self._observer, wire.decode_event(self._line.carry(wire.encode_event(event))))


class FarContainers:
    """Implements `nodes.base.Containers` with those of another node."""

    def __init__(self, near: Containers, line: Line) -> None:
        self._near, self._line = near, line

    async def start(self, request: ContainerRequest) -> Started:
        asked = self._line.carry(wire.CONTAINER_REQUEST.encode(request))
        with self._line.errors():
            started = await self._near.start(wire.CONTAINER_REQUEST.decode(asked))
        return wire.STARTED.decode(self._line.carry(wire.STARTED.encode(started)))

    async def up(self, task_id: str) -> None:
        asked = self._line.carry(pb.Task(task_id=task_id))
        with self._line.errors():
            await self._near.up(asked.task_id)

    async def signal(self, task_id: str, number: int) -> None:
        asked = self._line.carry(pb.SignalRequest(task_id=task_id, number=number))
        with self._line.errors():
            await self._near.signal(asked.task_id, asked.number)

    async def kill(self, task_id: str) -> None:
        asked = self._line.carry(pb.Task(task_id=task_id))
        with self._line.errors():
            await self._near.kill(asked.task_id)

    async def stuck(self, task_id: str, timeout: float) -> str:
        asked = self._line.carry(pb.StuckRequest(task_id=task_id, timeout=timeout))
        with self._line.errors():
            why = await self._near.stuck(asked.task_id, asked.timeout)
        return self._line.carry(_shown(why)).text

    async def usage(self, task_id: str) -> Usage | None:
        asked = self._line.carry(pb.Task(task_id=task_id))
        with self._line.errors():
            usage = await self._near.usage(asked.task_id)
        found = self._line.carry(pb.UsageAnswer(usage=None if usage is None else wire.USAGE.encode(usage)))
        return wire.USAGE.decode(found.usage) if found.HasField("usage") else None

    async def open_files(self, task_id: str, volume_id: str) -> Sequence[str]:
        asked = self._line.carry(pb.OpenFilesRequest(task_id=task_id, volume_id=volume_id))
        with self._line.errors():
            paths = await self._near.open_files(asked.task_id, asked.volume_id)
        return wire.decode_paths(self._line.carry(wire.encode_paths(paths)))

    async def save(self, task_id: str, snapshot_id: str) -> int:
        asked = self._line.carry(pb.SaveRequest(task_id=task_id, snapshot_id=snapshot_id))
        with self._line.errors():
            size = await self._near.save(asked.task_id, asked.snapshot_id)
        return self._line.carry(pb.Count(count=size)).count

    async def make_base(self, request: ContainerRequest, snapshot_id: str) -> int:
        of = wire.CONTAINER_REQUEST.encode(request)
        asked = self._line.carry(pb.MakeBaseRequest(request=of, snapshot_id=snapshot_id))
        with self._line.errors():
            size = await self._near.make_base(wire.CONTAINER_REQUEST.decode(asked.request), asked.snapshot_id)
        return self._line.carry(pb.Count(count=size)).count

    async def can_restore(self, snapshot_id: str) -> bool:
        asked = self._line.carry(pb.Snapshot(snapshot_id=snapshot_id))
        with self._line.errors():
            can = await self._near.can_restore(asked.snapshot_id)
        return self._line.carry(pb.Answer(yes=can)).yes

    async def changed_since(self, snapshot_id: str, volumes: Sequence[VolumeUse]) -> str:
        uses = map(wire.VOLUME_USE.encode, volumes)
        asked = self._line.carry(pb.ChangedSinceRequest(snapshot_id=snapshot_id, volumes=uses))
        with self._line.errors():
            changed = await self._near.changed_since(
                asked.snapshot_id, tuple(map(wire.VOLUME_USE.decode, asked.volumes))
            )
        return self._line.carry(_shown(changed)).text

    async def prepare(self, request: ContainerRequest) -> bool:
        asked = self._line.carry(wire.CONTAINER_REQUEST.encode(request))
        with self._line.errors():
            made = await self._near.prepare(wire.CONTAINER_REQUEST.decode(asked))
        return self._line.carry(pb.Answer(yes=made)).yes

    async def discard(self, task_id: str) -> None:
        asked = self._line.carry(pb.Task(task_id=task_id))
        with self._line.errors():
            await self._near.discard(asked.task_id)


class FarFiles:
    """Implements `nodes.base.Files` with those of another node."""

    def __init__(self, near: Files, line: Line) -> None:
        self._near, self._line = near, line

    async def check_bucket(self, bucket: BucketMount) -> None:
        asked = self._line.carry(wire.BUCKET_MOUNT.encode(bucket))
        with self._line.errors():
            await self._near.check_bucket(wire.BUCKET_MOUNT.decode(asked))


class FarBuilds:
    """Implements `nodes.base.Builds` with those of another node."""

    def __init__(self, near: Builds, line: Line) -> None:
        self._near, self._line = near, line

    async def build(self, image_id: str, spec: ImageSpec, context: ContextRef) -> ImageConfig:
        messages = wire.IMAGE_SPEC.encode(spec), wire.CONTEXT_REF.encode(context)
        asked = self._line.carry(pb.BuildRequest(image_id=image_id, spec=messages[0], context=messages[1]))
        with self._line.errors():
            config = await self._near.build(
                asked.image_id, wire.IMAGE_SPEC.decode(asked.spec), wire.CONTEXT_REF.decode(asked.context)
            )
        return self._config(config)

    async def adopt(self, image_id: str, spec: ImageSpec, task_id: str, function_id: str) -> ImageConfig:
        of = wire.IMAGE_SPEC.encode(spec)
        asked = self._line.carry(pb.AdoptRequest(image_id=image_id, spec=of, task_id=task_id, function_id=function_id))
        with self._line.errors():
            config = await self._near.adopt(
                asked.image_id, wire.IMAGE_SPEC.decode(asked.spec), asked.task_id, asked.function_id
            )
        return self._config(config)

    async def drop_kept(self, function_id: str) -> None:
        asked = self._line.carry(pb.Function(function_id=function_id))
        with self._line.errors():
            await self._near.drop_kept(asked.function_id)

    async def has(self, image_id: str) -> bool:
        asked = self._line.carry(pb.Image(image_id=image_id))
        with self._line.errors():
            there = await self._near.has(asked.image_id)
        return self._line.carry(pb.Answer(yes=there)).yes

    async def layers(self, image_id: str) -> Sequence[str]:
        asked = self._line.carry(pb.Image(image_id=image_id))
        with self._line.errors():
            names = await self._near.layers(asked.image_id)
        return tuple(self._line.carry(pb.Names(names=names)).names)

    async def has_layer(self, name: str) -> bool:
        asked = self._line.carry(pb.Layer(name=name))
        with self._line.errors():
            there = await self._near.has_layer(asked.name)
        return self._line.carry(pb.Answer(yes=there)).yes

    async def remove(self, image_id: str) -> None:
        asked = self._line.carry(pb.Image(image_id=image_id))
        with self._line.errors():
            await self._near.remove(asked.image_id)

    async def leftovers(self, keep: Sequence[str], before: float) -> Sequence[Leftover]:
        asked = self._line.carry(pb.LeftoversRequest(keep=keep, before=before))
        with self._line.errors():
            leftovers = await self._near.leftovers(tuple(asked.keep), asked.before)
        answer = self._line.carry(pb.LeftoversAnswer(found=map(wire.LEFTOVER.encode, leftovers)))
        return tuple(map(wire.LEFTOVER.decode, answer.found))

    async def free(self, item: Leftover) -> bool:
        asked = self._line.carry(wire.LEFTOVER.encode(item))
        with self._line.errors():
            gone = await self._near.free(wire.LEFTOVER.decode(asked))
        return self._line.carry(pb.Answer(yes=gone)).yes

    async def tidy(self) -> None:
        self._line.carry(pb.Nothing())
        with self._line.errors():
            await self._near.tidy()

    async def close(self) -> None:
        self._line.carry(pb.Nothing())
        with self._line.errors():
            await self._near.close()

    def _config(self, config: ImageConfig) -> ImageConfig:
        return wire.IMAGE_CONFIG.decode(self._line.carry(wire.IMAGE_CONFIG.encode(config)))


class FarPorts:
    """Implements `nodes.base.Ports` with those of another node."""

    def __init__(self, near: Ports, line: Line) -> None:
        self._near, self._line = near, line

    async def listening(self, task_id: str, port: int) -> bool:
        asked = self._line.carry(pb.ListeningRequest(task_id=task_id, port=port))
        with self._line.errors():
            listens = await self._near.listening(asked.task_id, asked.port)
        return self._line.carry(pb.Answer(yes=listens)).yes

    async def connect(self, task_id: str, port: int, make: Callable[[], P]) -> P:
        """What goes over the connection are bytes already, which a relay would pass on as they are. In one process there is none: it is that of
        the other node, and so are its errors."""
        return await self._near.connect(task_id, port, make)


def _shown(text: str) -> pb.Text:
    return pb.Text(text=readable(text))
