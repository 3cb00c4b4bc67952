"""One Settings object: defaults < stoker.toml < STOKER_* environment variables < flags."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any, Literal

import platformdirs
from pydantic import Field, ValidationError, field_validator
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
    TomlConfigSettingsSource,
)

from stoker.errors import InvalidArgument

if sys.version_info >= (3, 11):
    from tomllib import TOMLDecodeError
else:
    from tomli import TOMLDecodeError


def default_data_dir() -> Path:
    """/var/lib/stoker for root, the user's data directory otherwise."""
    if hasattr(os, "geteuid") and os.geteuid() == 0 and sys.platform == "linux":
        return Path("/var/lib/stoker")
    return Path(platformdirs.user_data_dir("stoker", appauthor=False))


class Settings(BaseSettings):
    """All settings of a server. docs/settings.md is generated from the descriptions here."""

    model_config = SettingsConfigDict(env_prefix="STOKER_", extra="forbid", toml_file="stoker.toml")

    data: Path = Field(
        default_factory=default_data_dir, description="Directory that holds everything the server keeps."
    )
    host: str = Field("127.0.0.1", description="Address on which clients are served.")
    port: int = Field(7690, ge=0, le=65535, description="TCP port of the gRPC server; 0 picks a free one.")
    http_port: int = Field(
        0,
        ge=0,
        le=65535,
        description="TCP port of the HTTP gateway; 0 means `port` + 1, or a free one when that is taken.",
    )
    runtime: Literal["runsc", "process"] = Field(
        "runsc", description="What containers run in: gVisor sandboxes, or plain processes without isolation."
    )
    fake_gpus: str = Field(
        "", description="GPUs to declare though they are not there, as MODEL:COUNT,... (development only)."
    )
    web_domain: str = Field(
        "auto",
        description="Domain of web endpoints, whose URLs are <label>.<domain>; empty for URLs of the form /w/<label>/, which need no "
        "DNS; `auto` for localhost where its subdomains resolve, and paths elsewhere. Both forms are always served.",
    )
    web_redirect_seconds: float = Field(
        150.0, gt=0, description="A web request without an answer is told after this long (303) to ask for it again."
    )
    web_silence_seconds: float = Field(
        120.0,
        gt=0,
        description="A web request whose client sends nothing of its unfinished body for this long is ended (408, or its connection closes).",
    )
    max_web_connections: int = Field(
        20_000,
        ge=16,
        description="Connections over HTTP at a time, at most half of the files that the server may open; who comes when all are taken gets the place "
        "of one that has no request.",
    )
    max_connections_per_address: int = Field(
        1_000,
        ge=0,
        description="Connections at a time from one address of another machine, over gRPC and over HTTP each; 0 for no limit. A proxy or a router "
        "that many clients are behind is one address.",
    )
    custom_domains: list[str] = Field(
        default_factory=list,
        description="Domains that web endpoints may have as their own (`custom_domains=[...]` in the app); `*.` in front allows all below one.",
    )
    tls_cert: str = Field(
        "",
        description="PEM file with a certificate and those between it and its root; turns TLS on, for HTTP and gRPC.",
    )
    tls_key: str = Field("", description="PEM file with the key of `tls_cert`.")
    tls_port: int = Field(443, ge=1, le=65535, description="TCP port for TLS, once there is a certificate.")
    acme_domains: list[str] = Field(
        default_factory=list,
        description="Names for which a certificate is asked for and renewed (ACME, HTTP-01), in place of `tls_cert`; `http_port` must be "
        "reachable as port 80 of each.",
    )
    acme_email: str = Field("", description="Where the certificate authority may write to.")
    acme_directory: str = Field(
        "https://acme-v02.api.letsencrypt.org/directory", description="URL of the certificate authority."
    )
    acme_ca: str = Field(
        "", description="PEM file with the root of the certificate authority's own URL, where that is a private one."
    )
    workspace: str = Field("local", description="Workspace name shown by the client.")
    environment: str = Field("main", description="Name of the default environment.")
    region: str = Field("local", description="Where this machine is, as containers read it (`MODAL_REGION`).")
    cloud_provider: str = Field(
        "",
        pattern="^[A-Za-z0-9_]*$",
        description="Whose machine this is, as containers read it: `aws` becomes `MODAL_CLOUD_PROVIDER=CLOUD_PROVIDER_AWS`; empty for one's own "
        "(`CLOUD_PROVIDER_UNSPECIFIED`).",
    )
    identity_issuer: str = Field(
        "",
        description="URL of this server's HTTP as those see it who check the identity tokens of containers (`MODAL_IDENTITY_TOKEN`); empty for its "
        "first ACME domain, or its address.",
    )
    database_url: str = Field("", description="SQLAlchemy URL; empty for SQLite in the data directory.")
    blob_store: str = Field(
        "",
        description="Where large arguments and results are kept: a URL such as s3://bucket/prefix, with keys, region and endpoint in AWS_* "
        "environment variables; empty for the data directory.",
    )
    durability: Literal["NORMAL", "FULL"] = Field(
        "NORMAL", description="NORMAL survives a killed server, FULL also a power cut (SQLite's `synchronous`)."
    )
    image_builder_version: str = Field(
        "",
        description="Image builder version told to clients. Empty: 2025.06, or the newest that each client knows in data directories from before "
        "there was a choice (docs/images.md). What clients set for the workspace or an environment ranks above it.",
    )
    runsc_path: str = Field("", description="Path of the runsc binary; empty looks in the usual places.")
    registry_mirrors: dict[str, str] = Field(
        default_factory=dict, description="Registry host -> mirror (host[:port][/path]) for base images."
    )
    local_bucket_endpoints: list[str] = Field(
        default_factory=list,
        description="Servers on this machine itself (host or host:port) whose buckets apps may mount with CloudBucketMount. Others on this machine "
        "are refused, since the server asks for them.",
    )
    build_isolation: Literal["auto", "namespaces", "gvisor"] = Field(
        "auto",
        description="What the steps of image builds run in that clients ask for: `namespaces` (runc, with users, a network and devices of "
        "their own), `gvisor` (slower), or `auto` for namespaces where this machine can do that. Builds that containers ask for always run in "
        "gVisor.",
    )
    insecure_registries: list[str] = Field(default_factory=list, description="Registries reached over plain HTTP.")
    package_indexes: dict[str, str] = Field(
        default_factory=dict,
        description="Package index (as apps name it, e.g. in extra_index_url) -> the mirror that image builds use instead: an http address "
        "or a directory.",
    )
    image_builds: int = Field(
        0,
        ge=0,
        description="How many images are built at once; 0 for half as many as there are processors, and at least two.",
    )
    image_build_seconds: float = Field(
        3600.0,
        ge=0,
        description="How long the build of one image (each chained call in its definition is one) may take; 0 for no limit.",
    )
    python_mirror: str = Field(
        "",
        description="Where the Pythons of `add_python` come from in place of python-build-standalone's releases: the URL of a mirror of them, "
        "or a directory.",
    )
    secret_key_file: str = Field(
        "",
        description="File with the key that encrypts secrets, 32 bytes in base64 or hexadecimal; empty for `secret.key` in the data "
        "directory, which the server makes.",
    )
    secret_key_command: list[str] = Field(
        default_factory=list,
        description="Command, with its arguments, that prints that key at the server's start, for instance from a key management service; "
        "it ranks above `secret_key_file`.",
    )
    base_refresh_days: float = Field(
        30.0,
        gt=0,
        description="Bases made from Debian's packages are made anew for new builds when they are older, for the sake of security updates.",
    )
    process_python: str = Field(
        "", description="Interpreter for containers of the process runtime; empty for the server's own."
    )
    max_pending_inputs: int = Field(
        2_000, ge=1, description="Inputs one function may have waiting from calls that someone waits for."
    )
    max_inputs: int = Field(
        25_000, ge=1, description="Inputs one function may have waiting and running from such calls."
    )
    max_pending_spawned: int = Field(1_000_000, ge=1, description="Inputs one function may have waiting from `.spawn`.")
    result_days: float = Field(7.0, gt=0, description="Days for which results are kept.")
    min_free_disk_mib: int = Field(
        512,
        ge=0,
        description="Below this much free space in the data directory, new work is refused, and the container that writes most ends.",
    )
    memory_reserve_mib: int = Field(
        0,
        ge=0,
        description="Memory that all containers together can never have: it is kept for the server and the system. 0 keeps a tenth of the "
        "machine, at least 1 and at most 8 GiB, but no more than half of it.",
    )
    container_disk_gib: float = Field(
        0.0,
        ge=0,
        description="What a container may write to the disk as its own (all but Volumes and other mounts) if its app does not say `ephemeral_disk`; "
        "one that writes more ends. 0 for a quarter of the disk of the data directory.",
    )
    drain_seconds: float = Field(10.0, ge=0, description="How long running inputs may finish when the server stops.")
    memory_snapshots: bool = Field(
        True, description="Whether functions with enable_memory_snapshot are started from memory snapshots."
    )
    huge_pages: bool = Field(
        True,
        description="Whether the server, while it runs, may tell the kernel to give out shared memory, which sandboxes have, in larger pages "
        "(`shmem_enabled`: of 64 and 256 KiB always, of 2 MiB to who asks): snapshots are read in less than half of the time.",
    )
    expedited_rcu: bool = Field(
        True,
        description="Whether the server, while it runs, may tell the kernel to be quick about what starting processes wait for "
        "(`rcu_expedited`), at the price of short interruptions of other processors.",
    )
    base_snapshots: bool = Field(
        True,
        description="Whether functions without memory snapshots start from a snapshot of their image's Python with the client imported.",
    )
    prepared_sandboxes: int = Field(
        8,
        ge=0,
        description="How many sandboxes are made ahead of time, for the next starts of functions that lately started from a snapshot: it takes about "
        "0.1 s off a start and keeps some 15 MB of memory each.",
    )
    snapshot_quota_gib: float = Field(
        50.0, ge=0, description="Disk space for memory snapshots; beyond it the least recently used ones are removed."
    )
    snapshot_reseed: bool = Field(
        True,
        description="Whether the random generators of `random`, numpy and torch are seeded anew in every restored container.",
    )
    snapshot_ephemeral: bool = Field(
        False, description="Whether apps that are run and not deployed get memory snapshots too."
    )
    predictive_scaling: bool = Field(
        False,
        description="Whether containers of all functions come and go by what their history lets expect, and not only of those that ask for it "
        "(docs/scaling.md).",
    )
    validate_pools: bool = Field(
        False,
        description="Whether the inputs and containers of each function are counted anew after its events, and what does not agree is told in the "
        "log (for the developers of Stoker; costs time).",
    )
    fair_after_seconds: float = Field(
        120.0,
        ge=0,
        description="A function that has waited this long for resources gets those of a busy container of a function that holds more, which ends "
        "when it has done what it runs; 0 for never. Idle containers make room at once.",
    )
    schedule_catch_up_hours: float = Field(
        24.0,
        ge=0,
        description="A scheduled run that fell into a time when the server was away is made up for when it is back, once, if it was due at most "
        "this long ago (and within `result_days`); 0 for never.",
    )
    client_lost_seconds: float = Field(
        60.0,
        gt=0,
        description="An app that lives with its client ends after this long without a sign of the client, which gives one every 15 s.",
    )
    container_lost_seconds: float = Field(
        45.0,
        ge=1,
        description="A container that gives no sign of life for this long, which it does every 15 s, is looked at: it ends, and its inputs run "
        "elsewhere, when its processes are stopped or its sandbox does not answer.",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="Least severe level that the server's own log shows."
    )
    log_format: Literal["auto", "pretty", "json"] = Field(
        "auto",
        description="How the log is written; `auto` is pretty on a terminal and one JSON object a line elsewhere.",
    )

    @field_validator("data")
    @classmethod
    def _absolute(cls, value: Path) -> Path:
        # Without links: mounts are found again by the names that the kernel gives them.
        return value.expanduser().resolve()

    @property
    def secure(self) -> bool:
        """Whether TLS is on."""
        return bool(self.tls_cert or self.acme_domains)

    @property
    def pretty_log(self) -> bool:
        """Whether the server's log is for people, not for programs."""
        return self.log_format == "pretty" or (self.log_format == "auto" and sys.stderr.isatty())

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return init_settings, env_settings, TomlConfigSettingsSource(settings_cls)

    @classmethod
    def load(cls, **flags: Any) -> Settings:
        """Settings with the given flags on top; flags that are None count as not given. Raises InvalidArgument."""
        given = {name: value for name, value in flags.items() if value is not None}
        try:
            return cls(**given)
        except ValidationError as error:
            faults = [_sentence(str(fault["loc"][0]), fault["msg"], fault["input"], given) for fault in error.errors()]
            raise InvalidArgument("\n".join(faults)) from None
        except SettingsError as error:
            raise InvalidArgument(f"{error}: a setting that is a list or a table is written as JSON.") from None
        except (TOMLDecodeError, UnicodeDecodeError) as error:
            raise InvalidArgument(f"{Path('stoker.toml').absolute()} is not valid TOML: {error}.") from None
        except OSError as error:
            raise InvalidArgument(f"{error.filename} cannot be read: {error.strerror}.") from None

    @classmethod
    def without_file(cls, **flags: Any) -> Settings:
        """As `load`, but stoker.toml is left out, for it cannot be used."""
        return _WithoutFile.load(**flags)


class _WithoutFile(Settings):
    model_config = SettingsConfigDict(env_prefix="STOKER_", extra="forbid", toml_file=None)


def _sentence(name: str, message: str, value: Any, flags: dict[str, Any]) -> str:
    """Says what is wrong with one setting, and in which of the places that set it."""
    variable = f"STOKER_{name.upper()}"
    if name in flags:
        where = f"The flag --{name.replace('_', '-')}"
    elif variable in os.environ:
        where = f"The environment variable {variable}"
    else:
        where = f"The setting `{name}` in {Path('stoker.toml').absolute()}"
    if name not in Settings.model_fields:
        return f"{where} does not exist. docs/settings.md lists all settings."
    return f"{where} is {value!r}: {message[:1].lower()}{message[1:]}."
