"""A bucket of an S3-compatible store that a container mounts, and how rclone and the store's own protocol are told of it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal
from urllib.parse import urlsplit

from stoker.errors import InvalidArgument

Kind = Literal["s3", "r2", "gcp"]
S3: Final = "s3"
R2: Final = "r2"
GCP: Final = "gcp"
REMOTE = "bucket"  # the name of the bucket's section in rclone's configuration

_NAME = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._-]{1,254}$")
_KEYS = {
    S3: ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"),
    R2: ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"),
    GCP: ("GOOGLE_ACCESS_KEY_ID", "GOOGLE_ACCESS_KEY_SECRET"),
}


@dataclass(frozen=True)
class Credentials:
    """Never shown, logged or stored; empty for a public bucket."""

    key_id: str = field(default="", repr=False)
    secret: str = field(default="", repr=False)
    session_token: str = field(default="", repr=False)
    region: str = ""


@dataclass(frozen=True)
class BucketMount:
    """A bucket, or with `prefix` ("a/b/") a part of it, at an absolute path inside."""

    name: str
    mount_path: str
    kind: Kind = S3
    endpoint: str = ""  # URL; empty for Amazon's own
    prefix: str = ""
    read_only: bool = False
    requester_pays: bool = False
    path_style: bool = False
    credentials: Credentials = field(default_factory=Credentials, repr=False)

    def __post_init__(self) -> None:
        """Raises InvalidArgument."""
        if not _NAME.match(self.name):
            raise InvalidArgument(
                f"{self.name!r} cannot be the name of a bucket. Give its name alone, without s3:// or a path."
            )
        if self.endpoint and (
            urlsplit(self.endpoint).scheme not in ("http", "https") or re.search(r"\s", self.endpoint)
        ):
            raise InvalidArgument(
                f"{self.endpoint!r} cannot be the endpoint of the bucket {self.name!r}: give a URL such as https://s3.example.com."
            )
        if re.search(r"[\x00-\x1f]", self.prefix) or ".." in self.prefix.split("/") or self.prefix.startswith("/"):
            raise InvalidArgument(f"{self.prefix!r} cannot be a key_prefix: give the begin of keys, such as 'models/'.")
        if re.search(r"[^A-Za-z0-9-]", self.credentials.region):
            raise InvalidArgument(
                f"{self.credentials.region!r} cannot be the region of the bucket {self.name!r}. Correct AWS_REGION in its secret."
            )
        for value in (self.credentials.key_id, self.credentials.secret, self.credentials.session_token):
            if re.search(r"[\x00-\x1f]|%\(|^[\s\"'`]|[\s\"'`]$", value):
                raise InvalidArgument(
                    f"The credentials of the bucket {self.name!r} have a character that no access key has, such as a line break "
                    "or a quote. Create the secret again with the bare values."
                )

    @property
    def source(self) -> str:
        """What rclone mounts."""
        return f"{REMOTE}:{self.name}/{self.prefix}"

    @property
    def host(self) -> str:
        """Where it is, for messages."""
        return self.endpoint or "Amazon S3"

    def rclone_config(self) -> str:
        """The text of a configuration file, credentials included."""
        provider = {R2: "Cloudflare"}.get(self.kind, "Other") if self.endpoint else "AWS"
        keys = {
            "type": "s3",
            "provider": provider,
            "env_auth": "false",
            "access_key_id": self.credentials.key_id,
            "secret_access_key": self.credentials.secret,
            "session_token": self.credentials.session_token,
            "region": self._region(),
            "endpoint": self.endpoint,
            "force_path_style": str(self._uses_paths()).lower(),
            "requester_pays": str(self.requester_pays).lower(),
            "no_check_bucket": "true",  # never make one
        }
        return "".join((f"[{REMOTE}]\n", *(f"{key} = {value}\n" for key, value in keys.items() if value)))

    def store_options(self) -> dict[str, Any]:
        """The same for obstore's S3Store."""
        found = self.credentials
        options: dict[str, Any] = {
            "region": self._region(),
            "virtual_hosted_style_request": not self._uses_paths(),
            "request_payer": self.requester_pays,
        }
        if self.endpoint:
            options["endpoint"] = self.endpoint
        if found.key_id:
            options |= {"access_key_id": found.key_id, "secret_access_key": found.secret}
            if found.session_token:
                options["session_token"] = found.session_token
        else:
            options["skip_signature"] = True
        return options

    def _region(self) -> str:
        return self.credentials.region or ("auto" if self.kind == R2 else "us-east-1")

    def _uses_paths(self) -> bool:
        """Stores other than Amazon's seldom have a host name per bucket, and all take it as a path."""
        host = urlsplit(self.endpoint).hostname or ""
        return self.path_style or bool(self.endpoint and not host.endswith("amazonaws.com"))


def credentials_from(kind: str, values: Mapping[str, str]) -> Credentials:
    """What a secret says. Raises InvalidArgument that names the keys it must have, never their values."""
    id_key, secret_key = _KEYS[kind]
    missing = [key for key in (id_key, secret_key) if not values.get(key)]
    if missing:
        raise InvalidArgument(
            f"The secret of a CloudBucketMount has no key {' and no key '.join(missing)}; it needs {id_key} and {secret_key}."
        )
    region = values.get("AWS_REGION") or values.get("AWS_DEFAULT_REGION") or ""
    return Credentials(values[id_key], values[secret_key], values.get("AWS_SESSION_TOKEN", ""), region)
