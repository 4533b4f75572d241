"""Methods, refiners and steps on two small sets of photographs, with real networks.

    python benchmarks/photographs.py --shared ../shared clip clip+vfm "sclip+vfm,gamma=9"

A: the 60 photographs of VOC 2012 in `--shared`, B: the 78 of COCO there that hold one of VOC's 20
classes. Counted are the pixels of these classes alone, and every pixel gets one of the 20 words.
The network is a supervised ViT-Ti whose classifier rows stand in for text (short side 224), the VFM
is DINOv2-S. A run is METHOD+REFINER+...; a part is NAME, NAME:VARIANT, and options after commas.
Printed are the mIoU over the classes present and the pixel accuracy in per cent, with 95 %
intervals over pictures drawn with replacement, CPU seconds for a picture, and with windows how many
times as often labels change at their borders as elsewhere. `--draw FILE.png 000000005001,...` draws
the label maps of these pictures, one row for each.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file
from transformers import CLIPVisionModelWithProjection

from wordmask import Segmenter, drawing
from wordmask.colours import palette
from wordmask.datasets import VOID
from wordmask.evaluation.evaluator import window_seams
from wordmask.methods.base import METHODS, create_method
from wordmask.metrics import Confusion, Seams
from wordmask.metrics.bootstrap import PerPicture
from wordmask.options import parse_assignment
from wordmask.refiners.base import REFINERS, create_refiner
from wordmask.registry import split_variant

SETTINGS: dict[str, Any] = {
    "short_side": 224,
    "whole_patches": True,
    "resample": "pil-bicubic",
    "position": "bicubic",
    "mean": (0.5, 0.5, 0.5),
    "std": (0.5, 0.5, 0.5),
}
# VOC's 20 classes in their order, by COCO's names
NAMES = [
    "airplane",
    "bicycle",
    "bird",
    "boat",
    "bottle",
    "bus",
    "car",
    "cat",
    "chair",
    "cow",
    "dining table",
    "dog",
    "horse",
    "motorcycle",
    "person",
    "potted plant",
    "sheep",
    "couch",
    "train",
    "tv",
]


def photographs_a(data: Path) -> Iterator[tuple[Path, np.ndarray]]:
    """The paths of VOC's photographs and their targets, 0 where nothing is counted."""
    root = data / "VOCdevkit" / "VOC2012"
    for name in (root / "ImageSets" / "Segmentation" / "val.txt").read_text().split():
        target = np.asarray(Image.open(root / "SegmentationClass" / f"{name}.png"))
        yield root / "JPEGImages" / f"{name}.jpg", np.where(target < 255, target, 0)


def photographs_b(data: Path) -> Iterator[tuple[Path, np.ndarray]]:
    """The same of COCO, those that show one of the classes."""
    root = data / "coco"
    lines = (root / "object_classes.txt").read_text().splitlines()
    known = [line.split(",")[0].strip().lower() for line in lines if line.strip()]
    first = known.index("person") - 1  # of the lines, how many stand before label 1
    label = np.zeros(256, np.uint8)
    for i, name in enumerate(NAMES, start=1):
        label[known.index(name) - first] = i
    for path in sorted((root / "images" / "val2017").glob("*.jpg")):
        mask = np.asarray(Image.open(root / "object_masks" / "val2017" / f"{path.stem}.png"))
        if label[mask].any():
            yield path, label[mask]


SETS = {"A": photographs_a, "B": photographs_b}


def build(run: str) -> tuple[Any, list[Any]]:
    """The method and the refiners of a run, each created with its options."""
    parts = []
    for i, part in enumerate(run.split("+")):
        name, *given = (x.strip() for x in part.split(","))
        name, variant = split_variant(name)
        registry: Any = REFINERS if i else METHODS
        options = dict(parse_assignment(registry, name, x) for x in given)
        create: Any = create_refiner if i else create_method
        parts.append(create(name, variant, options if i else SETTINGS | options)[0])
    return parts[0], parts[1:]


