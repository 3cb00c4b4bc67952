"""Numbers of requests that are none: NaN compares with nothing and infinity has no end, so that neither is let into a handler."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable
from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from stoker.errors import InvalidArgument

Check = Callable[[Any], None]

_MOST_ENTRIES = 10_000  # of a list whose entries have such numbers: two bytes may be an entry, and each is looked at
_FLOATS = (FieldDescriptor.CPPTYPE_FLOAT, FieldDescriptor.CPPTYPE_DOUBLE)


def check_of(descriptor: Descriptor) -> Check | None:
    """What raises InvalidArgument for a message of this type with NaN or an infinity in a field, at any depth, or with so many entries of a list
    that looking would take long; None when the type has no field for such numbers."""
    return _check_of(descriptor, "", ())


def _check_of(descriptor: Descriptor, path: str, above: tuple[str, ...]) -> Check | None:
    if descriptor.full_name in above:
        return None  # a type inside itself: its numbers are checked down to here
    above, empty = (*above, descriptor.full_name), GetMessageClass(descriptor)()
    checks = [check for field in descriptor.fields if (check := _field_check(field, empty, path + field.name, above))]
    if not checks:
        return None

    def check_all(message: Any) -> None:
        for check in checks:
            check(message)

    return check_all


def _field_check(field: FieldDescriptor, empty: Message, path: str, above: tuple[str, ...]) -> Check | None:
    name, kind = field.name, field.message_type
    single = isinstance(getattr(empty, name), float if kind is None else Message)
    if kind is None:
        if field.cpp_type not in _FLOATS:
            return None
        if single:
            return lambda message: _finite(path, getattr(message, name))
        return lambda message: _all_finite(path, getattr(message, name))
    if kind.GetOptions().map_entry:
        value = kind.fields_by_name["value"].message_type
        each = None if value is None else _check_of(value, f"{path}.", above)
        return None if each is None else lambda message: _each(path, getattr(message, name).values(), each)
    inner = _check_of(kind, f"{path}.", above)
    if inner is None:
        return None
    if single:
        return lambda message: inner(getattr(message, name)) if message.HasField(name) else None
    return lambda message: _each(path, getattr(message, name), inner)


def _each(path: str, messages: Collection[Any], check: Check) -> None:
    if len(messages) > _MOST_ENTRIES:
        raise InvalidArgument(f"{path} has {len(messages)} entries; one request may have {_MOST_ENTRIES}.")
    for message in messages:
        check(message)


def _all_finite(path: str, values: Iterable[float]) -> None:
    for value in values:
        _finite(path, value)


def _finite(path: str, value: float) -> None:
    if not math.isfinite(value):
        raise InvalidArgument(f"{path} is {value}; it must be a finite number.")
