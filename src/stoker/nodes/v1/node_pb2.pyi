from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ExitKind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    EXIT_KIND_UNSPECIFIED: _ClassVar[ExitKind]
    EXIT_KIND_EXITED: _ClassVar[ExitKind]
    EXIT_KIND_OOM: _ClassVar[ExitKind]
    EXIT_KIND_LIMIT: _ClassVar[ExitKind]
    EXIT_KIND_KILLED: _ClassVar[ExitKind]
    EXIT_KIND_FAILED: _ClassVar[ExitKind]
EXIT_KIND_UNSPECIFIED: ExitKind
EXIT_KIND_EXITED: ExitKind
EXIT_KIND_OOM: ExitKind
EXIT_KIND_LIMIT: ExitKind
EXIT_KIND_KILLED: ExitKind
EXIT_KIND_FAILED: ExitKind

class ContainerRequest(_message.Message):
    __slots__ = ("task_id", "image_id", "image", "client_version", "arguments", "environment", "mounts", "env", "volumes", "buckets", "limits", "network", "gpu_devices", "function_id", "snapshots", "restore_from", "gpu_snapshot", "reseed", "base", "layers", "keep")
    class EnvEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    TASK_ID_FIELD_NUMBER: _ClassVar[int]
    IMAGE_ID_FIELD_NUMBER: _ClassVar[int]
    IMAGE_FIELD_NUMBER: _ClassVar[int]
    CLIENT_VERSION_FIELD_NUMBER: _ClassVar[int]
    ARGUMENTS_FIELD_NUMBER: _ClassVar[int]
    ENVIRONMENT_FIELD_NUMBER: _ClassVar[int]
    MOUNTS_FIELD_NUMBER: _ClassVar[int]
    ENV_FIELD_NUMBER: _ClassVar[int]
    VOLUMES_FIELD_NUMBER: _ClassVar[int]
    BUCKETS_FIELD_NUMBER: _ClassVar[int]
    LIMITS_FIELD_NUMBER: _ClassVar[int]
    NETWORK_FIELD_NUMBER: _ClassVar[int]
    GPU_DEVICES_FIELD_NUMBER: _ClassVar[int]
    FUNCTION_ID_FIELD_NUMBER: _ClassVar[int]
    SNAPSHOTS_FIELD_NUMBER: _ClassVar[int]
    RESTORE_FROM_FIELD_NUMBER: _ClassVar[int]
    GPU_SNAPSHOT_FIELD_NUMBER: _ClassVar[int]
    RESEED_FIELD_NUMBER: _ClassVar[int]
    BASE_FIELD_NUMBER: _ClassVar[int]
    LAYERS_FIELD_NUMBER: _ClassVar[int]
    KEEP_FIELD_NUMBER: _ClassVar[int]
    task_id: str
    image_id: str
    image: ImageConfig
    client_version: str
    arguments: bytes
    environment: str
    mounts: _containers.RepeatedScalarFieldContainer[str]
    env: _containers.ScalarMap[str, str]
    volumes: _containers.RepeatedCompositeFieldContainer[VolumeUse]
    buckets: _containers.RepeatedCompositeFieldContainer[BucketMount]
    limits: Limits
    network: bool
    gpu_devices: _containers.RepeatedScalarFieldContainer[int]
    function_id: str
    snapshots: bool
    restore_from: str
    gpu_snapshot: bool
    reseed: bool
    base: str
    layers: _containers.RepeatedScalarFieldContainer[str]
    keep: bool
    def __init__(self, task_id: _Optional[str] = ..., image_id: _Optional[str] = ..., image: _Optional[_Union[ImageConfig, _Mapping]] = ..., client_version: _Optional[str] = ..., arguments: _Optional[bytes] = ..., environment: _Optional[str] = ..., mounts: _Optional[_Iterable[str]] = ..., env: _Optional[_Mapping[str, str]] = ..., volumes: _Optional[_Iterable[_Union[VolumeUse, _Mapping]]] = ..., buckets: _Optional[_Iterable[_Union[BucketMount, _Mapping]]] = ..., limits: _Optional[_Union[Limits, _Mapping]] = ..., network: bool = ..., gpu_devices: _Optional[_Iterable[int]] = ..., function_id: _Optional[str] = ..., snapshots: bool = ..., restore_from: _Optional[str] = ..., gpu_snapshot: bool = ..., reseed: bool = ..., base: _Optional[str] = ..., layers: _Optional[_Iterable[str]] = ..., keep: bool = ...) -> None: ...

