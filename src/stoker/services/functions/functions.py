"""Functions and classes: what the user's code declares, in versions.

The id of a function is stable over deployments. Each deployment stages a new definition, which becomes the current one only when the app is
published: a deployment that fails half way changes nothing.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import partial

import sqlalchemy as sa

from stoker.errors import InvalidArgument, NotFound
from stoker.ids import content_id, is_id, new_id
from stoker.services.functions.spec import Definition, Function
from stoker.services.functions.wire import Wire
from stoker.store import tables
from stoker.store.database import Change, Database


class Functions:
    """All functions of running and deployed apps; read from the database when first asked for."""

    def __init__(self, database: Database, wire: Wire) -> None:
        self._database = database
        self._wire = wire
        self._functions: dict[str, Function] = {}

    async def precreate(self, app_id: str, name: str, existing_id: str, content: bytes) -> Function:
        """Reserves the id of a function so that others can refer to it before it is defined."""
        if not existing_id:
            function = Function(new_id("fu"), app_id, name, precreated=content)
            await self._database.write(Change(partial(_insert, function), lambda _: self._know(function)))
            return function
        function = self._of(app_id, existing_id)
        statement = sa.update(tables.functions).where(tables.functions.c.id == existing_id).values(precreated=content)

        def keep(_: object) -> None:
            function.precreated = content

        await self._database.write(Change(lambda connection: connection.execute(statement), keep))
        return function

    async def define(self, app_id: str, name: str, existing_id: str, content: bytes, client_version: str) -> Function:
        """Stages a definition."""
        definition = Definition(new_id("de"), content, self._wire.parse_definition(content, b""), client_version)
        function = self._of(app_id, existing_id) if existing_id else Function(new_id("fu"), app_id, name)

        def store(connection: sa.Connection) -> None:
            if not existing_id:
                _insert(function, connection)
            store_definitions(connection, {function.id: definition})

        def stage(_: None) -> None:
            self._know(function)
            function.staged = definition

        await self._database.write(Change(store, stage))
        return function

    def copy_of(self, function_id: str, definition_id: str) -> Definition:
        """A copy of a definition that a function has or had, which thereby counts as new; it is not stored. "" means the current one.

        Raises NotFound."""
        wanted = self.stored(function_id, definition_id or self.get(function_id).active.id)
        return replace(wanted, id=new_id("de"))

    def staged(self, function_ids: Iterable[str]) -> dict[str, Definition]:
        """The definitions of these functions that are to become current, by function. Raises NotFound."""
        functions = {function_id: self.get(function_id) for function_id in function_ids}
        return {function_id: f.staged for function_id, f in functions.items() if f.staged is not None}

    def unstage(self, function_ids: Iterable[str]) -> None:
        """Forgets that new definitions are to become current; they stay stored, for `copy_of`."""
        for function_id in function_ids:
            self.get(function_id).staged = None

    async def activate(self, function_ids: list[str]) -> list[Function]:
        """Makes the staged definitions current, without the app being published; returns the functions that changed."""
        staged, changed = self.staged(function_ids), list[Function]()
        work = partial(make_current, definitions=staged)
        await self._database.write(Change(work, lambda _: changed.extend(self.made_current(staged))))
        return changed

    def made_current(self, definitions: Mapping[str, Definition]) -> list[Function]:
        """Event: `make_current` is committed. Returns the functions that changed, also those that are others with something bound."""
        changed = [f for function_id in definitions if (f := self._functions.get(function_id)) is not None]
        for function in changed:
            function.current = definitions[function.id]
            if function.staged is function.current:  # else another one was staged meanwhile
                function.staged = None
            function.scaling_override = None
        bound = [f for f in self._functions.values() if f.base_id in definitions]
        for function in bound:
            function.current = self._bound_definition(self.get(function.base_id), function.binding)
            function.scaling_override = None
        return changed + bound

    async def bind(self, base_id: str, binding: bytes) -> Function:
        """The function `base_id` with parameters or options bound: equal bindings share one function, and so one pool."""
        base = self.get(base_id)
        bound_id = content_id("fu", base_id.encode() + b"\0" + binding)
        if bound_id in self._functions:
            return self._functions[bound_id]
        function = Function(bound_id, base.app_id, base.name, base_id=base_id, binding=binding)
        function.current = self._bound_definition(base, binding)

        def store(connection: sa.Connection) -> None:
            known = sa.select(tables.functions.c.id).where(tables.functions.c.id == bound_id)
            if connection.execute(known).first() is None:
                _insert(function, connection)

        await self._database.write(Change(store, lambda _: self._know(function)))
        return self._functions.get(bound_id, function)

    def stored(self, function_id: str, definition_id: str) -> Definition:
        """A definition that a function has or had. Raises NotFound."""
        with self._database.read() as connection:
            row = connection.execute(
                sa.select(tables.definitions).where(
                    tables.definitions.c.id == definition_id, tables.definitions.c.function_id == function_id
                )
            ).first()
        if row is None:
            raise NotFound(f"The definition {definition_id} of the function {function_id} is not kept any more.")
        spec = self._wire.parse_definition(row.definition, b"")
        return Definition(row.id, row.definition, spec, row.client_version)

    async def pin(self, function_id: str, definition_id: str) -> Function:
        """The function as it was defined once, whatever is deployed later: a function of its own. Raises NotFound."""
        pinned_id = content_id("fu", f"{function_id}@{definition_id}".encode())
        if pinned_id not in self._functions:
            function = self.get(function_id)
            pinned = Function(pinned_id, function.app_id, function.name, self.stored(function_id, definition_id))

            def store(connection: sa.Connection) -> None:
                known = sa.select(tables.functions.c.id).where(tables.functions.c.id == pinned_id)
                if connection.execute(known).first() is None:
                    connection.execute(sa.insert(tables.functions), [_row(pinned) | {"definition_id": definition_id}])

            await self._database.write(Change(store, lambda _: self._know(pinned)))
            return self._functions.get(pinned_id, pinned)
        return self._functions[pinned_id]

    def twin(self, function: Function, definition: Definition) -> Function:
        """The function with another definition of its, for a canary. It lives in memory, as long as its app does."""
        twin_id = content_id("fu", f"{function.id}/{definition.id}".encode())
        twin = self._functions.get(twin_id)
        if twin is None:
            spec = self._wire.parse_definition(definition.content, function.binding)
            current = replace(definition, spec=spec)
            twin = Function(twin_id, function.app_id, function.name, current, binding=function.binding)
            twin.twin_of = function.id
            self._functions[twin_id] = twin
        return twin

    def get(self, function_id: str) -> Function:
        """Raises NotFound."""
        function = self._functions.get(function_id)
        if function is None:
            function = self._load(function_id)
            self._functions[function_id] = function
        return function

    def of_app(self, app_id: str) -> list[Function]:
        return [f for f in self._functions.values() if f.app_id == app_id]

    def forget_app(self, app_id: str) -> None:
        """A stopped app's functions leave memory."""
        for function in self.of_app(app_id):
            self._functions.pop(function.id, None)

    async def create_class(self, app_id: str, existing_id: str) -> str:
        """Raises NotFound for an existing id that is not one of the app."""
        if existing_id:
            classes = tables.classes.c
            query = sa.select(classes.id).where(classes.id == existing_id, classes.app_id == app_id)
            with self._database.read() as connection:
                if connection.execute(query).first() is None:
                    raise NotFound(f"The app has no class {existing_id!r}.")
            return existing_id
        class_id = new_id("cs")
        await self._database.insert(tables.classes, [{"id": class_id, "app_id": app_id, "created_at": time.time()}])
        return class_id

    def _load(self, function_id: str) -> Function:
        if not is_id(function_id, "fu"):
            raise NotFound(f"There is no function {function_id!r}.")
        with self._database.read() as connection:
            row = connection.execute(sa.select(tables.functions).where(tables.functions.c.id == function_id)).first()
            if row is None:
                raise NotFound(f"There is no function {function_id}; its app was probably stopped and removed.")
            definition = connection.execute(
                sa.select(tables.definitions).where(tables.definitions.c.id == row.definition_id)
            ).first()
        function = Function(
            row.id, row.app_id, row.name, base_id=row.base_id, binding=row.binding, precreated=row.precreated
        )
        if definition is not None:
            spec = self._wire.parse_definition(definition.definition, b"")
            function.current = Definition(definition.id, definition.definition, spec, definition.client_version)
        elif row.base_id:
            function.current = self._bound_definition(self.get(row.base_id), row.binding)
        return function

    def _bound_definition(self, base: Function, binding: bytes) -> Definition | None:
        definition = base.latest
        if definition is None:
            return None
        return replace(definition, spec=self._wire.parse_definition(definition.content, binding))

    def _of(self, app_id: str, function_id: str) -> Function:
        function = self.get(function_id)
        if function.app_id != app_id:
            raise InvalidArgument(f"The function {function_id} belongs to another app.")
        return function

    def _know(self, function: Function) -> None:
        self._functions.setdefault(function.id, function)


