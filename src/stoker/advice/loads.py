"""Where code loads a model or downloads weights."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from stoker.advice.app import App
from stoker.advice.image import method as called
from stoker.advice.loaders import FROM_FILES, HUB_METHODS, LOADERS, Cache, Loader, hub_cache
from stoker.advice.scope import UNKNOWN, Scope
from stoker.advice.unit import Method, Unit

_SMALL = re.compile(r"Tokenizer|Processor|Config|Scheduler|FeatureExtractor")
_LOCAL_NAME = re.compile(r"dir|path|folder|file|local|cache|root", re.IGNORECASE)
_OBJECT_NAME = re.compile(r"^(self\.)?_?([a-z_]*_)?(model|llm|net|network|classifier|backbone|policy|pipe)$")
_OWN_LOADER = re.compile(r"^(load|get|build|create|init)_(the_)?(model|models|pipe|pipeline|llm|engine|weights)$")
_WEIGHTS = re.compile(r"\.(safetensors|ckpt|gguf|pth|pt|onnx|bin|tar|zip|h5)\b")
_TOOLS = re.compile(
    r"(?<![\w-])(wget|aria2c|gdown|huggingface-cli download|hf download|comfy(\s+--\S+)*\s+model download|aws s3 cp|gsutil cp|curl"
    r"|ollama (?:pull|run)|modelscope download|git lfs pull|git clone https?://huggingface\.co)\b"
)
_FETCHERS = re.compile(
    r"^(urllib\.request\.urlretrieve|wget\.download|gdown\.download|torch\.hub\.(load_state_dict_from_url|download_url_to_file)|requests\.get"
    r"|httpx\.get|ollama\.pull)$"
)
_INSTALLS = re.compile(r"\|\s*(sudo\s+)?(ba|z)?sh\b|\.(sh|deb|rpm|asc|gpg|key|list|py|json|ya?ml|toml|txt)\b|install\b")
_MAY_FETCH = re.compile(r"from_pretrained|load_model|download(?!\.pytorch\.org|\.docker\.com)")
_SERVERS = re.compile(
    r"\bvllm serve\b|\bvllm\.entrypoints\.openai\.api_server\b|\bsglang\.launch_server\b|\btext-generation-launcher\b"
    r"|\btext-embeddings-router\b"
)
_SERVED = re.compile(r"(?:\bvllm serve|--model|--model-path|--model-id)[ =]+([\w./~-]*/[\w.-]+)")
_OWN_DIRECTORY = re.compile(r"--download-dir|--huggingface-hub-cache|HF_HOME=|HF_HUB_CACHE=")
_IDS = {
    "model", "repo_id", "model_name", "model_id", "pretrained_model_name_or_path", "model_name_or_path", "model_size_or_path", "name", "source",
    "repo_or_dir", "pretrained_model_link_or_path",
}  # fmt: skip
_ENVIRONMENT = {"os.getenv", "os.environ.get", "str"}
_NOT_IDS = {"device", "torch_dtype", "dtype", "device_map", "map_location", "token"}


@dataclass(frozen=True)
class Load:
    """A call that loads a model, or fetches its files. `small` marks tokenizers and the like.

    `downloads` says that it fetches from a hub when no cache has the files, as far as can be told.
    """

    call: ast.Call
    name: str
    model: bool
    small: bool
    downloads: bool
    cache: Cache


def loads(scope: Scope, calls: Iterable[ast.Call]) -> Iterator[Load]:
    """Those that load models by the usual libraries, in the order they are written."""
    for call in in_order(calls):
        load = as_load(scope, call)
        if load is not None:
            yield load


def as_load(scope: Scope, call: ast.Call) -> Load | None:
    """The call as a load of a model or of its parts, else None."""
    name = scope.dotted(call.func)
    loader = LOADERS.get(name)
    if loader is not None:
        if name.endswith(".pipeline") and _is_object(scope, _model_of_pipeline(call)):
            return None  # puts together what was loaded before
        return Load(call, name, loader.model, False, _downloads(scope, call, name, loader), loader.cache)
    if called(call) in HUB_METHODS and isinstance(call.func, ast.Attribute):
        owner = name.rpartition(".")[0] or ast.unparse(call.func.value)
        small = bool(_SMALL.search(owner))
        cache = hub_cache(name)
        return Load(call, name or called(call), not small, small, _downloads(scope, call, owner, Loader(cache)), cache)
    if (
        name in FROM_FILES and call.args and isinstance(scope.value(call.args[0]), str)
    ):  # else it may be the call's own data
        return Load(call, name, True, False, False, hub_cache(name))
    return None


def loads_model(app: App, unit: Unit, method: Method) -> bool:
    """Whether a method makes a model ready: by a known loader, one named like that, or a move to the GPU."""
    for call in app.calls(unit, method):
        load = as_load(app.scope, call)
        if (load is not None and load.model) or _OWN_LOADER.match(called(call)) or moves_to_gpu(app.scope, call):
            return True
    return False


def moves_to_gpu(scope: Scope, call: ast.Call) -> bool:
    """`x.to("cuda")`, `x.cuda()`, or an argument that names the device."""
    if called(call) == "cuda" and isinstance(call.func, ast.Attribute) and not call.args:
        return True
    named = [keyword.value for keyword in call.keywords if keyword.arg in {"device", "device_map"}]
    candidates = [*named, *(call.args if called(call) == "to" else [])]
    return any(isinstance(value := scope.value(node), str) and value.startswith("cuda") for node in candidates)


def fetches(scope: Scope, call: ast.Call) -> str:
    """What a call downloads outside of the model hubs' own loaders: the tool or function, or ""."""
    name = scope.dotted(call.func)
    if called(call) == "pull" and isinstance(call.func, ast.Attribute) and _is_ollama_client(scope, call.func.value):
        return "ollama.Client.pull"
    if _FETCHERS.match(name):
        plain = name in {"requests.get", "httpx.get"}
        return name if not plain or any(_WEIGHTS.search(text) for text in texts(scope, call)) else ""
    if name.startswith(("subprocess.", "asyncio.create_subprocess", "os.system", "os.popen")):
        for text in texts(scope, call):
            tool = _TOOLS.search(text)
            if tool and (tool[1] not in {"curl", "wget"} or _is_download(text)):
                return re.sub(r"\s+", " ", tool[1])
    return ""


