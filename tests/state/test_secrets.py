"""Secrets and environments by the official client."""

from __future__ import annotations

import asyncio
import io
import json
from dataclasses import asdict
from pathlib import Path

import modal
import pytest
from modal.client import Client

from stoker.errors import AlreadyExists, FailedPrecondition, NotFound
from stoker.services.environments import Environment, Environments
from stoker.services.secrets import Secrets
from stoker.store import tables
from stoker.store.database import Database

from .conftest import StateServer


def value_of(state: StateServer, secret: modal.Secret) -> dict[str, str]:
    return state.run(state.secrets.values([secret.object_id]))


def by_name(name: str, client: Client, **options: object) -> modal.Secret:
    return modal.Secret.from_name(name, client=client, **options).hydrate(client)  # type: ignore[arg-type]


def test_create_find_update_delete(state: StateServer, client: Client) -> None:
    objects = modal.Secret.objects
    objects.create("mine", {"A": "1", "B": "2"}, client=client)
    secret = by_name("mine", client)
    assert value_of(state, secret) == {"A": "1", "B": "2"}
    with pytest.raises(modal.exception.AlreadyExistsError, match="'mine' exists already"):
        objects.create("mine", {"A": "9"}, client=client)
    objects.create("mine", {"A": "9"}, allow_existing=True, client=client)
    assert value_of(state, secret)["A"] == "1"
    secret.update({"B": "3", "C": "ü\n"})
    assert value_of(state, secret) == {"A": "1", "B": "3", "C": "ü\n"}
    info = secret.info(refresh=True)
    assert info.name == "mine" and info.environment_name == "main" and info.last_used is not None
    assert "mine" in {s.name for s in objects.list(client=client)}
    objects.delete("mine", client=client)
    with pytest.raises(modal.exception.NotFoundError, match="Secret 'mine' not found in the environment 'main'"):
        by_name("mine", client)
    with pytest.raises(NotFound):
        value_of(state, secret)


def test_required_keys_are_named(client: Client) -> None:
    modal.Secret.objects.create("partial", {"A": "1"}, client=client)
    by_name("partial", client, required_keys=["A"])
    with pytest.raises(modal.exception.ConflictError, match=r"Secret is missing key\(s\): B, C\. .* has: A"):
        by_name("partial", client, required_keys=["A", "B", "C"])


def test_anonymous_secrets_are_known_by_their_values(state: StateServer, client: Client) -> None:
    one, same, other = (modal.Secret.from_dict({"K": v}).hydrate(client) for v in ("1", "1", "2"))
    assert one.object_id == same.object_id != other.object_id
    assert state.run(state.secrets.values([one.object_id, other.object_id])) == {"K": "2"}
    assert state.run(state.secrets.values([])) == {}


@pytest.mark.parametrize("values", [{"": "1"}, {"A=B": "1"}, {"A\0": "1"}, {"A": "se\0cret"}])
def test_what_no_environment_can_hold_is_refused(client: Client, values: dict[str, str]) -> None:
    with pytest.raises(modal.exception.InvalidError) as caught:
        modal.Secret.objects.create("broken", values, client=client)
    assert "cret" not in str(caught.value).replace("secret", "")


def test_values_are_nowhere_in_the_data_directory(state: StateServer, client: Client) -> None:
    modal.Secret.objects.create("hidden", {"PASSWORD": "correct-horse-battery"}, client=client)
    found = [p for p in state.data.rglob("*") if p.is_file() and b"correct-horse" in p.read_bytes()]
    assert not found
    assert (state.data / "secret.key").stat().st_mode & 0o777 == 0o600
    shown = repr(state.secrets.get(by_name("hidden", client).object_id)) + repr(state.secrets)
    assert "PASSWORD" in shown and "horse" not in shown


def test_another_key_opens_nothing(state: StateServer, client: Client) -> None:
    modal.Secret.objects.create("sealed", {"A": "1"}, client=client)
    secret_id = by_name("sealed", client).object_id
    other = Secrets(database=state.database, environments=state.environments, key=b"x" * 32)
    state.environments.on_delete.pop()
    with pytest.raises(FailedPrecondition, match=r"secret\.key"):
        state.run(other.values([secret_id]))


def test_the_command_line(state: StateServer, client: Client) -> None:
    state.modal("secret", "create", "from-cli", "A=1")
    state.modal("secret", "create", "--force", "from-cli", "B=2")
    assert value_of(state, by_name("from-cli", client)) == {"B": "2"}
    assert "from-cli" in state.modal("secret", "list").stdout


