"""Exported networks beside torch: differences, speed and size; and the loss of fp16 and int8.

    python benchmarks/exported.py [--methods clip sclip cliper] [--precisions fp32 fp16 int8]
    python benchmarks/exported.py --photographs ../shared [--pictures 60]
    python benchmarks/exported.py --scenes 50

The first exports a CLIP of random weights in the shape of ViT-B/16 and compares features and labels
at five sizes. The second measures mIoU on PASCAL VOC with the network of tests/test_photographs.py,
the third on rendered scenes with the built-in network, whose text encoder is rounded too.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import CLIPVisionModelWithProjection

from encode import make_model
from wordmask import OnnxSegmenter, Segmenter
from wordmask.onnx.export import export

SIZES = ((336, 448), (448, 336), (224, 224), (320, 560), (160, 288))  # heights and widths
PHOTOGRAPHS = {
    "short_side": 224,
    "whole_patches": True,
    "resample": "pil-bicubic",
    "position": "bicubic",
    "mean": (0.5, 0.5, 0.5),
    "std": (0.5, 0.5, 0.5),
}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--methods", nargs="+", default=["clip", "sclip", "naclip", "cliper"])
    parser.add_argument("--precisions", nargs="+", default=["fp32", "fp16", "int8"])
    parser.add_argument("--photographs", type=Path, metavar="SHARED")
    parser.add_argument("--pictures", type=int, default=60)
    parser.add_argument("--scenes", type=int, default=0)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads")
    if given.photographs:
        loss(given, *photographs(given.photographs, given.pictures))
    elif given.scenes:
        loss(given, *scenes(given.scenes))
    else:
        equality(given)


def equality(given: Any) -> None:
    model = make_model()
    rng = np.random.default_rng(0)
    pictures = [rng.integers(0, 256, (*size, 3), np.uint8) for size in SIZES]
    words = rng.standard_normal((21, model.config.projection_dim)).astype(np.float32)
    size = sum(one.numel() * one.element_size() for one in model.parameters()) / 1e6
    print(f"weights in torch {size:.0f} MB")
    for name in given.methods:
        segmenter = Segmenter.from_pretrained(model, name, options={"short_side": None})
        texts = torch.from_numpy(words)
        for precision in given.precisions:
            with tempfile.TemporaryDirectory() as folder:
                start = time.perf_counter()
                made = export(segmenter, folder, precision)
                seconds = time.perf_counter() - start
                other = OnnxSegmenter.from_folder(folder)
                apart, labels = [], []
                for picture in pictures:
                    ours, theirs = segmenter.encode(picture), other.encode(picture)
                    found = theirs.outputs["features"]
                    apart.append(np.abs(found - ours.features.numpy()).max())
                    same = segmenter(ours, texts, "none").labels == other(theirs, words).labels
                    labels.append(1 - same.mean())
                a, b = pair(
                    lambda s=segmenter: s.encode(pictures[0]),
                    lambda o=other: o.encode(pictures[0]),
                    given.rounds,
                )
            megabytes = made.files["image.onnx"] / 1e6
            print(
                f"{name} {precision}: {megabytes:.0f} MB, exported in {seconds:.0f} s, features "
                f"differ by {max(apart):.1e}, labels of {100 * max(labels):.3f} % of pixels, "
                f"torch {a:.3f} s, ONNX Runtime {b:.3f} s: {a / b:.2f} times as fast",
                flush=True,
            )


def pair(one: Callable[[], Any], other: Callable[[], Any], rounds: int) -> tuple[float, float]:
    """Median seconds of two calls, made in turn."""
    seconds: tuple[list[float], list[float]] = ([], [])
    for _ in range(rounds):
        for call, found in zip((one, other), seconds, strict=True):
            start = time.perf_counter()
            call()
            found.append(time.perf_counter() - start)
    return float(np.median(seconds[0])), float(np.median(seconds[1]))


Load = Callable[[str], Segmenter]
Set = list[tuple[Any, Any, np.ndarray]]  # pictures, words, and targets: classes from 1, or 0


def photographs(shared: Path, count: int) -> tuple[Load, Set]:
    """The supervised network with classifier rows as texts, and photographs of VOC."""
    from safetensors.torch import load_file

    folder = shared / "models" / "vit-tiny-in1k"
    model = CLIPVisionModelWithProjection.from_pretrained(folder).eval()
    model.vision_model.pre_layrnorm = torch.nn.Identity()
    rows = load_file(folder / "text_features.safetensors")["voc20"].numpy()
    root = shared / "data" / "VOCdevkit" / "VOC2012"
    found: Set = []
    for name in (root / "ImageSets" / "Segmentation" / "val.txt").read_text().split()[:count]:
        target = np.asarray(Image.open(root / "SegmentationClass" / f"{name}.png"))
        target = np.where(target == 255, 0, target)
        found.append((root / "JPEGImages" / f"{name}.jpg", rows, target))
    return lambda method: Segmenter.from_pretrained(model, method, options=PHOTOGRAPHS), found


def scenes(count: int) -> tuple[Load, Set]:
    """The built-in network, and scenes that it has not seen with 20 words each."""
    from wordmask.toybox.scenes import choices, fresh_scenes, label_map

    found: Set = []
    for scene in fresh_scenes(count):
        words = choices(scene)
        found.append((scene.image, words, label_map(scene, words)))
    return lambda method: Segmenter.from_pretrained("wordmask/tiny-clip", method), found


def loss(given: Any, load: Load, pictures: Set) -> None:
    for name in given.methods:
        segmenter = load(name)
        segmenter.note = ""
        print(f"{name} torch: {miou(segmenter, pictures):.2f} mIoU", flush=True)
        for precision in given.precisions:
            with tempfile.TemporaryDirectory() as folder:
                made = export(segmenter, folder, precision)
                found = miou(OnnxSegmenter.from_folder(folder), pictures)
            sizes = ", ".join(
                f"{name} {size / 1e6:.1f} MB"
                for name, size in made.files.items()
                if name.endswith(".onnx")
            )
            print(f"{name} {precision}: {found:.2f} mIoU, {sizes}", flush=True)


def miou(segmenter: Any, pictures: Set) -> float:
    """Mean over the classes that are there, pixels of all pictures together, in percent."""
    numbers: dict[Any, int] = {}
    same, either, there = Counter[int](), Counter[int](), Counter[int]()
    for picture, words, target in pictures:
        given = words
        if isinstance(words, np.ndarray):
            given = torch.from_numpy(words) if isinstance(segmenter, Segmenter) else words
        labels = segmenter(picture, given, "none").labels
        names = range(len(words)) if isinstance(words, np.ndarray) else words
        for label, name in enumerate(names, start=1):
            number = numbers.setdefault(name, len(numbers))
            wanted, found = target == label, (labels == label) & (target > 0)
            same[number] += int((wanted & found).sum())
            either[number] += int((wanted | found).sum())
            there[number] += int(wanted.sum())
    return 100 * float(np.mean([same[n] / either[n] for n in there if there[n]]))


if __name__ == "__main__":
    main()
