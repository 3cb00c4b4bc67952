"""Values as protobuf messages and back: a message has the fields of its value, by name."""

from __future__ import annotations

import enum
import types
from collections.abc import Callable, Collection, Mapping
from dataclasses import MISSING, Field, dataclass, fields
from functools import partial
from typing import Any, Generic, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from google.protobuf.message import Message

from stoker.errors import InvalidArgument

V = TypeVar("V")
M = TypeVar("M", bound=Message)

_LEAST, _MOST = -(1 << 63), (1 << 63) - 1  # what an int64 holds


class Twin(Generic[V, M]):
    """A frozen dataclass and its message. A field holds text, bytes, a number, one of some words, a member of an enum, another value with a twin, a
    tuple of these, or a mapping of text to text or bytes; or None."""

    def __init__(self, value: type[V], message: type[M], *, shown: Collection[str] = ()) -> None:
        """shown: fields that only people read: what cannot be encoded in them is replaced. Raises TypeError when the two are no twins."""
        self.value, self.message = value, message
        hints = get_type_hints(value)
        own = {field.name: field for field in fields(value)}  # type: ignore[arg-type]
        if set(own) != set(message.DESCRIPTOR.fields_by_name):
            raise TypeError(f"The fields of {value.__name__} and of its message are not the same.")
        self._fields = [_field_of(f"{value.__name__}.{name}", own[name], hints[name], name in shown) for name in own]
        _TWINS[value] = self

    def encode(self, value: V) -> M:
        """Raises TypeError for what is not plain, InvalidArgument for text and numbers that do not fit."""
        if type(value) is not self.value:
            raise TypeError(f"A {type(value).__name__} is no {self.value.__name__}.")
        message = self.message()
        for field in self._fields:
            field.put(message, getattr(value, field.name))
        return message

    def decode(self, message: M) -> V:
        """Raises InvalidArgument when something is missing, or is not known here."""
        found = {}
        for field in self._fields:
            if field.is_in(message):
                found[field.name] = field.get(message)
            elif field.required:
                raise InvalidArgument(f"A {self.value.__name__} came without {field.name!r}.")
        return self.value(**found)


_TWINS: dict[type, Twin[Any, Any]] = {}
_ENUMS: dict[type, dict[enum.Enum, int]] = {}


def twin_enum(members: Mapping[enum.Enum, int]) -> None:
    """Numbers of the members of an enum, for the twins made after this."""
    _ENUMS[type(next(iter(members)))] = dict(members)


def readable(text: str) -> str:
    """Text for people; what cannot be encoded in it, such as a byte of a file's name that is no text, is replaced."""
    return text.encode("utf-8", "replace").decode()


# From here on Any: what the fields hold is known from their hints alone.


@dataclass(frozen=True)
class _Item:
    """One thing that a field holds: what is put into a message for it, and what comes of that."""

    encode: Callable[[Any], Any]
    decode: Callable[[Any], Any] = lambda found: found
    is_message: bool = False


class _One:
    """A field that holds one thing, or may hold None, which is its absence."""

    def __init__(self, name: str, item: _Item, *, required: bool, optional: bool = False) -> None:
        self.name, self.required = name, required
        self._item, self._optional = item, optional

    def put(self, message: Message, value: Any) -> None:
        if value is None and self._optional:
            return
        if self._item.is_message:
            getattr(message, self.name).CopyFrom(self._item.encode(value))
        else:
            setattr(message, self.name, self._item.encode(value))

    def is_in(self, message: Message) -> bool:
        return message.HasField(self.name)

    def get(self, message: Message) -> Any:
        return self._item.decode(getattr(message, self.name))


class _Many:
    """A tuple."""

    required = True

    def __init__(self, where: str, name: str, item: _Item) -> None:
        self.name = name
        self._where, self._item = where, item

    def put(self, message: Message, value: Any) -> None:
        getattr(message, self.name).extend(map(self._item.encode, _exactly(tuple, self._where, value)))

    def is_in(self, message: Message) -> bool:
        return True

    def get(self, message: Message) -> Any:
        return tuple(map(self._item.decode, getattr(message, self.name)))