def measure(
    segmenter: Segmenter, texts: torch.Tensor, pictures: list[Any], kept: dict[str, list[Any]]
) -> str:
    """One cell of the table; the labels of the pictures in `kept` are appended there."""
    confusion, each = Confusion(20, background=False), PerPicture(20, background=False)
    begin = time.process_time()
    queries, seams = segmenter.encode_text(texts, "none"), Seams()
    for path, target in pictures:
        encoding = segmenter.encode(path)
        labels = segmenter.score(encoding, queries).labels().astype(np.int64)
        if path.stem in kept:
            kept[path.stem].append(labels)
        found = window_seams(segmenter, [encoding], [labels])
        seams.counts += 0 if found is None else found
        counted = np.where(target > 0, target, np.int64(VOID))
        pairs = confusion.count(counted, labels)
        confusion.add(pairs)
        each.add(path.stem, pairs)
    seconds = (time.process_time() - begin) / len(pictures)
    means, intervals = confusion.summary(), each.intervals()
    cells = []
    for name in ("miou_present", "pixel_accuracy"):
        low, high = intervals[name]
        cells.append(f"{100 * means[name]:.1f} [{100 * low:.1f}, {100 * high:.1f}]")
    ratio = seams.summary()["ratio"]
    borders = "" if ratio is None else f", seams {ratio:.2f}"
    return f"{' / '.join(cells)}, {seconds:.2f} s{borders}"


def sheet(target: np.ndarray, maps: list[np.ndarray], runs: list[str]) -> Image.Image:
    """One row of a drawing: the target and the label map of each run, and their words."""
    colours, counted = palette(20), target > 0
    titles = [
        f"{run}: {(x == target)[counted].mean() * 100:.0f} %"
        for run, x in zip(runs, maps, strict=True)
    ]
    pictures = [np.where(counted[..., None], colours[target], 225), *(colours[x] for x in maps)]
    row = drawing.strip(
        [x.astype(np.uint8) for x in pictures],
        ["target (grey: not counted)", *titles],
        columns=len(pictures),
        height=round(300 * target.shape[0] / target.shape[1]),
    )
    shown = [
        i for i in range(1, 21) if (target == i).any() or max((x == i).mean() for x in maps) > 0.01
    ]
    words = [(NAMES[i - 1], tuple(colours[i].tolist())) for i in shown]
    return drawing.stack([row, drawing.legend(words, row.width)])


def load(shared: Path) -> tuple[torch.nn.Module, torch.Tensor, dict[str, Any]]:
    """The CLIP, text features of the 20 words, and auxiliary models."""
    folder = shared / "models" / "vit-tiny-in1k"
    clip = CLIPVisionModelWithProjection.from_pretrained(folder).eval()
    clip.vision_model.pre_layrnorm = torch.nn.Identity()  # this network has none
    texts = load_file(folder / "text_features.safetensors")["voc20"]
    return clip, texts, {"vfm": shared / "models" / "dinov2-small"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="+", metavar="METHOD+REFINER")
    parser.add_argument("--shared", type=Path, required=True, help="the folder of data and models")
    parser.add_argument("--sets", default="A,B")
    parser.add_argument("--draw", nargs=2, metavar=("FILE", "NAME,..."), default=("", ""))
    args = parser.parse_args()
    clip, texts, networks = load(args.shared)
    sets = {name: list(SETS[name](args.shared / "data")) for name in args.sets.split(",")}
    print(", ".join(f"{name}: {len(pictures)} photographs" for name, pictures in sets.items()))
    loaded: Segmenter | None = None
    kept: dict[str, list[Any]] = {name: [] for name in args.draw[1].split(",") if name}
    targets = {path.stem: target for found in sets.values() for path, target in found}
    if absent := sorted(kept.keys() - targets):
        parser.error(f"--draw: there is no picture {', '.join(absent)}")
    for run in args.runs:
        method, refiners = build(run)
        if loaded is None:
            loaded = Segmenter.from_pretrained(clip, method, refine=refiners, networks=networks)
        segmenter = loaded.with_method(method, refine=refiners)
        cells = [f"{name} {measure(segmenter, texts, found, kept)}" for name, found in sets.items()]
        print(f"{run:40s} {' | '.join(cells)}", flush=True)
    if kept:
        sheets = [sheet(targets[name], maps, args.runs) for name, maps in kept.items()]
        page = drawing.stack(sheets).quantize(256, dither=Image.Dither.NONE)
        page.save(args.draw[0], optimize=True)


if __name__ == "__main__":
    main()