class Started(_message.Message):
    __slots__ = ("task_id", "address")
    TASK_ID_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    task_id: str
    address: str
    def __init__(self, task_id: _Optional[str] = ..., address: _Optional[str] = ...) -> None: ...

class VolumeUse(_message.Message):
    __slots__ = ("volume_id", "mount_path", "read_only", "sub_path")
    VOLUME_ID_FIELD_NUMBER: _ClassVar[int]
    MOUNT_PATH_FIELD_NUMBER: _ClassVar[int]
    READ_ONLY_FIELD_NUMBER: _ClassVar[int]
    SUB_PATH_FIELD_NUMBER: _ClassVar[int]
    volume_id: str
    mount_path: str
    read_only: bool
    sub_path: str
    def __init__(self, volume_id: _Optional[str] = ..., mount_path: _Optional[str] = ..., read_only: bool = ..., sub_path: _Optional[str] = ...) -> None: ...

class BucketMount(_message.Message):
    __slots__ = ("name", "mount_path", "kind", "endpoint", "prefix", "read_only", "requester_pays", "path_style", "credentials")
    NAME_FIELD_NUMBER: _ClassVar[int]
    MOUNT_PATH_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    ENDPOINT_FIELD_NUMBER: _ClassVar[int]
    PREFIX_FIELD_NUMBER: _ClassVar[int]
    READ_ONLY_FIELD_NUMBER: _ClassVar[int]
    REQUESTER_PAYS_FIELD_NUMBER: _ClassVar[int]
    PATH_STYLE_FIELD_NUMBER: _ClassVar[int]
    CREDENTIALS_FIELD_NUMBER: _ClassVar[int]
    name: str
    mount_path: str
    kind: str
    endpoint: str
    prefix: str
    read_only: bool
    requester_pays: bool
    path_style: bool
    credentials: Credentials
    def __init__(self, name: _Optional[str] = ..., mount_path: _Optional[str] = ..., kind: _Optional[str] = ..., endpoint: _Optional[str] = ..., prefix: _Optional[str] = ..., read_only: bool = ..., requester_pays: bool = ..., path_style: bool = ..., credentials: _Optional[_Union[Credentials, _Mapping]] = ...) -> None: ...

class Credentials(_message.Message):
    __slots__ = ("key_id", "secret", "session_token", "region")
    KEY_ID_FIELD_NUMBER: _ClassVar[int]
    SECRET_FIELD_NUMBER: _ClassVar[int]
    SESSION_TOKEN_FIELD_NUMBER: _ClassVar[int]
    REGION_FIELD_NUMBER: _ClassVar[int]
    key_id: str
    secret: str
    session_token: str
    region: str
    def __init__(self, key_id: _Optional[str] = ..., secret: _Optional[str] = ..., session_token: _Optional[str] = ..., region: _Optional[str] = ...) -> None: ...

class Limits(_message.Message):
    __slots__ = ("cpu_milli", "memory_bytes", "memory_request", "disk_bytes", "tasks")
    CPU_MILLI_FIELD_NUMBER: _ClassVar[int]
    MEMORY_BYTES_FIELD_NUMBER: _ClassVar[int]
    MEMORY_REQUEST_FIELD_NUMBER: _ClassVar[int]
    DISK_BYTES_FIELD_NUMBER: _ClassVar[int]
    TASKS_FIELD_NUMBER: _ClassVar[int]
    cpu_milli: int
    memory_bytes: int
    memory_request: int
    disk_bytes: int
    tasks: int
    def __init__(self, cpu_milli: _Optional[int] = ..., memory_bytes: _Optional[int] = ..., memory_request: _Optional[int] = ..., disk_bytes: _Optional[int] = ..., tasks: _Optional[int] = ...) -> None: ...

class Exit(_message.Message):
    __slots__ = ("kind", "code", "detail")
    KIND_FIELD_NUMBER: _ClassVar[int]
    CODE_FIELD_NUMBER: _ClassVar[int]
    DETAIL_FIELD_NUMBER: _ClassVar[int]
    kind: ExitKind
    code: int
    detail: str
    def __init__(self, kind: _Optional[_Union[ExitKind, str]] = ..., code: _Optional[int] = ..., detail: _Optional[str] = ...) -> None: ...

