"""Random weights of a text-to-video pipeline whose default size is tiny too (16 frames of 64x64), so that a prompt alone is a quick call."""

from pathlib import Path

import torch
from diffusers import TextToVideoSDPipeline, UNet3DConditionModel
from tiny_models import stable_diffusion


def save(directory: Path) -> None:
    torch.manual_seed(0)
    parts = stable_diffusion()
    unet = UNet3DConditionModel(
        block_out_channels=(32, 64),
        layers_per_block=1,
        sample_size=8,
        in_channels=4,
        out_channels=4,
        down_block_types=("CrossAttnDownBlock3D", "DownBlock3D"),
        up_block_types=("UpBlock3D", "CrossAttnUpBlock3D"),
        cross_attention_dim=32,
        attention_head_dim=4,
        norm_num_groups=8,
    )
    pipeline = TextToVideoSDPipeline(
        vae=parts.vae,
        text_encoder=parts.text_encoder,
        tokenizer=parts.tokenizer,
        unet=unet,
        scheduler=parts.scheduler,
    )
    pipeline.save_pretrained(directory)
    for file in directory.rglob("*.safetensors"):
        file.chmod(0o644)
