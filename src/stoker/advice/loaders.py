"""The libraries that load models, and where each keeps what it downloads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Cache:
    """`home` is the directory in a container where nothing else was said. `variables`: environment variables that move it, and what follows
    their value in its path; the first is the one to set. `arguments`: those of the loading call that name a directory, likewise."""

    home: str
    variables: Mapping[str, str]
    arguments: tuple[str, ...] = ()

    @property
    def variable(self) -> str:
        """The variable that moves this cache and no other; "" without one."""
        return next((name for name in self.variables if not name.startswith("XDG_")), "")


@dataclass(frozen=True)
class Loader:
    """model: what it returns is a model, not just files. downloads: it fetches what is not there. always: whatever its arguments are."""

    cache: Cache
    model: bool = True
    downloads: bool = True
    always: bool = False


_HUB = {"HF_HUB_CACHE": "", "HF_HOME": "/hub", "HUGGINGFACE_HUB_CACHE": "", "XDG_CACHE_HOME": "/huggingface/hub"}
HUB = Cache("/root/.cache/huggingface/hub", _HUB, ("cache_dir", "local_dir", "download_dir", "save_dir", "savedir"))
_TRANSFORMERS = Cache(HUB.home, {**_HUB, "TRANSFORMERS_CACHE": ""}, HUB.arguments)
_SENTENCES = Cache(HUB.home, {**_HUB, "SENTENCE_TRANSFORMERS_HOME": ""}, ("cache_folder",))
_FASTER_WHISPER = Cache(HUB.home, _HUB, ("download_root",))
_TORCH = Cache("/root/.cache/torch/hub", {"TORCH_HOME": "/hub", "XDG_CACHE_HOME": "/torch/hub"}, ("model_dir",))
_WHISPER = Cache("/root/.cache/whisper", {"XDG_CACHE_HOME": "/whisper"}, ("download_root",))
_CLIP = Cache("/root/.cache/clip", {}, ("download_root",))
_TTS = Cache("/root/.local/share/tts", {"TTS_HOME": "/tts", "XDG_DATA_HOME": "/tts"})
_EASYOCR = Cache("/root/.EasyOCR", {"EASYOCR_MODULE_PATH": ""}, ("model_storage_directory",))
_INSIGHTFACE = Cache("/root/.insightface", {}, ("root",))
_REMBG = Cache("/root/.u2net", {"U2NET_HOME": ""})
OLLAMA = Cache("/root/.ollama", {"OLLAMA_MODELS": ""})

LOADERS: Mapping[str, Loader] = {
    "huggingface_hub.snapshot_download": Loader(HUB, model=False),
    "huggingface_hub.hf_hub_download": Loader(HUB, model=False),
    "transformers.pipeline": Loader(_TRANSFORMERS),
    "transformers.pipelines.pipeline": Loader(_TRANSFORMERS),
    "sentence_transformers.SentenceTransformer": Loader(_SENTENCES),
    "sentence_transformers.CrossEncoder": Loader(_SENTENCES),
    "faster_whisper.WhisperModel": Loader(_FASTER_WHISPER),
    "whisperx.load_model": Loader(_FASTER_WHISPER),
    "whisper.load_model": Loader(_WHISPER),
    "clip.load": Loader(_CLIP),
    "open_clip.create_model_and_transforms": Loader(HUB),
    "open_clip.create_model_from_pretrained": Loader(HUB),
    "timm.create_model": Loader(HUB),
    "vllm.LLM": Loader(HUB),
    "outlines.models.transformers": Loader(HUB),
    "kokoro.KPipeline": Loader(HUB, always=True),
    "torch.hub.load": Loader(_TORCH),
    "demucs.pretrained.get_model": Loader(_TORCH),
    "TTS.api.TTS": Loader(_TTS),
    "easyocr.Reader": Loader(_EASYOCR, always=True),
    "insightface.app.FaceAnalysis": Loader(_INSIGHTFACE, always=True),
    "rembg.new_session": Loader(_REMBG, always=True),
    "spacy.load": Loader(HUB, downloads=False),
    "ultralytics.YOLO": Loader(HUB, downloads=False),
    "llama_cpp.Llama": Loader(HUB, downloads=False),
}
"""By the name of the function or class as it is imported."""

HUB_METHODS = {"from_pretrained", "get_pretrained", "from_single_file", "from_hparams"}
"""Methods of many libraries that load from the Hugging Face hub."""

FROM_FILES = {
    "torch.load", "torch.jit.load", "safetensors.torch.load_file", "onnxruntime.InferenceSession",
    "keras.models.load_model", "tensorflow.keras.models.load_model",
}  # fmt: skip


def hub_cache(name: str) -> Cache:
    """The cache of a `from_pretrained` and the like, by the dotted name of what has it."""
    return _TRANSFORMERS if name.startswith("transformers.") else HUB
