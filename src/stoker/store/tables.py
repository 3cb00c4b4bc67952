"""All tables. A row holds what must survive a restart; what is only true while the server runs (containers, waiting callers) lives in memory.

Times are seconds since the epoch (UTC). Columns named `definition`, `payload` and `result` hold serialised protobuf messages that only
`protocol/` opens.
"""

from __future__ import annotations

import sqlalchemy as sa

metadata = sa.MetaData()

settings = sa.Table(
    "settings",  # facts about this data directory: signing keys, schema-independent state
    metadata,
    sa.Column("key", sa.String(64), primary_key=True),
    sa.Column("value", sa.LargeBinary, nullable=False),
)

environments = sa.Table(
    "environments",
    metadata,
    sa.Column("id", sa.String(32), primary_key=True),
    sa.Column("name", sa.String(64), nullable=False, unique=True),
    sa.Column("web_suffix", sa.String(64), nullable=False, default=""),
    sa.Column("image_builder_version", sa.String(16), nullable=False, default=""),  # "" inherits the server's
    sa.Column("created_at", sa.Float, nullable=False),
)

tokens = sa.Table(
    "tokens",
    metadata,
    sa.Column("id", sa.String(32), primary_key=True),
    sa.Column("name", sa.String(64), nullable=False, default=""),
    sa.Column("secret_sha256", sa.String(64), nullable=False),
    sa.Column("enabled", sa.Boolean, nullable=False, default=True),
    sa.Column("created_at", sa.Float, nullable=False),
    sa.Column("last_used_at", sa.Float),
    sa.Column("expires_at", sa.Float),  # null for never
)

proxy_tokens = sa.Table(
    "proxy_tokens",  # what calls of protected web endpoints show
    metadata,
    sa.Column("id", sa.String(32), primary_key=True),
    sa.Column("name", sa.String(64), nullable=False, default=""),
    sa.Column("secret_sha256", sa.String(64), nullable=False),
    sa.Column("scoped", sa.Boolean, nullable=False),  # false: good for every environment
    sa.Column("created_by", sa.String(64), nullable=False, default=""),
    sa.Column("created_at", sa.Float, nullable=False),
)

proxy_token_environments = sa.Table(
    "proxy_token_environments",
    metadata,
    sa.Column("token_id", sa.String(32), primary_key=True),
    sa.Column("environment_id", sa.String(32), primary_key=True),
)

apps = sa.Table(
    "apps",
    metadata,
    sa.Column("id", sa.String(32), primary_key=True),
    sa.Column("environment_id", sa.String(32), nullable=False),
    sa.Column("name", sa.String(64), nullable=False, default=""),  # deployment name, "" for ephemeral apps
    sa.Column("description", sa.String(256), nullable=False, default=""),
    sa.Column("state", sa.String(24), nullable=False),
    sa.Column("tags", sa.JSON, nullable=False, default=dict),
    sa.Column("function_ids", sa.JSON, nullable=False, default=dict),  # tag -> function id, of the published layout
    sa.Column("class_ids", sa.JSON, nullable=False, default=dict),
    sa.Column("created_at", sa.Float, nullable=False),
    sa.Column("deployed_at", sa.Float),
    sa.Column("stopped_at", sa.Float),
    sa.Column("stopped_by", sa.String(64), nullable=False, default=""),  # "" for one that ended by itself
    sa.Index("apps_by_name", "environment_id", "name"),
)

deployments = sa.Table(
    "deployments",
    metadata,
    sa.Column("app_id", sa.String(32), primary_key=True),
    sa.Column("version", sa.Integer, primary_key=True),
    sa.Column("deployed_at", sa.Float, nullable=False),
    sa.Column("client_version", sa.String(32), nullable=False, default=""),
    sa.Column("tag", sa.String(128), nullable=False, default=""),
    sa.Column("function_ids", sa.JSON, nullable=False),
    sa.Column("class_ids", sa.JSON, nullable=False),
    sa.Column("definition_ids", sa.JSON, nullable=False),  # function id -> definition id
    sa.Column("details", sa.JSON, nullable=False, default=dict),  # commit info and the like
)

functions = sa.Table(
    "functions",
    metadata,
    sa.Column("id", sa.String(32), primary_key=True),
    sa.Column("app_id", sa.String(32), nullable=False, index=True),
    sa.Column("name", sa.String(256), nullable=False),
    sa.Column("definition_id", sa.String(32), nullable=False, default=""),  # current one; "" while only precreated
    sa.Column(
        "base_id", sa.String(32), nullable=False, default=""
    ),  # for bound parameters: the function they belong to
    sa.Column("binding", sa.LargeBinary, nullable=False, default=b""),  # for bound parameters: the request that made it
    sa.Column("precreated", sa.LargeBinary, nullable=False, default=b""),
    sa.Column("created_at", sa.Float, nullable=False),
)

