"""Settings: where they come from, what is said of wrong ones, and their generated reference."""

from __future__ import annotations

from pathlib import Path

import pytest

from stoker.cli.settings import settings_page
from stoker.config import Settings
from stoker.errors import InvalidArgument

_PAGE = Path(__file__).parents[2] / "docs" / "settings.md"


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_page_is_current() -> None:
    assert _PAGE.read_text() == settings_page(), "docs/settings.md is stale: run `make docs`"


def test_flags_win_over_the_environment_over_the_file(elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (elsewhere / "stoker.toml").write_text('port = 1\nhost = "file"\nworkspace = "file"\n')
    monkeypatch.setenv("STOKER_PORT", "2")
    monkeypatch.setenv("STOKER_HOST", "environment")
    settings = Settings.load(port=3, host=None)
    assert (settings.port, settings.host, settings.workspace) == (3, "environment", "file")


@pytest.mark.parametrize(
    ("file", "variable", "flags", "words"),
    [
        ("", "", {"port": 70_000}, ["--port", "70000", "65535"]),
        ("", "STOKER_PORT", {}, ["STOKER_PORT", "'many'"]),
        ("", "STOKER_INSECURE_REGISTRIES", {}, ["insecure_registries", "JSON"]),
        ("drain_seconds = -1", "", {}, ["drain_seconds", "stoker.toml", "-1"]),
        ("prot = 1", "", {}, ["`prot`", "stoker.toml", "does not exist", "docs/settings.md"]),
        ("port 1", "", {}, ["stoker.toml is not valid TOML", "line 1"]),
    ],
)
def test_a_wrong_setting_is_named_with_its_place(
    elsewhere: Path,
    monkeypatch: pytest.MonkeyPatch,
    file: str,
    variable: str,
    flags: dict[str, object],
    words: list[str],
) -> None:
    (elsewhere / "stoker.toml").write_text(file)
    if variable:
        monkeypatch.setenv(variable, "many")
    with pytest.raises(InvalidArgument) as raised:
        Settings.load(**flags)
    assert [word for word in words if word not in str(raised.value)] == []


def test_the_data_directory_is_known_by_its_real_name(tmp_path: Path) -> None:
    """The kernel lists mounts that way, and a server finds those of the last one by its name."""
    (tmp_path / "link").symlink_to(tmp_path / "real")
    assert Settings.load(data=tmp_path / "link" / "data").data == tmp_path / "real" / "data"
