"""Any values that go over the seam, made from their type hints."""

from __future__ import annotations

import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from enum import Enum
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from hypothesis import strategies as st

from stoker.nodes.buckets import GCP, R2, S3, BucketMount, Credentials

_KEYS = st.from_regex(r"[A-Za-z0-9/+=]{0,40}", fullmatch=True)
_SCALARS: dict[Any, st.SearchStrategy[Any]] = {
    str: st.text(max_size=20),
    bytes: st.binary(max_size=20),
    int: st.integers(-(1 << 63), (1 << 63) - 1),
    float: st.floats(allow_nan=False),
    bool: st.booleans(),
}


def values(hint: Any) -> st.SearchStrategy[Any]:
    """What a field, an argument or a result of this type may be."""
    origin, arguments = get_origin(hint), get_args(hint)
    if hint in (None, type(None)):
        return st.none()
    if hint in _SCALARS:
        return _SCALARS[hint]
    if hint is Credentials:
        return st.builds(Credentials, _KEYS, _KEYS, _KEYS, st.from_regex(r"[a-z0-9-]{0,20}", fullmatch=True))
    if hint is BucketMount:
        return _bucket_mounts()
    if origin in (Union, types.UnionType):
        return st.one_of(*map(values, arguments))
    if origin is Sequence or origin is tuple:
        return st.lists(values(arguments[0]), max_size=3).map(tuple)
    if origin in (dict, Mapping):
        return st.dictionaries(*map(values, arguments), max_size=3)
    if origin is Literal:
        return st.sampled_from(arguments)
    if isinstance(hint, type) and issubclass(hint, Enum):
        return st.sampled_from(hint)
    if is_dataclass(hint) and isinstance(hint, type):
        hints = get_type_hints(hint)
        return st.builds(hint, **{field.name: values(hints[field.name]) for field in fields(hint)})
    raise TypeError(f"{hint} is not plain")


def arguments(method: Callable[..., Any]) -> st.SearchStrategy[dict[str, Any]]:
    hints = get_type_hints(method)
    return st.fixed_dictionaries({name: values(hint) for name, hint in hints.items() if name != "return"})


def _bucket_mounts() -> st.SearchStrategy[BucketMount]:
    return st.builds(
        BucketMount,
        name=st.from_regex(r"[a-z0-9][a-z0-9.-]{1,20}", fullmatch=True),
        mount_path=values(str),
        kind=st.sampled_from([S3, R2, GCP]),
        endpoint=st.sampled_from(["", "https://s3.example.com", "http://127.0.0.1:9000"]),
        prefix=st.sampled_from(["", "models/", "a/b/"]),
        read_only=st.booleans(),
        requester_pays=st.booleans(),
        path_style=st.booleans(),
        credentials=values(Credentials),
    )