definitions = sa.Table(
    "definitions",  # a function id is stable over deployments; what it means is a new definition each time
    metadata,
    sa.Column("id", sa.String(32), primary_key=True),
    sa.Column("function_id", sa.String(32), nullable=False, index=True),
    sa.Column("definition", sa.LargeBinary, nullable=False),
    sa.Column("client_version", sa.String(32), nullable=False, default=""),
    sa.Column("created_at", sa.Float, nullable=False),
)

classes = sa.Table(
    "classes",
    metadata,
    sa.Column("id", sa.String(32), primary_key=True),
    sa.Column("app_id", sa.String(32), nullable=False, index=True),
    sa.Column("created_at", sa.Float, nullable=False),
)

images = sa.Table(
    "images",
    metadata,
    sa.Column("id", sa.String(32), primary_key=True),
    sa.Column("spec", sa.LargeBinary, nullable=False),
    sa.Column("state", sa.String(16), nullable=False),  # building, ready, failed
    sa.Column("config", sa.Text, nullable=False, default=""),
    sa.Column("error", sa.Text, nullable=False, default=""),
    sa.Column("log", sa.Text, nullable=False, default=""),
    sa.Column("created_at", sa.Float, nullable=False),
    sa.Column("built_at", sa.Float),
)

image_revisions = sa.Table(
    "image_revisions",  # what a published name pointed to, over time; the newest row is what it points to now
    metadata,
    sa.Column("id", sa.String(32), primary_key=True),
    sa.Column("environment_id", sa.String(32), nullable=False),
    sa.Column("tag", sa.String(256), nullable=False),  # name:tag
    sa.Column("image_id", sa.String(32), nullable=False),
    sa.Column("published_by", sa.String(64), nullable=False, default=""),
    sa.Column("created_at", sa.Float, nullable=False),
    sa.Index("image_revisions_by_tag", "environment_id", "tag"),
)

mounts = sa.Table(
    "mounts",
    metadata,
    sa.Column("id", sa.String(32), primary_key=True),  # content id of the file list
    sa.Column("name", sa.String(128), nullable=False, default=""),
    sa.Column("files", sa.JSON, nullable=False),  # [[remote path, sha256, mode], ...]
    sa.Column("checksum", sa.String(64), nullable=False),
    sa.Column("created_at", sa.Float, nullable=False),
)

volumes = sa.Table(
    "volumes",
    metadata,
    sa.Column("id", sa.String(32), primary_key=True),
    sa.Column("environment_id", sa.String(32), nullable=False),
    sa.Column("name", sa.String(64)),  # null for ephemeral ones
    sa.Column("version", sa.Integer, nullable=False),
    sa.Column("created_at", sa.Float, nullable=False),
    sa.Column("heartbeat_at", sa.Float),
    sa.UniqueConstraint("environment_id", "name"),
)

shared_volumes = sa.Table(
    "shared_volumes",  # the legacy NetworkFileSystem
    metadata,
    sa.Column("id", sa.String(32), primary_key=True),
    sa.Column("environment_id", sa.String(32), nullable=False),
    sa.Column("name", sa.String(64)),  # null for ephemeral ones
    sa.Column("created_at", sa.Float, nullable=False),
    sa.Column("heartbeat_at", sa.Float),
    sa.UniqueConstraint("environment_id", "name"),
)

dicts = sa.Table(
    "dicts",
    metadata,
    sa.Column("id", sa.String(32), primary_key=True),
    sa.Column("environment_id", sa.String(32), nullable=False),
    sa.Column("name", sa.String(64)),  # null for ephemeral ones
    sa.Column("created_at", sa.Float, nullable=False),
    sa.Column("heartbeat_at", sa.Float),
    sa.UniqueConstraint("environment_id", "name"),
)

dict_entries = sa.Table(
    "dict_entries",
    metadata,
    sa.Column("dict_id", sa.String(32), primary_key=True),
    sa.Column("digest", sa.LargeBinary(32), primary_key=True),  # SHA-256 of the key: an index takes no long keys
    sa.Column("key", sa.LargeBinary, nullable=False),
    sa.Column("value", sa.LargeBinary, nullable=False),
)

dict_answers = sa.Table(
    "dict_answers",  # to requests that change entries, kept a while in case they are repeated
    metadata,
    sa.Column("request", sa.LargeBinary(32), primary_key=True),  # digest of its idempotency key and of who sent it
    sa.Column("answered_at", sa.Float, nullable=False),
    sa.Column("value", sa.LargeBinary),  # null for "there was none"
)

