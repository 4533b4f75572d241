"""Measure what the tiny VFM and the tiny diffusion add to score maps of the tiny CLIP.

    python training/measure.py                     # 100 scenes, as in the model cards
    python training/measure.py --vfm FOLDER --diffusion FOLDER --refine "" vfm "vfm,diffusion"

The scenes are other ones than those of training, of its logs and of `wordmask selftest`. Each is
segmented by 20 words (`toybox.choices`) without background, at its own size of 96 pixels.
"""

from __future__ import annotations

import argparse

import numpy as np

from wordmask import toybox
from wordmask.metrics.boundary import Boundary
from wordmask.metrics.confusion import Confusion
from wordmask.segmenter import Segmenter
from wordmask.toybox import NAMES
from wordmask.toybox.selftest import TOYBOX_OPTIONS, WORDS
from wordmask.vocabulary import Background

FIRST_SEED = 1_300_000_000


def measure(segmenter: Segmenter, scenes: list[toybox.Scene]) -> list[float]:
    """Give mIoU, boundary IoU, pixels and pixels of things named right, in percent."""
    confusion = Confusion(len(NAMES), background=False)
    boundary = Boundary(len(NAMES), background=False)
    right = things = 0
    for index, scene in enumerate(scenes):
        words = toybox.choices(scene, WORDS, seed=index)
        ids = np.array([0, *(NAMES.index(word) + 1 for word in words)], np.uint16)
        target = ids[toybox.label_map(scene, words)]
        prediction = ids[segmenter(scene.image, words, Background.none()).labels]
        confusion.update(target, prediction)
        boundary.update(target, prediction)
        thing = scene.parts >= len(scene.grounds)
        right += int((target == prediction)[thing].sum())
        things += int(thing.sum())
    found = (confusion.mean_iou("union"), boundary.mean_iou("union"), confusion.pixel_accuracy())
    return [100 * float(value) for value in (*found, right / things)]


def main() -> None:
    """Print a table of methods and refiners."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    add = parser.add_argument
    add("--model", default="wordmask/tiny-clip")
    add("--vfm", default="wordmask/tiny-vfm")
    add("--diffusion", default="wordmask/tiny-diffusion")
    add("--methods", nargs="+", default=["cliper", "clearclip", "clip_surgery", "naclip"])
    add("--refine", nargs="+", default=["", "vfm", "diffusion"])
    add("--scenes", type=int, default=100)
    add("--held-out", action="store_true", help="things of pairs that training never showed")
    options = parser.parse_args()
    first = FIRST_SEED + (10**6 if options.held_out else 0)
    scenes = [
        toybox.render(first + i, held_out="only" if options.held_out else False)
        for i in range(options.scenes)
    ]
    segmenter = Segmenter.from_pretrained(
        options.model, "cliper", None, TOYBOX_OPTIONS, device="cpu", local_files_only=True,
        networks={"vfm": options.vfm, "diffusion": options.diffusion},
    )  # fmt: skip
    print("| method | refined by | mIoU | boundary IoU | pixels | things |")
    print("|---|---|--:|--:|--:|--:|", flush=True)
    for method in options.methods:
        for refine in options.refine:
            refined = segmenter.with_method(method, None, TOYBOX_OPTIONS, refine)
            cells = " | ".join(f"{value:.1f}" for value in measure(refined, scenes))
            print(f"| {method} | {refine or '-'} | {cells} |", flush=True)


if __name__ == "__main__":
    main()