class _Table:
    """A mapping of text to text or bytes."""

    required = True

    def __init__(self, where: str, name: str, key: _Item, item: _Item) -> None:
        self.name = name
        self._where, self._key, self._item = where, key, item

    def put(self, message: Message, value: Any) -> None:
        if not isinstance(value, Mapping):
            raise TypeError(f"{self._where} holds a {type(value).__name__}, which is not plain.")
        getattr(message, self.name).update({self._key.encode(k): self._item.encode(v) for k, v in value.items()})

    def is_in(self, message: Message) -> bool:
        return True

    def get(self, message: Message) -> Any:
        return dict(getattr(message, self.name))


def _field_of(where: str, field: Field[Any], hint: Any, shown: bool) -> _One | _Many | _Table:
    origin, arguments = get_origin(hint), get_args(hint)
    required = field.default is MISSING and field.default_factory is MISSING
    if origin in (Union, types.UnionType):
        inner, _none = arguments
        return _One(field.name, _item_of(where, inner, shown), required=required, optional=True)
    if origin is tuple:
        return _Many(where, field.name, _item_of(where, arguments[0], shown))
    if origin in (dict, Mapping):
        key, held = arguments
        if key is not str or held not in (str, bytes):
            raise TypeError(f"{where} is a mapping of {key} to {held}, which no message can hold.")
        return _Table(where, field.name, _item_of(where, key, shown), _item_of(where, held, shown))
    return _One(field.name, _item_of(where, hint, shown), required=required)


def _item_of(where: str, hint: Any, shown: bool) -> _Item:
    if hint in _ENUMS:
        numbers = _ENUMS[hint]
        return _Item(lambda value: numbers[_exactly(hint, where, value)], _member(where, numbers))
    if hint in _TWINS:
        return _Item(_TWINS[hint].encode, _TWINS[hint].decode, is_message=True)
    if get_origin(hint) is Literal:
        words = get_args(hint)
        return _Item(lambda value: _word(where, words, _exactly(str, where, value)), partial(_word, where, words))
    if hint is str and shown:
        return _Item(lambda value: readable(_exactly(str, where, value)))
    if hint is str:
        return _Item(lambda value: _text(where, value))
    if hint is int:
        return _Item(lambda value: _whole(where, value))
    if hint is float:
        return _Item(lambda value: value if type(value) is int else _exactly(float, where, value))
    if hint in (bytes, bool):
        return _Item(lambda value: _exactly(hint, where, value))
    raise TypeError(f"{where} is a {hint}, which no message can hold.")


def _exactly(kind: type[V], where: str, value: Any) -> V:
    """Subclasses are not plain, either: they would come back as something else."""
    if type(value) is not kind:
        raise TypeError(f"{where} holds a {type(value).__name__}, which is not plain.")
    return value


def _text(where: str, value: Any) -> str:
    text = _exactly(str, where, value)
    try:
        text.encode()
    except UnicodeEncodeError:
        raise InvalidArgument(f"{where} is no valid Unicode text.") from None  # what it is may be a secret
    return text


def _word(where: str, words: Collection[str], word: str) -> str:
    if word not in words:
        raise InvalidArgument(f"{where} is {word!r}, which is not known here.")
    return word


def _whole(where: str, value: Any) -> int:
    number = _exactly(int, where, value)
    if not _LEAST <= number <= _MOST:
        raise InvalidArgument(f"{where} is {number}, which is more than 64 bits hold.")
    return number


def _member(where: str, numbers: Mapping[enum.Enum, int]) -> Callable[[int], enum.Enum]:
    members = {number: member for member, number in numbers.items()}

    def decode(number: int) -> enum.Enum:
        if number not in members:
            raise InvalidArgument(f"{where} is number {number}, which is not known here.")
        return members[number]

    return decode