class Usage(_message.Message):
    __slots__ = ("cpu_seconds", "memory_bytes")
    CPU_SECONDS_FIELD_NUMBER: _ClassVar[int]
    MEMORY_BYTES_FIELD_NUMBER: _ClassVar[int]
    cpu_seconds: float
    memory_bytes: int
    def __init__(self, cpu_seconds: _Optional[float] = ..., memory_bytes: _Optional[int] = ...) -> None: ...

class ImageConfig(_message.Message):
    __slots__ = ("env", "entrypoint", "cmd", "workdir", "user", "shell", "python_version", "libc", "libc_version", "python_packages", "builder_version")
    class EnvEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    class PythonPackagesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    ENV_FIELD_NUMBER: _ClassVar[int]
    ENTRYPOINT_FIELD_NUMBER: _ClassVar[int]
    CMD_FIELD_NUMBER: _ClassVar[int]
    WORKDIR_FIELD_NUMBER: _ClassVar[int]
    USER_FIELD_NUMBER: _ClassVar[int]
    SHELL_FIELD_NUMBER: _ClassVar[int]
    PYTHON_VERSION_FIELD_NUMBER: _ClassVar[int]
    LIBC_FIELD_NUMBER: _ClassVar[int]
    LIBC_VERSION_FIELD_NUMBER: _ClassVar[int]
    PYTHON_PACKAGES_FIELD_NUMBER: _ClassVar[int]
    BUILDER_VERSION_FIELD_NUMBER: _ClassVar[int]
    env: _containers.ScalarMap[str, str]
    entrypoint: _containers.RepeatedScalarFieldContainer[str]
    cmd: _containers.RepeatedScalarFieldContainer[str]
    workdir: str
    user: str
    shell: _containers.RepeatedScalarFieldContainer[str]
    python_version: str
    libc: str
    libc_version: str
    python_packages: _containers.ScalarMap[str, str]
    builder_version: str
    def __init__(self, env: _Optional[_Mapping[str, str]] = ..., entrypoint: _Optional[_Iterable[str]] = ..., cmd: _Optional[_Iterable[str]] = ..., workdir: _Optional[str] = ..., user: _Optional[str] = ..., shell: _Optional[_Iterable[str]] = ..., python_version: _Optional[str] = ..., libc: _Optional[str] = ..., libc_version: _Optional[str] = ..., python_packages: _Optional[_Mapping[str, str]] = ..., builder_version: _Optional[str] = ...) -> None: ...

class ImageSpec(_message.Message):
    __slots__ = ("commands", "bases", "context_files", "context_mount_id", "builder_version", "build_args", "secret_ids", "nonce", "function")
    class BasesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    class ContextFilesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: bytes
        def __init__(self, key: _Optional[str] = ..., value: _Optional[bytes] = ...) -> None: ...
    class BuildArgsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    COMMANDS_FIELD_NUMBER: _ClassVar[int]
    BASES_FIELD_NUMBER: _ClassVar[int]
    CONTEXT_FILES_FIELD_NUMBER: _ClassVar[int]
    CONTEXT_MOUNT_ID_FIELD_NUMBER: _ClassVar[int]
    BUILDER_VERSION_FIELD_NUMBER: _ClassVar[int]
    BUILD_ARGS_FIELD_NUMBER: _ClassVar[int]
    SECRET_IDS_FIELD_NUMBER: _ClassVar[int]
    NONCE_FIELD_NUMBER: _ClassVar[int]
    FUNCTION_FIELD_NUMBER: _ClassVar[int]
    commands: _containers.RepeatedScalarFieldContainer[str]
    bases: _containers.ScalarMap[str, str]
    context_files: _containers.ScalarMap[str, bytes]
    context_mount_id: str
    builder_version: str
    build_args: _containers.ScalarMap[str, str]
    secret_ids: _containers.RepeatedScalarFieldContainer[str]
    nonce: str
    function: FunctionStep
    def __init__(self, commands: _Optional[_Iterable[str]] = ..., bases: _Optional[_Mapping[str, str]] = ..., context_files: _Optional[_Mapping[str, bytes]] = ..., context_mount_id: _Optional[str] = ..., builder_version: _Optional[str] = ..., build_args: _Optional[_Mapping[str, str]] = ..., secret_ids: _Optional[_Iterable[str]] = ..., nonce: _Optional[str] = ..., function: _Optional[_Union[FunctionStep, _Mapping]] = ...) -> None: ...

