"""Random weights with the shape of LTX-Video, one megabyte in all, laid out as a download would have left them.

modal run tiny_weights.py

They let the app run anywhere in seconds; what it then draws is noise. `real_weights.py` fetches the real ones.
"""

import hashlib
import itertools
import json
import shutil
import tempfile
import time
from pathlib import Path

import modal
from app import MODEL_ID, image, model_vol

app = modal.App("example-diffusion-tiny-weights")

with image.imports():
    import sentencepiece
    import torch
    from diffusers import (
        AutoencoderKLLTXVideo,
        FlowMatchEulerDiscreteScheduler,
        LTXPipeline,
        LTXVideoTransformer3DModel,
    )
    from transformers import T5Config, T5EncoderModel, T5Tokenizer

REVISION = hashlib.sha1(b"tiny random weights").hexdigest()
CAPTIONS = "a cat on bench in front of lake at sunset dog over mountain worst quality inconsistent motion blurry"


@app.function(image=image.add_local_python_source("app"), volumes={"/models": model_vol}, timeout=10 * 60)
def make_weights() -> str:
    started = time.monotonic()
    repo = Path("/models") / f"models--{MODEL_ID.replace('/', '--')}"
    ref = repo / "refs" / "main"
    if ref.exists() and ref.read_text() != REVISION:
        raise FileExistsError(f"{repo} holds weights that this script did not make; it will not hide them.")
    snapshot = repo / "snapshots" / REVISION
    if not ref.exists():
        snapshot.parent.mkdir(parents=True, exist_ok=True)
        pipeline().save_pretrained(snapshot)
        for file in snapshot.rglob("*.safetensors"):
            file.chmod(0o644)  # they are written for their owner alone; a Volume is shared
        ref.parent.mkdir(exist_ok=True)
        ref.write_text(REVISION)
        model_vol.commit()
    size = sum(file.stat().st_size for file in snapshot.rglob("*") if file.is_file())
    return f"{MODEL_ID}, random weights: {size / 1e6:.1f} MB in {time.monotonic() - started:.2f} s"


def pipeline() -> "LTXPipeline":
    """LTX-Video with every dimension made small; 0.16 million parameters instead of 2 billion."""
    torch.manual_seed(0)
    words = tokenizer()
    return LTXPipeline(
        transformer=LTXVideoTransformer3DModel(
            in_channels=8,
            out_channels=8,
            num_attention_heads=4,
            attention_head_dim=8,
            cross_attention_dim=32,
            num_layers=1,
            caption_channels=32,
        ),
        vae=AutoencoderKLLTXVideo(
            latent_channels=8,
            block_out_channels=(8, 8, 8, 8),
            decoder_block_out_channels=(8, 8, 8, 8),
            layers_per_block=(1,) * 5,
            decoder_layers_per_block=(1,) * 5,
            encoder_causal=True,
            decoder_causal=False,
        ),
        text_encoder=T5EncoderModel(
            T5Config(
                vocab_size=len(words),
                d_model=32,
                d_kv=8,
                d_ff=37,
                num_layers=2,
                num_heads=4,
                feed_forward_proj="gated-gelu",
                tie_word_embeddings=False,
            )
        ),
        tokenizer=words,
        scheduler=FlowMatchEulerDiscreteScheduler(),
    )


def tokenizer() -> "T5Tokenizer":
    """A T5 tokenizer of a few dozen pieces, trained here and loaded from the file format T5 is published in."""
    directory = Path(tempfile.mkdtemp())
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=(" ".join(pair) for pair in itertools.permutations(CAPTIONS.split(), 2)),
            model_prefix=str(directory / "spiece"),
            vocab_size=100,
            hard_vocab_limit=False,
            pad_id=0,
            pad_piece="<pad>",
            eos_id=1,
            unk_id=2,
            bos_id=-1,
            minloglevel=2,
        )
        config = {"tokenizer_class": "T5Tokenizer", "model_max_length": 128, "extra_ids": 0}
        (directory / "tokenizer_config.json").write_text(json.dumps(config))
        return T5Tokenizer.from_pretrained(directory)
    finally:
        shutil.rmtree(directory)


@app.local_entrypoint()
def main():
    print(make_weights.remote())
