"""Ids have the one shape that every command of the client accepts."""

from __future__ import annotations

from stoker.ids import content_id, is_id, is_name, new_id


def test_ids_are_distinct_and_well_formed() -> None:
    ids = {new_id("ta") for _ in range(5000)}
    assert len(ids) == 5000
    assert all(is_id(i, "ta") and not i.endswith("V") for i in ids)


def test_content_ids_depend_on_the_content_alone() -> None:
    assert content_id("im", b"a") == content_id("im", b"a") != content_id("im", b"b")
    assert is_id(content_id("im", b"a"), "im")


def test_names_are_not_ids() -> None:
    assert is_name("my-app_1.2") and is_name("x" * 64)
    assert not is_name("") and not is_name("x" * 65) and not is_name("a b") and not is_name(new_id("ap"))
