"""RPCs of named images, and of what becomes of an image after its build: its steps with their logs, its end."""

from __future__ import annotations

from google.protobuf.empty_pb2 import Empty
from google.protobuf.timestamp_pb2 import Timestamp
from modal_proto import api_pb2

from stoker.errors import InvalidArgument
from stoker.protocol import scopes
from stoker.quoting import shown
from stoker.rpc.methods import Caller, rpc
from stoker.services.environments.environments import Environments
from stoker.services.images.image_names import ImageNames
from stoker.services.images.images import Images

_PAGE = 100


class ImageNameServicer:
    def __init__(self, *, names: ImageNames, images: Images, environments: Environments) -> None:
        self._names = names
        self._images = images
        self._environments = environments

    @rpc("ImagePublish", once=True)
    async def publish(self, request: api_pb2.ImagePublishRequest, caller: Caller) -> api_pb2.ImagePublishResponse:
        environment_id, tag = self._names.resolve(request.tag, request.environment_name)
        revision = await self._names.publish(environment_id, tag, request.image_id, caller.token_id)
        return api_pb2.ImagePublishResponse(image_id=revision.image_id, revision_id=revision.id)

    @rpc("ImageGetByTag", containers=scopes.ANY_ENVIRONMENT)
    async def get_by_tag(self, request: api_pb2.ImageGetByTagRequest, caller: Caller) -> api_pb2.ImageGetByTagResponse:
        found = self._names.get(*self._names.resolve(request.tag, request.environment_name))
        return api_pb2.ImageGetByTagResponse(image_id=self._images.get(found.image_id).id)

    @rpc("ImageListTags", containers=scopes.OWN_ENVIRONMENT)
    async def list_tags(self, request: api_pb2.ImageListTagsRequest, caller: Caller) -> api_pb2.ImageListTagsResponse:
        """The token of a page is the last tag of the one before."""
        environment = self._environments.resolve(request.environment_name)
        limit = request.max_objects or _PAGE
        found = self._names.named(environment.id, request.tag_prefix, after=request.page_token, limit=limit)
        items = [
            api_pb2.ImageListTagsItem(
                tag=item.newest.tag,
                image_id=item.newest.image_id,
                revision_id=item.newest.id,
                created_at=item.created_at,
                updated_at=item.newest.created_at,
                last_published_by=item.newest.published_by,
            )
            for item in found
            if not request.image_id or item.newest.image_id == request.image_id
        ]
        following = found[-1].newest.tag if len(found) == limit else ""
        return api_pb2.ImageListTagsResponse(items=items, next_page_token=following, environment_name=environment.name)

    @rpc("ImageTagRevisions")
    async def tag_revisions(
        self, request: api_pb2.ImageTagRevisionsRequest, caller: Caller
    ) -> api_pb2.ImageTagRevisionsResponse:
        """The token of a page is the time of the last publication of the one before."""
        environment_id, tag = self._names.resolve(request.tag, request.environment_name)
        limit = request.max_objects or _PAGE
        found = self._names.history(environment_id, tag, before=_page_time(request.page_token), limit=limit)
        items = [
            api_pb2.ImageTagRevisionsItem(
                image_id=r.image_id, revision_id=r.id, created_at=r.created_at, published_by=r.published_by
            )
            for r in found
        ]
        return api_pb2.ImageTagRevisionsResponse(
            items=items,
            next_page_token=repr(found[-1].created_at) if len(found) == limit else "",
            tag=tag,
            environment_name=self._environments.get(environment_id).name,
        )

    @rpc("ImageNameDelete", once=True)
    async def name_delete(self, request: api_pb2.ImageNameDeleteRequest, caller: Caller) -> Empty:
        await self._names.delete(*self._names.resolve(request.tag))
        return Empty()

    @rpc("ImageDelete", once=True)
    async def delete(self, request: api_pb2.ImageDeleteRequest, caller: Caller) -> Empty:
        await self._images.delete(request.image_id)
        return Empty()

    @rpc("ImageBuildChainGet", containers=scopes.ASKED_IMAGE)
    async def build_chain(
        self, request: api_pb2.ImageBuildChainGetRequest, caller: Caller
    ) -> api_pb2.ImageBuildChainGetResponse:
        """The steps of an image, its base first. Their logs are asked for like those of an app, whose place the step's image takes."""
        return api_pb2.ImageBuildChainGetResponse(
            build_steps=[
                api_pb2.ImageBuildStep(
                    image_id=step.image_id,
                    started_at=_time(step.started_at),
                    finished_at=_time(step.finished_at + 1.0),
                    builder_app_id=step.image_id,
                )
                for step in self._images.steps(request.image_id)
            ]
        )


def _time(seconds: float) -> Timestamp:
    stamp = Timestamp()
    stamp.FromNanoseconds(int(seconds * 1e9))
    return stamp


def _page_time(page_token: str) -> float:
    try:
        return float(page_token or 0)
    except ValueError:
        raise InvalidArgument(f"{shown(page_token)} is no page token of this server.") from None
