"""Handle metadata: what the client must know of an object to use it without asking again."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, MutableSequence
from typing import Any

from google.protobuf.message import Message
from modal_proto import api_pb2

from stoker.protocol.definitions import ranked_functions, web_specs, with_options
from stoker.protocol.volumes import volume_metadata
from stoker.services.apps.apps import App, Apps
from stoker.services.apps.endpoints import Audience, Endpoints
from stoker.services.files.volumes import Volumes
from stoker.services.functions.functions import Functions
from stoker.services.functions.spec import Function, ServerSpec, WebSpec

_INLINE_BYTES = 2 << 20
_INLINE_BYTES_SPAWNED = 1 << 20  # the client's own 8 KiB would send most spawned inputs through blob storage


class Metadata:
    """For one kind of caller: clients and containers reach web endpoints by different URLs."""

    def __init__(
        self,
        apps: Apps,
        functions: Functions,
        volumes: Volumes,
        endpoints: Endpoints,
        audience: Audience,
        *,
        user: str,
    ) -> None:
        """user: who has made all volumes: everybody with a token goes by one name."""
        self._apps = apps
        self._functions = functions
        self._volumes = volumes
        self._endpoints = endpoints
        self._audience = audience
        self._user = user

    def of_function(self, function: Function) -> Any:
        """FunctionHandleMetadata, from the newest definition or, before there is one, from what precreation said."""
        definition = function.latest
        if definition is not None:
            source = ranked_functions(api_pb2.FunctionCreateRequest.FromString(definition.content))[0]
        else:
            source = api_pb2.FunctionPrecreateRequest.FromString(function.precreated)
        metadata = self._common(function, source)
        metadata.definition_id = definition.id if definition else ""
        metadata.base_function_id = function.base_id
        if definition is not None:
            metadata.class_parameter_info.CopyFrom(source.class_parameter_info)
            if definition.spec.server is not None:
                metadata._experimental_flash_urls.append(self._url(function, definition.spec.server))
        urls = self._urls(function, source)
        metadata.web_url = urls.get("", "")
        for name, method in source.method_definitions.items():
            entry = metadata.method_handle_metadata[name]
            entry.CopyFrom(self._common(function, method))
            entry.is_method = True
            entry.use_method_name = name
            entry.web_url = urls.get(name, "")
        return metadata

    def of_class(self, app: App, class_name: str, pinned: Function | None = None) -> Any:
        """ClassHandleMetadata with the service function of the class, or with `pinned` in its place."""
        metadata = api_pb2.ClassHandleMetadata()
        function_id = pinned.id if pinned is not None else app.function_ids.get(f"{class_name}.*")
        if function_id is not None:
            metadata.class_function_id = function_id
            metadata.class_function_metadata.CopyFrom(self.of_function(self._functions.get(function_id)))
        return metadata

    def function_data(self, function: Function) -> Any:
        """FunctionData, which clients from 1.6 on parse for their own display: with the options of a binding, when it has one."""
        data: Any = api_pb2.FunctionData()
        if function.latest is None:
            return data
        request = api_pb2.FunctionCreateRequest.FromString(function.latest.content)
        data.CopyFrom(request.function_data)
        definitions = [with_options(definition, function.binding) for definition in ranked_functions(request)]
        _copy_shared(definitions[0], data)
        data.function_name = data.function_name or function.name
        urls = self._urls(function, definitions[0])
        data.web_url = urls.get("", "")
        for name, method in data.method_definitions.items():
            method.web_url = urls.get(name, "")
        del data.ranked_functions[:]
        for rank, definition in enumerate(definitions):
            ranked = data.ranked_functions.add(rank=rank).function
            ranked.CopyFrom(definition)
            self._show_urls(ranked, urls, function)
        if function.latest.spec.server is not None:
            data.flash_service_urls[:] = data.ranked_functions[0].function.flash_service_urls
        return data

    def module_name(self, function: Function) -> str:
        """The module that defines a function, "" before it is defined."""
        if function.latest is None:
            return ""
        request = api_pb2.FunctionCreateRequest.FromString(function.latest.content)
        return str(ranked_functions(request)[0].module_name)

    def layout(self, app_id: str, dependencies: Iterable[str] = ()) -> Any:
        """AppLayout: every function and class of an app with its metadata, and the ids of other objects a container uses."""
        app = self._apps.get(app_id)
        layout = api_pb2.AppLayout(function_ids=app.function_ids, class_ids=app.class_ids)
        for function_id in app.function_ids.values():
            function = self._functions.get(function_id)
            layout.objects.add(object_id=function_id).function_handle_metadata.CopyFrom(self.of_function(function))
        for name, class_id in app.class_ids.items():
            layout.objects.add(object_id=class_id).class_handle_metadata.CopyFrom(self.of_class(app, name))
        known = {o.object_id for o in layout.objects}
        for object_id in dependencies:
            if object_id in known:
                continue
            entry = layout.objects.add(object_id=object_id)
            if object_id.startswith("vo-"):
                entry.volume_metadata.CopyFrom(volume_metadata(self._volumes.get(object_id), self._user))
        return layout

    def _common(self, function: Function, source: Any) -> Any:
        return api_pb2.FunctionHandleMetadata(
            app_id=function.app_id,
            function_name=source.function_name,
            function_type=source.function_type,
            function_schema=source.function_schema,
            supported_input_formats=source.supported_input_formats,
            supported_output_formats=source.supported_output_formats,
            max_object_size_bytes=_INLINE_BYTES,
            max_async_object_size_bytes=_INLINE_BYTES_SPAWNED,
        )

    def _urls(self, function: Function, source: Any) -> dict[str, str]:
        """The URLs of a Function (or of its FunctionPrecreateRequest), by method."""
        return {web.method: self._url(function, web) for web in web_specs(source)}

    def _url(self, function: Function, target: WebSpec | ServerSpec) -> str:
        return self._endpoints.url(function.app_id, target, self._audience)

    def _show_urls(self, wire: Any, urls: Mapping[str, str], function: Function) -> None:
        wire.web_url = urls.get("", "")
        for name, method in wire.method_definitions.items():
            method.web_url = urls.get(name, "")
        definition = function.latest
        if definition is None:
            return
        for web in definition.spec.web:
            if web.method and web.method not in wire.method_definitions:
                continue
            shown = wire.method_definitions[web.method] if web.method else wire
            del shown.custom_domain_info[:]
            for url in self._endpoints.domain_urls(function.app_id, web, self._audience):
                shown.custom_domain_info.add(url=url)
        if definition.spec.server is not None:
            del wire.flash_service_urls[:]
            wire.flash_service_urls.append(self._url(function, definition.spec.server))


def _copy_shared(function: Any, data: Any) -> None:
    """Copies what a Function says into the fields of the same names of a FunctionData."""
    for field, value in function.ListFields():
        if field.name not in data.DESCRIPTOR.fields_by_name:
            continue
        data.ClearField(field.name)
        target = getattr(data, field.name)
        if isinstance(value, Message):
            target.CopyFrom(value)
        elif isinstance(value, Mapping):
            for key, item in value.items():
                if isinstance(item, Message):
                    target[key].CopyFrom(item)
                else:
                    target[key] = item
        elif isinstance(value, MutableSequence):
            target.extend(value)
        else:
            setattr(data, field.name, value)