class FunctionStep(_message.Message):
    __slots__ = ("definition", "globals", "arguments")
    DEFINITION_FIELD_NUMBER: _ClassVar[int]
    GLOBALS_FIELD_NUMBER: _ClassVar[int]
    ARGUMENTS_FIELD_NUMBER: _ClassVar[int]
    definition: str
    globals: bytes
    arguments: bytes
    def __init__(self, definition: _Optional[str] = ..., globals: _Optional[bytes] = ..., arguments: _Optional[bytes] = ...) -> None: ...

class ContextRef(_message.Message):
    __slots__ = ("mount_id", "python", "secret_env", "registry_auth", "confined")
    class SecretEnvEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    MOUNT_ID_FIELD_NUMBER: _ClassVar[int]
    PYTHON_FIELD_NUMBER: _ClassVar[int]
    SECRET_ENV_FIELD_NUMBER: _ClassVar[int]
    REGISTRY_AUTH_FIELD_NUMBER: _ClassVar[int]
    CONFINED_FIELD_NUMBER: _ClassVar[int]
    mount_id: str
    python: str
    secret_env: _containers.ScalarMap[str, str]
    registry_auth: RegistryAuth
    confined: bool
    def __init__(self, mount_id: _Optional[str] = ..., python: _Optional[str] = ..., secret_env: _Optional[_Mapping[str, str]] = ..., registry_auth: _Optional[_Union[RegistryAuth, _Mapping]] = ..., confined: bool = ...) -> None: ...

class RegistryAuth(_message.Message):
    __slots__ = ("kind", "secret")
    class SecretEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    KIND_FIELD_NUMBER: _ClassVar[int]
    SECRET_FIELD_NUMBER: _ClassVar[int]
    kind: str
    secret: _containers.ScalarMap[str, str]
    def __init__(self, kind: _Optional[str] = ..., secret: _Optional[_Mapping[str, str]] = ...) -> None: ...

class Leftover(_message.Message):
    __slots__ = ("kind", "name", "size")
    KIND_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    kind: str
    name: str
    size: int
    def __init__(self, kind: _Optional[str] = ..., name: _Optional[str] = ..., size: _Optional[int] = ...) -> None: ...

class Event(_message.Message):
    __slots__ = ("called", "output", "ended", "layer_compared", "build_output")
    CALLED_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_FIELD_NUMBER: _ClassVar[int]
    ENDED_FIELD_NUMBER: _ClassVar[int]
    LAYER_COMPARED_FIELD_NUMBER: _ClassVar[int]
    BUILD_OUTPUT_FIELD_NUMBER: _ClassVar[int]
    called: Called
    output: Output
    ended: Ended
    layer_compared: LayerCompared
    build_output: BuildOutput
    def __init__(self, called: _Optional[_Union[Called, _Mapping]] = ..., output: _Optional[_Union[Output, _Mapping]] = ..., ended: _Optional[_Union[Ended, _Mapping]] = ..., layer_compared: _Optional[_Union[LayerCompared, _Mapping]] = ..., build_output: _Optional[_Union[BuildOutput, _Mapping]] = ...) -> None: ...

class Called(_message.Message):
    __slots__ = ("task_id",)
    TASK_ID_FIELD_NUMBER: _ClassVar[int]
    task_id: str
    def __init__(self, task_id: _Optional[str] = ...) -> None: ...

class Output(_message.Message):
    __slots__ = ("task_id", "fd", "text")
    TASK_ID_FIELD_NUMBER: _ClassVar[int]
    FD_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    task_id: str
    fd: int
    text: str
    def __init__(self, task_id: _Optional[str] = ..., fd: _Optional[int] = ..., text: _Optional[str] = ...) -> None: ...

class Ended(_message.Message):
    __slots__ = ("task_id", "exit")
    TASK_ID_FIELD_NUMBER: _ClassVar[int]
    EXIT_FIELD_NUMBER: _ClassVar[int]
    task_id: str
    exit: Exit
    def __init__(self, task_id: _Optional[str] = ..., exit: _Optional[_Union[Exit, _Mapping]] = ...) -> None: ...

