"""The pipelines of the examples with every dimension made small: the published architectures with random weights of one to five megabytes.

Their tokenizers are trained here, on a few dozen words, and loaded from the file formats in which the models are published.
"""

import itertools
import json
import tempfile
from collections.abc import Callable
from pathlib import Path

import sentencepiece
import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderKLLTXVideo,
    AutoencoderKLMochi,
    DiffusionPipeline,
    FlowMatchEulerDiscreteScheduler,
    LTXPipeline,
    LTXVideoTransformer3DModel,
    MochiPipeline,
    MochiTransformer3DModel,
    PNDMScheduler,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer, T5Config, T5EncoderModel, T5Tokenizer

CAPTION = "a cat on bench in front of lake at sunset dog over mountain worst quality inconsistent motion blurry"


def ltx_video() -> LTXPipeline:
    words = t5_tokenizer()
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
        text_encoder=t5_encoder(words),
        tokenizer=words,
        scheduler=FlowMatchEulerDiscreteScheduler(),
    )


def mochi() -> MochiPipeline:
    words = t5_tokenizer()
    transformer = MochiTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=8,
        num_layers=2,
        pooled_projection_dim=16,
        in_channels=12,
        out_channels=None,
        qk_norm="rms_norm",
        text_embed_dim=32,
        time_embed_dim=4,
        max_sequence_length=256,
    )
    transformer.pos_frequencies.data.normal_(0, 0.02)
    return MochiPipeline(
        transformer=transformer,
        vae=AutoencoderKLMochi(
            latent_channels=12,
            out_channels=3,
            encoder_block_out_channels=(32, 32, 32, 32),
            decoder_block_out_channels=(32, 32, 32, 32),
            layers_per_block=(1, 1, 1, 1, 1),
        ),
        text_encoder=t5_encoder(words),
        tokenizer=words,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=1.0, num_train_timesteps=1000, invert_sigmas=True),
    )


def stable_diffusion() -> StableDiffusionPipeline:
    words = clip_tokenizer()
    return StableDiffusionPipeline(
        unet=UNet2DConditionModel(
            block_out_channels=(32, 64),
            layers_per_block=1,
            sample_size=8,
            in_channels=4,
            out_channels=4,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            cross_attention_dim=32,
            attention_head_dim=8,
            norm_num_groups=8,
        ),
        vae=AutoencoderKL(
            block_out_channels=(16, 32, 32, 32),
            in_channels=3,
            out_channels=3,
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            latent_channels=4,
            norm_num_groups=8,
            sample_size=64,
        ),
        text_encoder=CLIPTextModel(
            CLIPTextConfig(
                vocab_size=len(words),
                hidden_size=32,
                intermediate_size=37,
                num_attention_heads=4,
                num_hidden_layers=2,
                max_position_embeddings=77,
                bos_token_id=words.bos_token_id,
                eos_token_id=words.eos_token_id,
                pad_token_id=words.pad_token_id,
            )
        ),
        tokenizer=words,
        scheduler=PNDMScheduler(
            beta_start=0.00085,
            beta_end=0.012,
            beta_schedule="scaled_linear",
            skip_prk_steps=True,
            steps_offset=1,
            set_alpha_to_one=False,
        ),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


PIPELINES: dict[str, Callable[[], DiffusionPipeline]] = {
    "Lightricks/LTX-Video": ltx_video,
    "genmo/mochi-1-preview": mochi,
    "stable-diffusion-v1-5/stable-diffusion-v1-5": stable_diffusion,
}


def save(model_id: str, directory: Path) -> None:
    """Writes the pipeline that stands for the published model; the same one each time."""
    torch.manual_seed(0)
    PIPELINES[model_id]().save_pretrained(directory)
    for file in directory.rglob("*.safetensors"):
        file.chmod(0o644)  # they are written for their owner alone; a Volume is shared


def t5_encoder(words: T5Tokenizer) -> T5EncoderModel:
    return T5EncoderModel(
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
    )


def t5_tokenizer() -> T5Tokenizer:
    """SentencePiece, as T5 is published."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=(" ".join(pair) for pair in itertools.permutations(CAPTION.split(), 2)),
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


def clip_tokenizer() -> CLIPTokenizer:
    """Byte pairs, as CLIP is published: every byte, alone and at the end of a word, and each of our words in one piece."""
    from tokenizers.pre_tokenizers import ByteLevel

    pieces = [*sorted(ByteLevel.alphabet())]
    pieces += [f"{piece}</w>" for piece in pieces]
    merges: list[tuple[str, str]] = []
    for word in CAPTION.split():
        done = word[0]
        for position, letter in enumerate(word[1:], start=1):
            following = letter if position < len(word) - 1 else f"{letter}</w>"
            merges.append((done, following))
            done += following
    merges = list(dict.fromkeys(merges))
    pieces += [first + second for first, second in merges] + ["<|startoftext|>", "<|endoftext|>"]
    vocabulary = {piece: number for number, piece in enumerate(dict.fromkeys(pieces))}
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=77)
