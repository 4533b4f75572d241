"""Names that compete: synonyms of a class and negatives, on two small sets of photographs.

    python benchmarks/words.py --shared ../shared clip sclip

The sets and the networks are those of photographs.py. ImageNet's 1000 classifier rows stand in for
text. Synonyms: each of VOC's classes has the rows that its one row is the mean of, 1 to 118 of
them. Negatives: pixels of none of the 20 words are background and counted; candidates are the other
rows of ImageNet, in place of the names of COCO-Stuff and ADE20K.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file

from photographs import NAMES, SETS, build, load
from wordmask import Segmenter
from wordmask.datasets import VOID
from wordmask.metrics import Confusion
from wordmask.text_queries import TextQueries
from wordmask.vocabulary import NEGATIVES, pick_negatives


def background_of(name: str, data: Path, stem: str, target: np.ndarray) -> np.ndarray:
    """The target with background at 0, and VOID where VOC counts nothing."""
    counted = target.astype(np.int64)
    if name == "A":
        path = data / "VOCdevkit" / "VOC2012" / "SegmentationClass" / f"{stem}.png"
        counted[np.asarray(Image.open(path)) == 255] = VOID
    return counted


def table(
    segmenters: dict[str, tuple[Segmenter, TextQueries]],
    sets: dict[str, list[Any]],
    background: bool,
    data: Path,
) -> None:
    """A line for each way of words; the picture is encoded once."""
    cells: dict[str, list[str]] = {label: [] for label in segmenters}
    for name, pictures in sets.items():
        counts = {label: Confusion(20, background=background) for label in segmenters}
        for path, target in pictures:
            counted = np.where(target > 0, target, np.int64(VOID))
            if background:
                counted = background_of(name, data, path.stem, target)
            encoding = next(iter(segmenters.values()))[0].encode(path)
            for label, (segmenter, texts) in segmenters.items():
                labels = segmenter.score(encoding, texts).labels().astype(np.int64)
                counts[label].update(counted, labels)
        for label, confusion in counts.items():
            found = confusion.summary()
            cells[label].append(
                f"{name} {100 * found['miou_present']:.1f} / {100 * found['pixel_accuracy']:.1f}"
            )
            if background:
                each = confusion.per_class_iou()[1:]
                shown = ((one, each[NAMES.index(one)]) for one in ("person", "tv", "potted plant"))
                cells[label][-1] += "".join(f", {one} {100 * value:.0f}" for one, value in shown)
    for label, row in cells.items():
        print(f"  {label:28} {' | '.join(row)}", flush=True)


def load_rows(shared: Path) -> tuple[torch.Tensor, list[list[int]]]:
    """ImageNet's classifier rows (1000, E), and which of them each of VOC's classes has."""
    folder = shared / "models" / "vit-tiny-in1k"
    names = json.loads((folder / "names.json").read_text())
    head = load_file(folder / "text_features.safetensors")["imagenet_head"]
    return head, list(names["voc20_from_imagenet_rows"].values())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("methods", nargs="+", metavar="METHOD")
    parser.add_argument("--shared", type=Path, required=True, help="the folder of data and models")
    parser.add_argument("--sets", default="A,B")
    parser.add_argument("--limit", type=int, help="photographs of each set")
    args = parser.parse_args()
    clip, words, networks = load(args.shared)
    head, rows = load_rows(args.shared)
    candidates = head[[i for i in range(len(head)) if not any(i in own for own in rows)]]
    data = args.shared / "data"
    sets = {name: list(SETS[name](data))[: args.limit] for name in args.sets.split(",")}
    for run in args.methods:
        method, refiners = build(run)
        segmenter = Segmenter.from_pretrained(clip, method, refine=refiners, networks=networks)
        print(f"{run}, synonyms")
        mean = segmenter.with_method(replace(method, pooling="mean"), refine=refiners)
        synonyms = {name: head[own] for name, own in zip(NAMES, rows, strict=True)}
        many = segmenter.encode_text(synonyms)
        vip = segmenter.with_method(method, refine=["vip", *refiners])
        table(
            {
                "one row a class": (segmenter, segmenter.encode_text(words)),
                "mean of its rows": (mean, mean.encode_text(synonyms)),
                "maximum of its rows": (segmenter, many),
                "vip": (vip, many),
            },
            sets,
            False,
            data,
        )
        print(f"{run}, negatives")
        near = torch.nn.functional.normalize(candidates, dim=1) @ words.T
        far = (near.amax(1) <= 0.9).nonzero()[:, 0]
        drawn = far[torch.randperm(len(far), generator=torch.Generator().manual_seed(0))]
        grounds = {
            "no background": None,
            f"{NEGATIVES} drawn": candidates[drawn[:NEGATIVES]],
            f"{NEGATIVES} chosen": candidates[pick_negatives(words, candidates)],
            f"all {len(far)}": candidates[far],
        }
        table(
            {k: (segmenter, segmenter.encode_text(words, v)) for k, v in grounds.items()},
            sets,
            True,
            data,
        )


if __name__ == "__main__":
    main()