def store_definitions(connection: sa.Connection, definitions: Mapping[str, Definition]) -> None:
    """Stores new definitions, by function."""
    now = time.time()
    rows = [
        {
            "id": definition.id,
            "function_id": function_id,
            "definition": definition.content,
            "client_version": definition.client_version,
            "created_at": now,
        }
        for function_id, definition in definitions.items()
    ]
    if rows:
        connection.execute(sa.insert(tables.definitions), rows)


def make_current(connection: sa.Connection, definitions: Mapping[str, Definition]) -> None:
    """Makes stored definitions current, by function. When it is committed, `Functions.made_current` is to be called."""
    updates = [{"b_id": function_id, "b_definition": d.id} for function_id, d in definitions.items()]
    if updates:
        functions = tables.functions
        statement = sa.update(functions).where(functions.c.id == sa.bindparam("b_id"))
        connection.execute(statement.values(definition_id=sa.bindparam("b_definition")), updates)


def _insert(function: Function, connection: sa.Connection) -> None:
    connection.execute(sa.insert(tables.functions), [_row(function)])


def _row(function: Function) -> dict[str, object]:
    return {
        "id": function.id,
        "app_id": function.app_id,
        "name": function.name,
        "definition_id": "",
        "base_id": function.base_id,
        "binding": function.binding,
        "precreated": function.precreated,
        "created_at": time.time(),
    }
