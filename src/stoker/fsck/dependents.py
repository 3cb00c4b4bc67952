"""What cannot do without something: calls without their blobs, functions without their images, mounts and volumes."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from functools import cached_property

import sqlalchemy as sa

from stoker.store import tables

_NAMED = re.compile(rb"(?:im|mo|vo|sv)-[0-9A-Za-z]{22}")
_BLOB = re.compile(rb"bl-[0-9A-Za-z]{22}")


class Dependents:
    """Looks into the database. What a definition or a payload names is found by the form of ids, without reading its protocol."""

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine

    def of_blobs(self, blob_ids: Collection[str]) -> dict[str, list[str]]:
        """The calls whose arguments or results are in these blobs. Reads all payloads, if there are any such blobs."""
        found: dict[str, list[str]] = {blob_id: [] for blob_id in blob_ids}
        if not blob_ids:
            return found
        for table, column, what in (
            (tables.inputs, tables.inputs.c.payload, "an argument of"),
            (tables.outputs, tables.outputs.c.result, "a result of"),
        ):
            with self._engine.connect() as connection:
                query = sa.select(table.c.call_id, column).execution_options(yield_per=100)
                for call_id, content in connection.execute(query):
                    for named in {match.decode() for match in _BLOB.findall(content)} & found.keys():
                        found[named].append(f"{what} the call {call_id}{self._function_of(call_id)}")
        return found

    def of(self, ids: Iterable[str]) -> list[str]:
        """The functions whose current definitions name one of these ids: of images, mounts, volumes and network file systems."""
        return sorted({name for one in ids for name in self._functions.get(one, ())})

    def images_on(self, image_ids: Collection[str]) -> set[str]:
        """These images and all that are built on them."""
        found, new = set(image_ids), set(image_ids)
        while new:
            new = {image for image, bases in self._bases.items() if bases & found} - found
            found |= new
        return found

    def mounts_with(self, sha256: str) -> list[tuple[str, str]]:
        """(mount, path in it) of a file by its content."""
        return [
            (mount_id, path) for mount_id, files in self.mounts.items() for path, digest, _ in files if digest == sha256
        ]

    @cached_property
    def mounts(self) -> dict[str, list[tuple[str, str, int]]]:
        with self._engine.connect() as connection:
            rows = connection.execute(sa.select(tables.mounts.c.id, tables.mounts.c.files))
            return {row.id: [(path, sha256, mode) for path, sha256, mode in row.files] for row in rows}

    @cached_property
    def _bases(self) -> dict[str, set[str]]:
        with self._engine.connect() as connection:
            rows = connection.execute(sa.select(tables.images.c.id, tables.images.c.spec)).all()
        return {row.id: {match.decode() for match in _NAMED.findall(row.spec)} - {row.id} for row in rows}

    @cached_property
    def _functions(self) -> dict[str, set[str]]:
        """Names of functions, by what their definitions name."""
        functions, definitions, apps = tables.functions, tables.definitions, tables.apps
        query = (
            sa.select(functions.c.name, apps.c.name.label("app"), apps.c.description, definitions.c.definition)
            .select_from(
                functions.join(definitions, definitions.c.id == functions.c.definition_id).join(
                    apps, apps.c.id == functions.c.app_id
                )
            )
            .where(apps.c.state != "stopped")
            .execution_options(yield_per=100)
        )
        found: dict[str, set[str]] = {}
        with self._engine.connect() as connection:
            for row in connection.execute(query):
                name = f"the function {row.name} of the app {row.app or row.description}"
                for match in set(_NAMED.findall(row.definition)):
                    found.setdefault(match.decode(), set()).add(name)
        return found

    def _function_of(self, call_id: str) -> str:
        calls, functions, apps = tables.calls, tables.functions, tables.apps
        query = (
            sa.select(functions.c.name, apps.c.name.label("app"), apps.c.description)
            .select_from(
                calls.join(functions, functions.c.id == calls.c.function_id).join(apps, apps.c.id == calls.c.app_id)
            )
            .where(calls.c.id == call_id)
        )
        with self._engine.connect() as connection:
            row = connection.execute(query).first()
        return f" of {row.name} ({row.app or row.description})" if row is not None else ""