queues = sa.Table(
    "queues",
    metadata,
    sa.Column("id", sa.String(32), primary_key=True),
    sa.Column("environment_id", sa.String(32), nullable=False),
    sa.Column("name", sa.String(64)),  # null for ephemeral ones
    sa.Column("created_at", sa.Float, nullable=False),
    sa.Column("heartbeat_at", sa.Float),
    sa.UniqueConstraint("environment_id", "name"),
)

queue_items = sa.Table(
    "queue_items",
    metadata,
    sa.Column("seq", sa.BigInteger, primary_key=True, autoincrement=False),  # orders the items of all queues
    sa.Column("queue_id", sa.String(32), nullable=False),
    sa.Column("partition", sa.LargeBinary(64), nullable=False),
    sa.Column("size", sa.Integer, nullable=False),
    sa.Column("expires_at", sa.Float, nullable=False),  # that of a partition's newest item counts for all of it
    sa.Column("put_by", sa.String(64), nullable=False),  # idempotency key of the put
    sa.Column("taken_at", sa.Float),  # null while it waits; taken items stay a while, for repeats of the same get
    sa.Column("taken_by", sa.String(64), nullable=False, default=""),
    sa.Column("value", sa.LargeBinary, nullable=False),
    sa.Index("queue_items_by_partition", "queue_id", "partition"),
)

secrets = sa.Table(
    "secrets",
    metadata,
    sa.Column("id", sa.String(32), primary_key=True),
    sa.Column("environment_id", sa.String(32), nullable=False),
    sa.Column("name", sa.String(64)),  # null for anonymous ones
    sa.Column("app_id", sa.String(32), nullable=False, default=""),
    sa.Column("keys", sa.JSON, nullable=False),
    sa.Column("sealed", sa.LargeBinary, nullable=False),  # encrypted JSON object of the values
    sa.Column("created_at", sa.Float, nullable=False),
    sa.Column("updated_at", sa.Float, nullable=False),
    sa.Column("last_used_at", sa.Float),
    sa.UniqueConstraint("environment_id", "name"),
)

blobs = sa.Table(
    "blobs",
    metadata,
    sa.Column("id", sa.String(32), primary_key=True),
    sa.Column("size", sa.BigInteger, nullable=False),
    sa.Column("complete", sa.Boolean, nullable=False, default=False),
    sa.Column("created_at", sa.Float, nullable=False),
    sa.Column("sums", sa.LargeBinary),  # digests of its blocks, see integrity/blocks.py; null when they are not known
)

volume_sums = sa.Table(
    "volume_sums",  # digests of files of volumes that clients uploaded, as they were when they were put in their place
    metadata,
    sa.Column("volume_id", sa.String(32), primary_key=True),
    sa.Column("path_key", sa.LargeBinary(32), primary_key=True),  # SHA-256 of the path: an index takes no long keys
    sa.Column("path", sa.Text, nullable=False),
    sa.Column("inode", sa.BigInteger, nullable=False),
    sa.Column("size", sa.BigInteger, nullable=False),
    sa.Column("mtime_ns", sa.BigInteger, nullable=False),
    sa.Column("ctime_ns", sa.BigInteger, nullable=False),
    sa.Column("sums", sa.LargeBinary, nullable=False),  # of its blocks of 8 MiB without their trailing zeros
)

volume_writers = sa.Table(
    "volume_writers",  # until when containers may have written into a volume; infinite while they may
    metadata,
    sa.Column("volume_id", sa.String(32), primary_key=True),
    sa.Column("until", sa.Float, nullable=False),
)

damages = sa.Table(
    "damages",  # what was found damaged on the disk
    metadata,
    sa.Column("id", sa.String(64), primary_key=True),  # digest of kind and name
    sa.Column("kind", sa.String(16), nullable=False),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("detail", sa.Text, nullable=False),
    sa.Column("found_at", sa.Float, nullable=False),
)

calls = sa.Table(
    "calls",
    metadata,
    sa.Column("id", sa.String(32), primary_key=True),
    sa.Column("function_id", sa.String(32), nullable=False, index=True),
    sa.Column("app_id", sa.String(32), nullable=False, index=True),
    sa.Column("parent_input_id", sa.String(32), nullable=False, default="", index=True),
    sa.Column("kind", sa.String(8), nullable=False),  # unary, map
    sa.Column("invocation", sa.Integer, nullable=False),
    sa.Column("cancelled", sa.Boolean, nullable=False, default=False),
    sa.Column("created_at", sa.Float, nullable=False, index=True),
    sa.Column("caller_app_id", sa.String(32), nullable=False, default=""),  # of the container that made it
)

