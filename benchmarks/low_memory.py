"""Memory of a run with three networks, all kept or one at a time (`low_memory`).

    python benchmarks/low_memory.py [--pictures 2]

CLIP in the shape of ViT-B/16, a diffusion model of half the width of Stable Diffusion at 256 pixels
and a VFM in the shape of DINO ViT-B/16, all random, read from folders. Each run is a process of its
own: its peak and what it holds at the end, over what it held before the first network was loaded.
"""

from __future__ import annotations

import argparse
import hashlib
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from memory import measure, resident

TEMPLATE = Path(__file__).parents[1] / "tests" / "golden" / "sd_model"  # text half and scheduler


def make(folder: Path) -> None:
    """Write the three networks, float16."""
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection, ViTConfig, ViTModel

    torch.manual_seed(0)
    size = {"image_size": 224, "patch_size": 16, "hidden_size": 768, "intermediate_size": 3072}
    size |= {"num_hidden_layers": 12, "num_attention_heads": 12}
    clip = CLIPVisionConfig(**size, projection_dim=512)
    CLIPVisionModelWithProjection(clip).half().save_pretrained(folder / "clip")
    ViTModel(ViTConfig(**size), add_pooling_layer=False).half().save_pretrained(folder / "vfm")
    shutil.copytree(TEMPLATE, folder / "diffusion")
    unet = UNet2DConditionModel(
        sample_size=32,
        block_out_channels=(160, 320, 640, 640),
        cross_attention_dim=32,
        attention_head_dim=(5, 10, 20, 20),
        use_linear_projection=True,
    )
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(64, 128, 256, 256),
        sample_size=256,
    )
    for name, model in (("unet", unet), ("vae", vae)):
        model.half().save_pretrained(folder / "diffusion" / name)


def run(folder: Path, low_memory: bool, pictures: int) -> None:
    from wordmask import Segmenter

    generator = torch.Generator().manual_seed(0)
    images = [(torch.rand(240, 320, 3, generator=generator) * 255).byte().numpy()] * pictures
    words = torch.randn(5, 512, generator=generator)
    start = resident()
    results = []

    def work() -> None:
        segmenter = Segmenter.from_pretrained(
            folder / "clip",
            "cliper",
            refine="diffusion,vfm",
            networks={"diffusion": folder / "diffusion", "vfm": folder / "vfm"},
            low_memory=low_memory,
        )
        results.extend(segmenter(images, words))
        results.append(segmenter)

    begin = time.process_time()
    _, peak = measure(work)
    labels = hashlib.blake2b(b"".join(r.labels.tobytes() for r in results[:-1]), digest_size=6)
    print(
        f"low_memory={low_memory!s:5}  peak {peak:5.0f} MiB, at the end "
        f"{(resident() - start) / 2**20:5.0f} MiB, {time.process_time() - begin:5.1f} s CPU, "
        f"labels {labels.hexdigest()}"
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--pictures", type=int, default=2)
    parser.add_argument("--step", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.step:
        what, folder = arguments.step[0], Path(arguments.step[1])
        if what == "make":
            make(folder)
        else:
            run(folder, what == "free", arguments.pictures)
        return
    with tempfile.TemporaryDirectory() as folder:
        for what in ("make", "keep", "free"):
            step = ["--step", what, folder, "--pictures", str(arguments.pictures)]
            subprocess.run([sys.executable, __file__, *step], check=True)


if __name__ == "__main__":
    main()
