"""Writes an LTX-Video pipeline with random weights of 0.16 million parameters: `python -m tiny_ltx DIRECTORY`."""

import sys
import tempfile
from pathlib import Path

import sentencepiece
import torch
from diffusers import (
    AutoencoderKLLTXVideo,
    FlowMatchEulerDiscreteScheduler,
    LTXPipeline,
    LTXVideoTransformer3DModel,
)
from transformers import T5Config, T5EncoderModel, T5TokenizerFast

CAPTIONS = ["a cat on a bench in front of a lake", "worst quality, inconsistent motion, blurry", "dog over mountain"]


def tokenizer() -> T5TokenizerFast:
    """A few dozen pieces, trained here."""
    with tempfile.TemporaryDirectory() as scratch:
        prefix = str(Path(scratch, "spiece"))
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(CAPTIONS * 20),
            model_prefix=prefix,
            vocab_size=100,
            hard_vocab_limit=False,
            pad_id=0,
            eos_id=1,
            unk_id=2,
            bos_id=-1,
            pad_piece="<pad>",
            minloglevel=2,
        )
        pieces = sentencepiece.SentencePieceProcessor(model_file=f"{prefix}.model")
    vocabulary = [(pieces.id_to_piece(i), pieces.get_score(i)) for i in range(pieces.get_piece_size())]
    return T5TokenizerFast(vocab=vocabulary, extra_ids=0, model_max_length=128)


def pipeline() -> LTXPipeline:
    torch.manual_seed(0)
    words = tokenizer()
    encoder = T5Config(
        vocab_size=len(words), d_model=32, d_kv=8, d_ff=37, num_layers=2, num_heads=4, feed_forward_proj="gated-gelu"
    )
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
        text_encoder=T5EncoderModel(encoder),
        tokenizer=words,
        scheduler=FlowMatchEulerDiscreteScheduler(),
    )


if __name__ == "__main__":
    pipeline().save_pretrained(sys.argv[1])
