"""Segment coffee.jpg by six words with two small networks: the picture at the top of README.md.

    python examples/photograph.py VIT_FOLDER [DINOV2] [PICTURE]

VIT_FOLDER holds a ViT-Ti/16 classifier of ImageNet (without a norm before its first block) as a
transformers CLIPVisionModelWithProjection: config.json, model.safetensors, names.json and
text_features.safetensors, the rows of its classifier, which stand in for CLIP's words. DINOV2 is a
folder or a hub id. Neither is part of wordmask. With a real CLIP all of this is one command:

    wordmask segment examples/coffee.jpg -c "cup; table; espresso; plate; spoon; tray" --refine vfm
"""

import json
import sys
from pathlib import Path

import torch
from PIL import Image
from safetensors.torch import load_file
from transformers import CLIPVisionModelWithProjection

from wordmask import Segmenter, drawing

WORDS = ("cup", "dining table", "espresso", "plate", "wooden spoon", "tray")
OPTIONS = {
    "short_side": 336,
    "whole_patches": True,
    "resample": "pil-bicubic",
    "position": "bicubic",
    "mean": (0.5, 0.5, 0.5),
    "std": (0.5, 0.5, 0.5),
}
PHOTO = Path(__file__).parent / "coffee.jpg"


def segment(vit: Path, dinov2: str | Path) -> list:
    """The labels of MaskCLIP alone, and sharpened by the patches that DINOv2 finds similar."""
    model = CLIPVisionModelWithProjection.from_pretrained(vit).eval()
    model.vision_model.pre_layrnorm = torch.nn.Identity()
    known = json.loads((vit / "names.json").read_text())["imagenet_head"]
    rows = load_file(vit / "text_features.safetensors")["imagenet_head"]
    rows = torch.nn.functional.normalize(rows - rows.mean(0), dim=-1)
    texts = rows[[known.index(word) for word in WORDS]]
    plain = Segmenter.from_pretrained(model, "maskclip", options=OPTIONS, networks={"vfm": dinov2})
    refine = [("vfm", {"short_side": 336})]
    refined = plain.with_method("maskclip", options=OPTIONS, refine=refine)
    return [one(PHOTO, texts) for one in (plain, refined)]


if __name__ == "__main__":
    defaults = ["facebook/dinov2-small", "photograph.jpg"]
    dinov2, out = sys.argv[2:] + defaults[len(sys.argv) - 2 :]
    results = segment(Path(sys.argv[1]), dinov2)
    photo = Image.open(PHOTO).convert("RGB")
    panels = [photo, *(drawing.overlay(photo, r.labels, WORDS, legend=False) for r in results)]
    titles = ["photograph", "its patches, named by six words", "sharpened by DINOv2"]
    strip = drawing.strip(panels, titles)
    colours = [tuple(colour) for colour in drawing.palette(len(WORDS))[1:].tolist()]
    legend = drawing.legend(list(zip(WORDS, colours, strict=True)), strip.width, text_size=24)
    drawing.stack([strip, legend]).save(out, quality=90)
