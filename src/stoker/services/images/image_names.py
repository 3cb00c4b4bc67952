"""Names of images: `name:tag` in an environment points to the image published last under it; older ones stay as its history."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import sqlalchemy as sa

from stoker.errors import FailedPrecondition, InvalidArgument, NotFound
from stoker.ids import new_id
from stoker.services.environments.environments import Environments
from stoker.services.images.images import READY, Images
from stoker.store import tables
from stoker.store.database import Database

_TAG = re.compile(r"^[a-zA-Z0-9][a-zA-Z0-9_.-]{0,127}:[a-zA-Z0-9_][a-zA-Z0-9_.-]{0,127}$")
_revisions = tables.image_revisions


@dataclass(frozen=True)
class Revision:
    """One publication. `published_by` is the id of a token; seconds since the epoch."""

    id: str
    environment_id: str
    tag: str
    image_id: str
    published_by: str
    created_at: float


@dataclass(frozen=True)
class NamedImage:
    """A name, when it was first used, and its newest publication."""

    created_at: float
    newest: Revision


class ImageNames:
    """All names of images, kept in the database alone. Made by the composition root; asked by the RPCs of image names."""

    def __init__(self, *, database: Database, environments: Environments, images: Images) -> None:
        self._database = database
        self._environments = environments
        self._images = images
        environments.on_delete.append(self._delete_all)

    def resolve(self, name: str, environment: str = "") -> tuple[str, str]:
        """Environment id and tag of `[environment/]name[:tag]`. Raises NotFound, InvalidArgument."""
        prefix, _, rest = name.rpartition("/")
        tag = rest if ":" in rest else f"{rest}:latest"
        if "/" in prefix or not _TAG.match(tag):
            raise InvalidArgument(
                f"{name!r} cannot name an image: use [environment/]name[:tag], of letters, digits, '-', '_' and '.'."
            )
        return self._environments.resolve(prefix or environment).id, tag

    async def publish(self, environment_id: str, tag: str, image_id: str, published_by: str) -> Revision:
        """Lets a name point to an image. Raises NotFound, or FailedPrecondition when the image is not built."""
        image = self._images.get(image_id)
        if image.state != READY:
            raise FailedPrecondition(f"The image {image_id} is not built ({image.state}), so it cannot be published.")
        revision = Revision(new_id("ir"), environment_id, tag, image_id, published_by, time.time())
        await self._database.insert(_revisions, [asdict(revision)])
        return revision

    def get(self, environment_id: str, tag: str) -> Revision:
        """What a name points to. Raises NotFound."""
        found = self.history(environment_id, tag, limit=1)
        if not found:
            environment = self._environments.get(environment_id).name
            raise NotFound(
                f"Image {tag!r} not found in the environment {environment!r}. "
                "`modal image names list` shows those there are; Image.publish makes one."
            )
        return found[0]

    def named(self, environment_id: str, prefix: str, *, after: str = "", limit: int = 100) -> Sequence[NamedImage]:
        """Names that begin with `prefix` and come after `after`, in alphabetical order."""
        tags = (
            sa.select(_revisions.c.tag)
            .where(
                _revisions.c.environment_id == environment_id,
                _revisions.c.tag.startswith(prefix, autoescape=True),
                _revisions.c.tag > after,
            )
            .distinct()
            .order_by(_revisions.c.tag)
            .limit(limit)
        )
        query = (
            sa.select(_revisions)
            .where(_revisions.c.environment_id == environment_id, _revisions.c.tag.in_(tags))
            .order_by(_revisions.c.tag, _revisions.c.created_at)
        )
        found: dict[str, NamedImage] = {}
        with self._database.read() as connection:
            for row in connection.execute(query):
                first = found.get(row.tag)
                found[row.tag] = NamedImage(first.created_at if first else row.created_at, Revision(**row._asdict()))
        return list(found.values())

    def history(self, environment_id: str, tag: str, *, before: float = 0.0, limit: int = 100) -> Sequence[Revision]:
        """Publications of a name, newest first, from those before a time on (0 for all)."""
        query = sa.select(_revisions).where(_revisions.c.environment_id == environment_id, _revisions.c.tag == tag)
        if before:
            query = query.where(_revisions.c.created_at < before)
        with self._database.read() as connection:
            rows = connection.execute(query.order_by(_revisions.c.created_at.desc()).limit(limit)).all()
        return [Revision(**row._asdict()) for row in rows]

    async def delete(self, environment_id: str, tag: str) -> None:
        """Forgets a name and its history; images stay. Raises NotFound."""
        self.get(environment_id, tag)
        statement = sa.delete(_revisions).where(_revisions.c.environment_id == environment_id, _revisions.c.tag == tag)
        await self._database.write(lambda connection: connection.execute(statement))

    async def _delete_all(self, environment_id: str) -> None:
        statement = sa.delete(_revisions).where(_revisions.c.environment_id == environment_id)
        await self._database.write(lambda connection: connection.execute(statement))
