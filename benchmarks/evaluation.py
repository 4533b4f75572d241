"""Time of counting a picture into the metrics over the time of encoding it, and their memory.

    OMP_NUM_THREADS=1 python benchmarks/evaluation.py [--rounds 15] [--images 5000]

Encoding is `clearclip`, the cheapest method, with random weights in the shape of ViT-B/16, from a
picture of 500 x 375. Targets and predictions are smooth regions; every target has void along its
edges. 21 classes are a background and 20 words, 847 a background and 846. Times are CPU seconds of
the process, of which the least of all rounds is taken, as other programs only ever add to them.
Memory is the resident set, read while pictures are counted.
"""

from __future__ import annotations

import argparse
import functools
import gc
import itertools
import time
from collections.abc import Callable, Iterator

import numpy as np
import torch
from PIL import Image

from encode import make_model
from memory import resident
from wordmask import Segmenter
from wordmask.datasets import VOID
from wordmask.metrics import Confusion, Metrics
from wordmask.metrics.boundary import boundary

SIZE = (375, 500)


def regions(random: np.random.Generator, labels: np.ndarray, cells: int) -> np.ndarray:
    """Smooth regions with these labels: the largest of as many smooth random maps."""
    height, width = SIZE
    shape = (len(labels), cells, cells * width // height)
    maps = [
        np.asarray(Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC))
        for noise in random.random(shape, np.float32)
    ]
    return labels[np.argmax(maps, axis=0)]


def make_picture(random: np.random.Generator, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """A target of 4 or 12 labels with void along the edges, and a prediction of 8 or 60."""
    in_target, in_prediction = (4, 8) if classes < 100 else (12, 60)
    kind = np.uint8 if classes < 256 else np.uint16
    target = regions(random, random.choice(classes, in_target, False).astype(np.uint16), 4)
    prediction = regions(random, random.choice(classes, in_prediction, False).astype(kind), 12)
    edges = boundary(target, 2)
    edges[:2], edges[-2:], edges[:, :2], edges[:, -2:] = False, False, False, False
    return np.where(edges, np.uint16(VOID), target), prediction


def least(call: Callable[[], object], rounds: int) -> float:
    """The least CPU seconds of a call, of all threads."""
    times = []
    for _ in range(rounds + 1):
        start = time.process_time()
        call()
        times.append(time.process_time() - start)
    return min(times[1:])


def count_many(classes: int, images: int) -> Iterator[tuple[int, float]]:
    """Count pictures, and give how many there are and the resident MiB ten times on the way."""
    random = np.random.default_rng(0)
    pictures = [make_picture(random, classes) for _ in range(40)]
    metrics = Metrics(classes - 1)
    for i in range(images):
        metrics.update(str(i), *pictures[i % len(pictures)])
        if (i + 1) % (images // 10) == 0:
            gc.collect()
            yield i + 1, resident() / 2**20


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--images", type=int, default=5000)
    arguments = parser.parse_args()
    random = np.random.default_rng(0)
    segmenter = Segmenter.from_pretrained(make_model(), "clearclip", options={"short_side": 336})
    picture = random.integers(0, 256, (*SIZE, 3), np.uint8)
    encoding = least(lambda: segmenter.encode(picture), max(arguments.rounds // 3, 1))
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, numpy {np.__version__}")
    print(f"encoding {SIZE[1]} x {SIZE[0]} at a short side of 336: {1000 * encoding:.0f} ms")
    print(f"{'classes':>7} {'counted':32}{'ms':>6}{'of encoding':>13}")
    for classes in (21, 847):
        maps = make_picture(random, classes)
        confidence = random.random(SIZE, np.float32)
        confusion, metrics = Confusion(classes - 1), Metrics(classes - 1)
        scores = np.zeros(classes - 1, np.float32)
        ids = map(str, itertools.count())  # a picture is counted once
        calls = {
            "confusion matrix": functools.partial(confusion.update, *maps),
            "all but mAP and calibration": lambda m=metrics, x=maps, ids=ids: m.update(
                next(ids), *x
            ),
            "all": lambda m=metrics, x=maps, s=scores, c=confidence, ids=ids: m.update(
                next(ids), *x, scores=s, confidence=c
            ),
        }
        for name, call in calls.items():
            seconds = least(call, 10 * arguments.rounds)
            print(f"{classes:7} {name:32}{1000 * seconds:6.2f}{100 * seconds / encoding:11.2f} %")
    for classes in (21, 847):
        steps = [f"{done}: {memory:.0f}" for done, memory in count_many(classes, arguments.images)]
        print(f"{classes} classes, resident MiB after pictures: {', '.join(steps)}", flush=True)


if __name__ == "__main__":
    main()