class LayerCompared(_message.Message):
    __slots__ = ("name", "wrong")
    NAME_FIELD_NUMBER: _ClassVar[int]
    WRONG_FIELD_NUMBER: _ClassVar[int]
    name: str
    wrong: str
    def __init__(self, name: _Optional[str] = ..., wrong: _Optional[str] = ...) -> None: ...

class BuildOutput(_message.Message):
    __slots__ = ("image_id", "text")
    IMAGE_ID_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    image_id: str
    text: str
    def __init__(self, image_id: _Optional[str] = ..., text: _Optional[str] = ...) -> None: ...

class Fault(_message.Message):
    __slots__ = ("kinds", "sentence", "retry_after")
    KINDS_FIELD_NUMBER: _ClassVar[int]
    SENTENCE_FIELD_NUMBER: _ClassVar[int]
    RETRY_AFTER_FIELD_NUMBER: _ClassVar[int]
    kinds: _containers.RepeatedScalarFieldContainer[str]
    sentence: str
    retry_after: float
    def __init__(self, kinds: _Optional[_Iterable[str]] = ..., sentence: _Optional[str] = ..., retry_after: _Optional[float] = ...) -> None: ...

class Nothing(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Answer(_message.Message):
    __slots__ = ("yes",)
    YES_FIELD_NUMBER: _ClassVar[int]
    yes: bool
    def __init__(self, yes: bool = ...) -> None: ...

class Count(_message.Message):
    __slots__ = ("count",)
    COUNT_FIELD_NUMBER: _ClassVar[int]
    count: int
    def __init__(self, count: _Optional[int] = ...) -> None: ...

class Text(_message.Message):
    __slots__ = ("text",)
    TEXT_FIELD_NUMBER: _ClassVar[int]
    text: str
    def __init__(self, text: _Optional[str] = ...) -> None: ...

class Names(_message.Message):
    __slots__ = ("names",)
    NAMES_FIELD_NUMBER: _ClassVar[int]
    names: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, names: _Optional[_Iterable[str]] = ...) -> None: ...

class Paths(_message.Message):
    __slots__ = ("paths",)
    PATHS_FIELD_NUMBER: _ClassVar[int]
    paths: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, paths: _Optional[_Iterable[bytes]] = ...) -> None: ...

class Gpu(_message.Message):
    __slots__ = ("model",)
    MODEL_FIELD_NUMBER: _ClassVar[int]
    model: str
    def __init__(self, model: _Optional[str] = ...) -> None: ...

class Task(_message.Message):
    __slots__ = ("task_id",)
    TASK_ID_FIELD_NUMBER: _ClassVar[int]
    task_id: str
    def __init__(self, task_id: _Optional[str] = ...) -> None: ...

class Function(_message.Message):
    __slots__ = ("function_id",)
    FUNCTION_ID_FIELD_NUMBER: _ClassVar[int]
    function_id: str
    def __init__(self, function_id: _Optional[str] = ...) -> None: ...

class Image(_message.Message):
    __slots__ = ("image_id",)
    IMAGE_ID_FIELD_NUMBER: _ClassVar[int]
    image_id: str
    def __init__(self, image_id: _Optional[str] = ...) -> None: ...