def _is_ollama_client(scope: Scope, node: ast.expr) -> bool:
    made = scope.assigned(node) if isinstance(node, ast.Name) else node
    return isinstance(made, ast.Call) and scope.dotted(made.func) in {"ollama.Client", "ollama.AsyncClient"}


def server(scope: Scope, call: ast.Call) -> str:
    """The inference server that a call starts with a model from the Hugging Face hub, or ""."""
    if not scope.dotted(call.func).startswith(("subprocess.", "asyncio.create_subprocess", "os.system", "os.popen")):
        return ""
    for text in texts(scope, call):
        found = _SERVERS.search(text)
        if found is not None and not _OWN_DIRECTORY.search(text):
            model = _SERVED.search(text)
            if model is not None and not model[1].startswith(("/", "./", "../", "~")):
                return re.sub(r"\s+", " ", found[0])
    return ""


def _is_download(text: str) -> bool:
    """Whether `curl` or `wget` fetches a file, as against asking a server on this machine whether it is up."""
    return "http" in text and not re.search(r"https?://(localhost|127\.0\.0\.1|0\.0\.0\.0)", text)


def may_hold_weights(app: App, unit: Unit) -> bool:
    """Whether a step of the image downloads weights, so that containers find them there, or may do so out of sight."""
    if not unit.image_is_known:
        return True
    for step in unit.image.steps if unit.image else ():
        if called(step) == "run_function" and step.args:
            helper = app.scope.defined(step.args[0])
            if not isinstance(helper, (ast.FunctionDef, ast.AsyncFunctionDef)):
                return True
            calls = list(app.calls(unit, Method(helper, {})))
            if any(True for _ in loads(app.scope, calls)) or any(fetches(app.scope, call) for call in calls):
                return True
        if called(step) in {"run_commands", "dockerfile_commands"} and any(
            _holds_weights(text) for text in texts(app.scope, step)
        ):
            return True
    # What `@modal.build` methods did; the client has no such step any more, and says so.
    return any("build" in method.decorators for method in unit.methods)