def test_environments_separate_names_and_take_their_content_along(state: StateServer, client: Client) -> None:
    environments = modal.Environment.objects
    environments.create("dev", client=client)
    with pytest.raises(modal.exception.AlreadyExistsError):
        environments.create("dev", client=client)
    modal.Secret.objects.create("s", {"A": "dev"}, environment_name="dev", client=client)
    modal.Volume.objects.create("v", environment_name="dev", client=client)
    volume = modal.Volume.from_name("v", environment_name="dev", client=client).hydrate(client)
    with volume.batch_upload() as batch:
        batch.put_file(io.BytesIO(b"1"), "f")
    directory = state.volumes.directory(volume.object_id)
    with pytest.raises(modal.exception.NotFoundError):
        by_name("s", client)
    with pytest.raises(modal.exception.NotFoundError, match=r"no environment 'nope' .* It has: main, dev"):
        by_name("s", client, environment_name="nope")
    environments.delete("dev", client=client)
    assert "dev" not in {e.name for e in environments.list(client=client)} and not directory.exists()
    with pytest.raises(modal.exception.ConflictError, match="default environment"):
        environments.delete("main", client=client)


def test_environment_settings(state: StateServer, client: Client) -> None:
    state.modal("environment", "create", "old")
    state.modal("environment", "update", "old", "--set-name", "new", "--set-image-builder-version", "2024.10")
    environment = state.environments.resolve("new")
    assert state.environments.get(environment.id).image_builder_version == "2024.10"
    assert state.environments.image_builder_version(environment, "1.6.4") == "2024.10"
    main = state.environments.resolve("")
    versions = [state.environments.image_builder_version(main, v) for v in ("1.6.4", "1.5.4", "2.0.0", "")]
    assert versions == ["2025.06"] * 4, "with which apps may still ask for Python 3.10"
    state.run(state.environments.set_image_builder_version("2026.10"))
    assert state.environments.image_builder_version(main, "1.6.4") == "2026.10"
    assert state.environments.image_builder_version(environment, "1.6.4") == "2024.10"
    state.run(state.environments.set_image_builder_version(""))
    with pytest.raises(modal.exception.InvalidError, match="not an image builder version"):
        modal.environments.update_environment("new", new_image_builder_version="9", client=client)
    state.run(state.environments.load())
    assert state.environments.resolve("new") == environment


@pytest.mark.anyio
async def test_an_earlier_workspace_keeps_the_newest_builder_and_its_suffixes(tmp_path: Path) -> None:
    database = Database.open(f"sqlite:///{tmp_path / 'db'}")
    try:
        rows = [Environment(f"en-{name}", name, "", "", 1.0) for name in ("main", "dev")]
        await database.insert(tables.environments, [asdict(row) for row in rows])
        environments = Environments(database=database, default="main")
        await environments.load()
        main = environments.default()
        versions = [environments.image_builder_version(main, version) for version in ("1.6.4", "1.5.4", "2.0.0", "")]
        assert versions == ["2026.10", "2025.06", "2026.10", "2026.10"]
        assert [e.web_suffix for e in environments.all()] == ["", ""]
        assert (await environments.create("new")).web_suffix == "new"
        assert (await environments.update("dev", image_builder_version="2024.10")).web_suffix == ""
    finally:
        await database.close()


@pytest.mark.anyio
async def test_environments_made_at_once_have_suffixes_of_their_own(tmp_path: Path) -> None:
    database = Database.open(f"sqlite:///{tmp_path / 'db'}")
    try:
        environments = Environments(database=database, default="main")
        await environments.load()
        made = await asyncio.gather(*(environments.create(name) for name in ("a-b", "a_b", "a--b")))
        assert {environment.web_suffix for environment in made} == {"a-b", "a-b-2", "a-b-3"}
        changes = [environments.update(environment.name, web_suffix="taken") for environment in made]
        changed = await asyncio.gather(*changes, return_exceptions=True)
        assert sum(isinstance(one, AlreadyExists) for one in changed) == 2
    finally:
        await database.close()


def test_web_suffixes_tell_environments_apart(state: StateServer, client: Client) -> None:
    environments = modal.Environment.objects
    names = ("Staging", "staging", "staging_2", "x" * 64, "a--b", "a_b")
    for name in names:
        environments.create(name, client=client)
    try:
        listed = json.loads(state.modal("environment", "list", "--json").stdout)
        suffixes = {row["name"]: row["web_suffix"] for row in listed}
        made = ["", "staging", "staging-2", "staging-2-2", "x" * 24, "a-b", "a-b-2"]
        assert [suffixes[name] for name in ("main", *names)] == made
        state.modal("environment", "update", "staging", "--set-web-suffix", "preview")
        assert state.environments.resolve("staging").web_suffix == "preview"
        for taken in ("preview", "", "-", "a--b"):
            with pytest.raises(modal.exception.AlreadyExistsError, match="told apart"):
                modal.environments.update_environment("Staging", new_web_suffix=taken, client=client)
        modal.environments.update_environment("a_b", new_web_suffix="a-b-2-", client=client)
    finally:
        for name in names:
            environments.delete(name, client=client)