inputs = sa.Table(
    "inputs",  # without an output of the same id: still to do
    metadata,
    sa.Column("id", sa.String(32), primary_key=True),
    sa.Column("call_id", sa.String(32), nullable=False, index=True),
    sa.Column("idx", sa.Integer, nullable=False),
    sa.Column("payload", sa.LargeBinary, nullable=False),
    sa.Column("created_at", sa.Float, nullable=False),
    sa.Column("method", sa.String(256), nullable=False, default=""),  # of a class; "" for one that is no method
)

outputs = sa.Table(
    "outputs",
    metadata,
    sa.Column("input_id", sa.String(32), primary_key=True),
    sa.Column("call_id", sa.String(32), nullable=False, index=True),
    sa.Column("idx", sa.Integer, nullable=False),
    sa.Column("seq", sa.Integer, nullable=False),  # order of arrival within the call, from 1
    sa.Column("result", sa.LargeBinary, nullable=False),
    sa.Column("data_format", sa.Integer, nullable=False, default=0),
    sa.Column("status", sa.Integer, nullable=False),
    sa.Column("task_id", sa.String(32), nullable=False, default=""),
    sa.Column("started_at", sa.Float, nullable=False, default=0.0),
    sa.Column("created_at", sa.Float, nullable=False),
)

server_requests = sa.Table(
    "server_requests",  # to @app.server, when they are over; the newest of them
    metadata,
    # Microseconds since the epoch of the end, or a little more: see services/watch/server_requests.py.
    sa.Column("seq", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True, autoincrement=False),
    sa.Column("request_id", sa.String(128), nullable=False),
    sa.Column("function_id", sa.String(32), nullable=False),
    sa.Column("task_id", sa.String(32), nullable=False),  # "" for one that no container got
    sa.Column("route", sa.String(256), nullable=False),
    sa.Column("status", sa.Integer, nullable=False),
    sa.Column("arrived_at", sa.Float, nullable=False),
    sa.Column("started_at", sa.Float),  # when a container got it
    sa.Column("ended_at", sa.Float, nullable=False),
    sa.Index("server_requests_by_function", "function_id", "seq"),
)

tasks = sa.Table(
    "tasks",  # containers, for history; a row without finished_at after a restart was lost with the server
    metadata,
    sa.Column("id", sa.String(32), primary_key=True),
    sa.Column("app_id", sa.String(32), nullable=False, index=True),
    sa.Column("function_id", sa.String(32), nullable=False, index=True),
    sa.Column("enqueued_at", sa.Float, nullable=False),
    sa.Column("started_at", sa.Float),
    sa.Column("finished_at", sa.Float),
    sa.Column("exit", sa.String(16), nullable=False, default=""),  # see services/watch/history.py
    sa.Column("detail", sa.Text, nullable=False, default=""),
)

logs = sa.Table(
    "logs",
    metadata,
    # Microseconds since the epoch, or a little more: see services/telemetry/logs.py. The variant makes it SQLite's own row number.
    sa.Column("seq", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True, autoincrement=False),
    sa.Column("app_id", sa.String(32), nullable=False),
    sa.Column("function_id", sa.String(32), nullable=False, default=""),
    sa.Column("task_id", sa.String(32), nullable=False, default=""),
    sa.Column("input_id", sa.String(32), nullable=False, default=""),
    sa.Column("fd", sa.Integer, nullable=False),  # 1 stdout, 2 stderr, 3 info
    sa.Column("data", sa.Text, nullable=False),
    sa.Column("timestamp", sa.Float, nullable=False),
    sa.Column("call_ids", sa.Text, nullable=False, default=""),  # those that it may belong to, with spaces in between
    sa.Index("logs_by_app", "app_id", "timestamp"),
)

snapshots = sa.Table(
    "snapshots",  # memory snapshots of functions; their files are on the machine
    metadata,
    sa.Column("id", sa.String(32), primary_key=True),
    sa.Column("key", sa.String(64), nullable=False),  # digest of all that must be equal for it to be usable
    sa.Column("app_id", sa.String(32), nullable=False),
    sa.Column("function_id", sa.String(32), nullable=False),
    sa.Column("definition_id", sa.String(32), nullable=False),
    sa.Column("state", sa.String(16), nullable=False),  # creating, ready, failed, dropped
    sa.Column("reason", sa.Text, nullable=False, default=""),
    sa.Column("size", sa.BigInteger, nullable=False, default=0),
    sa.Column("hits", sa.Integer, nullable=False, default=0),
    sa.Column("failures", sa.Integer, nullable=False, default=0),  # in a row
    sa.Column("all_failures", sa.Integer, nullable=False, default=0),
    sa.Column("restore_seconds", sa.JSON, nullable=False, default=list),
    sa.Column("created_at", sa.Float, nullable=False),
    sa.Column("used_at", sa.Float, nullable=False),
)
