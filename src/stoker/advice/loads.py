"""Where code loads a model or downloads weights."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass

from stoker.advice.app import App, Method, Unit
from stoker.advice.image import method as called
from stoker.advice.scope import UNKNOWN, Scope

_HUB_METHODS = {"from_pretrained", "from_single_file", "from_hparams"}
_HUB_FUNCTIONS = {
    "huggingface_hub.snapshot_download", "huggingface_hub.hf_hub_download", "transformers.pipeline",
    "sentence_transformers.SentenceTransformer", "sentence_transformers.CrossEncoder", "faster_whisper.WhisperModel",
    "whisper.load_model", "torch.hub.load", "timm.create_model", "open_clip.create_model_and_transforms",
    "vllm.LLM", "outlines.models.transformers", "TTS.api.TTS", "spacy.load",
}  # fmt: skip
_FROM_FILES = {
    "torch.load", "torch.jit.load", "safetensors.torch.load_file", "onnxruntime.InferenceSession",
    "keras.models.load_model", "tensorflow.keras.models.load_model",
}  # fmt: skip
_ONLY_FILES = {"huggingface_hub.snapshot_download", "huggingface_hub.hf_hub_download"}
_SMALL = re.compile(r"Tokenizer|Processor|Config|Scheduler|FeatureExtractor")
_LOCAL_NAME = re.compile(r"dir|path|folder|file|local|cache|root", re.IGNORECASE)
_OWN_LOADER = re.compile(r"^(load|get|build|create|init)_(the_)?(model|models|pipe|pipeline|llm|engine|weights)$")
_WEIGHTS = re.compile(r"\.(safetensors|ckpt|gguf|pth|pt|onnx|bin|tar|zip|h5)\b")
_TOOLS = re.compile(
    r"(?<![\w-])(wget|aria2c|gdown|huggingface-cli download|hf download|comfy(\s+--\S+)*\s+model download|aws s3 cp|gsutil cp|curl)\b"
)
_FETCHERS = re.compile(
    r"^(urllib\.request\.urlretrieve|wget\.download|gdown\.download|torch\.hub\.(load_state_dict_from_url|download_url_to_file)|requests\.get|httpx\.get)$"
)


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


def loads(scope: Scope, method: Method) -> Iterator[Load]:
    """The calls in a method that load models by the usual libraries, in the order they are written."""
    for call in sorted(method.calls(), key=lambda call: (call.lineno, call.col_offset)):
        load = as_load(scope, call)
        if load is not None:
            yield load


def as_load(scope: Scope, call: ast.Call) -> Load | None:
    """The call as a load of a model or of its parts, else None."""
    name = scope.dotted(call.func)
    if called(call) in _HUB_METHODS:
        owner = name.rpartition(".")[0] or name
        small = bool(_SMALL.search(owner))
        return Load(call, name or called(call), not small, small, _downloads(scope, call))
    if name in _HUB_FUNCTIONS:
        return Load(call, name, name not in _ONLY_FILES, False, _downloads(scope, call))
    if (
        name in _FROM_FILES and call.args and isinstance(scope.value(call.args[0]), str)
    ):  # else it may be the call's own data
        return Load(call, name, True, False, False)
    return None


def loads_model(unit: Unit) -> bool:
    """Whether an `@modal.enter` makes a model ready: by a known loader, one named like that, or a move to the GPU."""
    return any(loads_in(unit.scope, method) for method in unit.enters)


def loads_in(scope: Scope, method: Method) -> ast.Call | None:
    """The first call in it that makes a model ready."""
    for call in sorted(method.calls(), key=lambda call: (call.lineno, call.col_offset)):
        load = as_load(scope, call)
        if (load is not None and load.model) or _OWN_LOADER.match(called(call)) or moves_to_gpu(scope, call):
            return call
    return None


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
    if _FETCHERS.match(name):
        plain = name in {"requests.get", "httpx.get"}
        return name if not plain or any(_WEIGHTS.search(text) for text in texts(scope, call)) else ""
    if name.startswith(("subprocess.", "os.system", "os.popen")):
        for text in texts(scope, call):
            tool = _TOOLS.search(text)
            if tool and (tool[1] not in {"curl", "wget"} or "http" in text):
                return re.sub(r"\s+", " ", tool[1])
    return ""


def bakes_weights(app: App, unit: Unit) -> bool:
    """Whether a step of the image downloads weights, so that containers find them there."""
    for step in unit.image.steps if unit.image else ():
        if called(step) == "run_function" and step.args:
            target = step.args[0]
            helper = app.helpers.get(target.id) if isinstance(target, ast.Name) else None
            if helper is None:
                return True
            method = Method(helper, {})
            if any(True for _ in loads(app.scope, method)) or any(fetches(app.scope, call) for call in method.calls()):
                return True
        if called(step) in {"run_commands", "dockerfile_commands"} and any(
            _TOOLS.search(t) or "from_pretrained" in t for t in texts(app.scope, step)
        ):
            return True
    return False


def _downloads(scope: Scope, call: ast.Call) -> bool:
    offline = next((keyword.value for keyword in call.keywords if keyword.arg == "local_files_only"), None)
    if offline is not None and scope.value(offline) is not False:
        return False
    if scope.dotted(call.func) == "timm.create_model":
        return any(keyword.arg == "pretrained" for keyword in call.keywords)
    named = {"model", "repo_id", "model_name", "model_id", "pretrained_model_name_or_path", "model_name_or_path"}
    first = call.args[0] if call.args else next((k.value for k in call.keywords if k.arg in named), None)
    if first is None:
        return False
    value = scope.value(first)
    if isinstance(value, str):
        return not value.startswith(("/", "./", "../", "~"))
    if value is not UNKNOWN or not isinstance(first, (ast.Name, ast.Attribute)):
        return False
    return not _LOCAL_NAME.search(ast.unparse(first))


def texts(scope: Scope, call: ast.Call) -> Iterator[str]:
    """The strings among a call's arguments; the words of a list joined; what cannot be told in an f-string left out."""
    for argument in [*call.args, *(keyword.value for keyword in call.keywords)]:
        if isinstance(argument, (ast.List, ast.Tuple)):
            yield " ".join(_text(scope, item) for item in argument.elts)
        else:
            yield _text(scope, argument)


def _text(scope: Scope, node: ast.expr) -> str:
    value = scope.value(node)
    if isinstance(value, str):
        return value
    if isinstance(node, ast.JoinedStr):
        return "".join(_text(scope, part) for part in node.values)
    return ""