def _holds_weights(command: str) -> bool:
    """Whether a command of an image fetches weights, or may: what installs a program does not."""
    tool = _TOOLS.search(command)
    if tool is not None and not (tool[1] in {"curl", "wget"} and _INSTALLS.search(command)):
        return True
    return bool(_MAY_FETCH.search(command))


def texts(scope: Scope, call: ast.Call) -> Iterator[str]:
    """The strings among a call's arguments; the words of a list joined; what cannot be told in an f-string left out."""
    for argument in [*call.args, *(keyword.value for keyword in call.keywords)]:
        value = argument.value if isinstance(argument, ast.Starred) else argument
        if isinstance(value, ast.Name):
            value = scope.assigned(value) or value
        if isinstance(value, (ast.List, ast.Tuple)):
            yield " ".join(_text(scope, item) for item in value.elts)
        else:
            yield _text(scope, value)


def in_order(calls: Iterable[ast.Call]) -> list[ast.Call]:
    return sorted(calls, key=lambda call: (call.lineno, call.col_offset))


def _downloads(scope: Scope, call: ast.Call, name: str, loader: Loader) -> bool:
    named = {keyword.arg: keyword.value for keyword in call.keywords if keyword.arg}
    offline = named.get("local_files_only")
    if not loader.downloads or (offline is not None and scope.value(offline) is not False):
        return False
    if loader.always:
        return True
    if name == "timm.create_model" and "pretrained" not in named:
        return False
    if name == "torch.hub.load" and scope.value(named.get("source")) == "local":
        return False
    if name.endswith(".pipeline"):
        first = _model_of_pipeline(call)
        return first is None or _is_remote(scope, first)
    position = 1 if name.rpartition(".")[2].startswith("Peft") else 0  # behind the model that gets an adapter
    first = call.args[position] if len(call.args) > position else next((named[n] for n in named if n in _IDS), None)
    if first is None:
        return not call.args and called(call) == "from_pretrained" and named.keys() <= _NOT_IDS
    return _is_remote(scope, first)


def _model_of_pipeline(call: ast.Call) -> ast.expr | None:
    """The model that `transformers.pipeline(task, model)` is given."""
    named = next((keyword.value for keyword in call.keywords if keyword.arg == "model"), None)
    return named if named is not None else call.args[1] if len(call.args) > 1 else None


def _is_object(scope: Scope, node: ast.expr | None) -> bool:
    """Whether an argument is a loaded model, as against the name of one."""
    if node is None or isinstance(scope.value(node), str):
        return False
    if isinstance(node, ast.Name) and (assigned := scope.assigned(node)) is not None:
        return isinstance(assigned, ast.Call) and scope.dotted(assigned.func) not in _ENVIRONMENT
    return isinstance(node, ast.Call) or bool(_OBJECT_NAME.match(ast.unparse(node)))


def _is_remote(scope: Scope, node: ast.expr) -> bool:
    """Whether a model is named as on a hub, as far as can be told, and not by a path."""
    value = scope.value(node)
    if isinstance(value, str):
        return not value.startswith(("/", "./", "../", "~"))
    if value is not UNKNOWN or not isinstance(node, (ast.Name, ast.Attribute)):
        return False
    assigned = scope.assigned(node) if isinstance(node, ast.Name) else None
    if isinstance(assigned, ast.Call) and scope.dotted(assigned.func) not in _ENVIRONMENT:
        return False  # such as the directory that snapshot_download returns
    return not _LOCAL_NAME.search(ast.unparse(node))


def _text(scope: Scope, node: ast.expr) -> str:
    value = scope.value(node)
    if isinstance(value, str):
        return value
    if isinstance(node, ast.JoinedStr):
        return "".join(_text(scope, part) for part in node.values)
    return ""
