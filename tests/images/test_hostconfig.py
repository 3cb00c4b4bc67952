from __future__ import annotations

from pathlib import Path

from stoker.images import aptsources
from stoker.images.hostconfig import package_sources


def test_pip_configuration_reaches_pip_and_uv(tmp_path: Path) -> None:
    wheels, index = tmp_path / "wheels", tmp_path / "index" / "simple"
    wheels.mkdir()
    index.mkdir(parents=True)
    caps = tmp_path / "caps.txt"
    caps.write_text("six<2\n")
    config = tmp_path / "xdg" / "pip" / "pip.conf"
    config.parent.mkdir(parents=True)
    config.write_text(
        f"[global]\nconstraint = {caps}\nindex-url = https://a.example/simple\ntarget = /nowhere\n"
        f"[install]\nextra-index-url =\n  file://{index}\n  https://b.example/simple\n"
    )
    found = package_sources(
        {
            "XDG_CONFIG_DIRS": str(tmp_path / "xdg"),
            "HOME": str(tmp_path),
            "PIP_FIND_LINKS": str(wheels),
            "PIP_INDEX_URL": "https://c.example/simple",
            "PIP_TARGET": "/nowhere",
            "UV_HTTP_TIMEOUT": "9",
        }
    )
    env = {
        name: value for name, value in found.environment.items() if "CONSTRAINT" not in name or str(tmp_path) in value
    }
    assert env["PIP_INDEX_URL"] == env["UV_DEFAULT_INDEX"] == "https://c.example/simple"
    assert env["PIP_EXTRA_INDEX_URL"] == env["UV_INDEX"] == f"file://{index} https://b.example/simple"
    assert env["UV_FIND_LINKS"] == str(wheels)
    assert env["UV_CONSTRAINT"] == str(caps)
    assert env["UV_HTTP_TIMEOUT"] == "9"
    # Where packages go is the step's own business.
    assert not [name for name in env if "TARGET" in name]
    # A local index may link to files beside its pages.
    assert {wheels, caps, index.parent} <= set(found.paths)


def test_own_settings_of_uv_win(tmp_path: Path) -> None:
    found = package_sources(
        {
            "PIP_CONFIG_FILE": "/dev/null",
            "PIP_INDEX_URL": "https://pip.example",
            "UV_DEFAULT_INDEX": "https://uv.example",
        }
    )
    assert found.environment["UV_DEFAULT_INDEX"] == "https://uv.example"
    assert found.paths == ()


def test_both_formats_of_apt_sources(tmp_path: Path) -> None:
    directory = tmp_path / "etc/apt/sources.list.d"
    directory.mkdir(parents=True)
    (tmp_path / "etc/apt/sources.list").write_text(
        "# deb http://old.example/debian bookworm main\n"
        "deb [arch=amd64 signed-by=/k.gpg] http://one.example/debian bookworm main contrib # comment\n"
        "deb-src http://one.example/debian bookworm main\n"
        "deb http://vendor.example/apt stable vendor\n"
    )
    (directory / "debian.sources").write_text(
        "Types: deb deb-src\nURIs: http://two.example/debian\nSuites: bookworm bookworm-updates\n"
        "Components: main\n# note\nSigned-By: /k2.gpg\n\n"
        "Types: deb\nURIs: http://two.example/security\nSuites: bookworm-security\nComponents: main\nEnabled: no\n"
    )
    (directory / "ignored.sources.disabled").write_text(
        "Types: deb\nURIs: http://no.example\nSuites: bookworm\nComponents: main\n"
    )
    sources = aptsources.host_sources(tmp_path)
    assert [(s.uri, s.suite, s.components, s.signed_by) for s in sources] == [
        ("http://one.example/debian", "bookworm", ("main", "contrib"), "/k.gpg"),
        ("http://two.example/debian", "bookworm", ("main",), "/k2.gpg"),
        ("http://two.example/debian", "bookworm-updates", ("main",), "/k2.gpg"),
    ]
    lines = [aptsources.line(source) for source in aptsources.sources_for("trixie", sources[1:])]
    assert lines == [
        "deb [signed-by=/k2.gpg] http://two.example/debian trixie main",
        "deb [signed-by=/k2.gpg] http://two.example/debian trixie-updates main",
    ]
    assert [source.suite for source in aptsources.sources_for("sid", sources[1:])] == ["sid"]