class Layer(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class Snapshot(_message.Message):
    __slots__ = ("snapshot_id",)
    SNAPSHOT_ID_FIELD_NUMBER: _ClassVar[int]
    snapshot_id: str
    def __init__(self, snapshot_id: _Optional[str] = ...) -> None: ...

class SignalRequest(_message.Message):
    __slots__ = ("task_id", "number")
    TASK_ID_FIELD_NUMBER: _ClassVar[int]
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    task_id: str
    number: int
    def __init__(self, task_id: _Optional[str] = ..., number: _Optional[int] = ...) -> None: ...

class StuckRequest(_message.Message):
    __slots__ = ("task_id", "timeout")
    TASK_ID_FIELD_NUMBER: _ClassVar[int]
    TIMEOUT_FIELD_NUMBER: _ClassVar[int]
    task_id: str
    timeout: float
    def __init__(self, task_id: _Optional[str] = ..., timeout: _Optional[float] = ...) -> None: ...

class UsageAnswer(_message.Message):
    __slots__ = ("usage",)
    USAGE_FIELD_NUMBER: _ClassVar[int]
    usage: Usage
    def __init__(self, usage: _Optional[_Union[Usage, _Mapping]] = ...) -> None: ...

class OpenFilesRequest(_message.Message):
    __slots__ = ("task_id", "volume_id")
    TASK_ID_FIELD_NUMBER: _ClassVar[int]
    VOLUME_ID_FIELD_NUMBER: _ClassVar[int]
    task_id: str
    volume_id: str
    def __init__(self, task_id: _Optional[str] = ..., volume_id: _Optional[str] = ...) -> None: ...

class SaveRequest(_message.Message):
    __slots__ = ("task_id", "snapshot_id")
    TASK_ID_FIELD_NUMBER: _ClassVar[int]
    SNAPSHOT_ID_FIELD_NUMBER: _ClassVar[int]
    task_id: str
    snapshot_id: str
    def __init__(self, task_id: _Optional[str] = ..., snapshot_id: _Optional[str] = ...) -> None: ...

class MakeBaseRequest(_message.Message):
    __slots__ = ("request", "snapshot_id")
    REQUEST_FIELD_NUMBER: _ClassVar[int]
    SNAPSHOT_ID_FIELD_NUMBER: _ClassVar[int]
    request: ContainerRequest
    snapshot_id: str
    def __init__(self, request: _Optional[_Union[ContainerRequest, _Mapping]] = ..., snapshot_id: _Optional[str] = ...) -> None: ...

class ChangedSinceRequest(_message.Message):
    __slots__ = ("snapshot_id", "volumes")
    SNAPSHOT_ID_FIELD_NUMBER: _ClassVar[int]
    VOLUMES_FIELD_NUMBER: _ClassVar[int]
    snapshot_id: str
    volumes: _containers.RepeatedCompositeFieldContainer[VolumeUse]
    def __init__(self, snapshot_id: _Optional[str] = ..., volumes: _Optional[_Iterable[_Union[VolumeUse, _Mapping]]] = ...) -> None: ...

class BuildRequest(_message.Message):
    __slots__ = ("image_id", "spec", "context")
    IMAGE_ID_FIELD_NUMBER: _ClassVar[int]
    SPEC_FIELD_NUMBER: _ClassVar[int]
    CONTEXT_FIELD_NUMBER: _ClassVar[int]
    image_id: str
    spec: ImageSpec
    context: ContextRef
    def __init__(self, image_id: _Optional[str] = ..., spec: _Optional[_Union[ImageSpec, _Mapping]] = ..., context: _Optional[_Union[ContextRef, _Mapping]] = ...) -> None: ...

class AdoptRequest(_message.Message):
    __slots__ = ("image_id", "spec", "task_id", "function_id")
    IMAGE_ID_FIELD_NUMBER: _ClassVar[int]
    SPEC_FIELD_NUMBER: _ClassVar[int]
    TASK_ID_FIELD_NUMBER: _ClassVar[int]
    FUNCTION_ID_FIELD_NUMBER: _ClassVar[int]
    image_id: str
    spec: ImageSpec
    task_id: str
    function_id: str
    def __init__(self, image_id: _Optional[str] = ..., spec: _Optional[_Union[ImageSpec, _Mapping]] = ..., task_id: _Optional[str] = ..., function_id: _Optional[str] = ...) -> None: ...

class LeftoversRequest(_message.Message):
    __slots__ = ("keep", "before")
    KEEP_FIELD_NUMBER: _ClassVar[int]
    BEFORE_FIELD_NUMBER: _ClassVar[int]
    keep: _containers.RepeatedScalarFieldContainer[str]
    before: float
    def __init__(self, keep: _Optional[_Iterable[str]] = ..., before: _Optional[float] = ...) -> None: ...

class LeftoversAnswer(_message.Message):
    __slots__ = ("found",)
    FOUND_FIELD_NUMBER: _ClassVar[int]
    found: _containers.RepeatedCompositeFieldContainer[Leftover]
    def __init__(self, found: _Optional[_Iterable[_Union[Leftover, _Mapping]]] = ...) -> None: ...

class ListeningRequest(_message.Message):
    __slots__ = ("task_id", "port")
    TASK_ID_FIELD_NUMBER: _ClassVar[int]
    PORT_FIELD_NUMBER: _ClassVar[int]
    task_id: str
    port: int
    def __init__(self, task_id: _Optional[str] = ..., port: _Optional[int] = ...) -> None: ...
