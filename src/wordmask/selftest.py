"""Selftest: how well every registered method does on toybox scenes with the built-in tiny CLIP.

The scenes are rendered, so their truth is exact and no file is needed. What is measured tells
whether everything works together here, and how the methods differ on this network. It tells nothing
about photographs: the network knows the toybox and not the world.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from wordmask import toybox
from wordmask.errors import WordmaskError, unknown
from wordmask.methods import METHODS
from wordmask.segmenter import Segmenter
from wordmask.vocabulary import Background

MODEL = "wordmask/tiny-clip"
SIZE = 96  # side of a scene in pixels: what the network was trained on, 12 x 12 patches
WORDS = 20  # to choose from in each scene: all 8 grounds and 12 looks, the scene's among them
MOST_SCENES = 100_000
NAMES = (*toybox.GROUNDS, *toybox.looks(True))

# The same for all methods and variants, over their own options.
TOYBOX_OPTIONS: dict[str, Any] = {
    "short_side": None,  # scenes are shown as they are
    "mean": None,  # the network's own normalisation
    "std": None,
    "templates": "openai",  # what the network was trained with
}


@dataclass(frozen=True)
class Quality:
    """What one confusion matrix says, each from 0 to 1.

    Attributes:
        mean_iou: mean over the classes with union > 0, of intersection over union.
        pixels: share of all pixels that are labelled right.
        things: share of the pixels of things that are named right, grounds left aside.
    """

    mean_iou: float
    pixels: float
    things: float


@dataclass(frozen=True)
class Measurement:
    """One row of the selftest.

    Attributes:
        method, variant: what was measured.
        trained: quality on new scenes of pairs of colour and surface that the network was
            trained on.
        held_out: quality on scenes whose things are all of pairs that it never saw together.
        milliseconds: median time for one scene, from pixels to labels.
    """

    method: str
    variant: str
    trained: Quality
    held_out: Quality
    milliseconds: float


def candidates(
    methods: Sequence[str] | None = None, variants: bool = False
) -> list[tuple[str, str]]:
    """List (method, variant) to measure: every registered method, or those named.

    Raises:
        WordmaskError: an unknown method.
    """
    for name in methods or ():
        if name not in METHODS:
            raise unknown("method", name, METHODS)
    chosen = []
    for name in dict.fromkeys(methods or sorted(METHODS)):
        known = list(METHODS[name].variants)
        chosen += [(name, variant) for variant in (known if variants else known[:1])]
    return chosen


def make_scenes(
    count: int, seed: int = 0, held_out: Literal[False, "only"] = False
) -> list[toybox.Scene]:
    """Render scenes that neither the training nor its own measurements have seen.

    Raises:
        WordmaskError: a count outside 1 to 100,000, or a negative seed.
    """
    if not 1 <= count <= MOST_SCENES:
        raise WordmaskError(f"got {count} scenes; give 1 to {MOST_SCENES}")
    if seed < 0:
        raise WordmaskError(f"got the seed {seed}; give a whole number from 0 on")
    first = 2 * 10**9 + 2 * MOST_SCENES * seed + (MOST_SCENES if held_out else 0)
    return [toybox.render(first + i, SIZE, held_out=held_out) for i in range(count)]


def measure(
    chosen: Iterable[tuple[str, str]],
    scenes: int = 100,
    seed: int = 0,
    model: str = MODEL,
    report: Callable[[Measurement], object] = lambda _: None,
) -> list[Measurement]:
    """Measure methods on the same scenes, the best mean IoU first.

    Args:
        chosen: (method, variant), as `candidates` gives them.
        scenes: how many of each kind, 1 to 100,000.
        seed: which scenes, from 0 on; the same seed gives the same quality.
        model: a CLIP that knows the toybox's words.
        report: called with each row as it comes.
    """
    trained, held_out = make_scenes(scenes, seed), make_scenes(scenes, seed, "only")
    segmenter: Segmenter | None = None
    rows = []
    for method, variant in chosen:
        if segmenter is None:
            segmenter = Segmenter.from_pretrained(
                model, method, variant, TOYBOX_OPTIONS, device="cpu", local_files_only=True
            )
        segmenter = segmenter.with_method(method, variant, TOYBOX_OPTIONS)
        segmenter(trained[0].image, NAMES, Background.none())  # texts are encoded once, untimed
        seconds: list[float] = []
        qualities = [judge(confusion(segmenter, s, seconds)) for s in (trained, held_out)]
        milliseconds = 1000 * float(np.median(seconds))
        rows.append(Measurement(method, variant, qualities[0], qualities[1], milliseconds))
        report(rows[-1])
    return sorted(rows, key=lambda row: -row.trained.mean_iou)


def confusion(
    segmenter: Segmenter, scenes: Sequence[toybox.Scene], seconds: list[float]
) -> np.ndarray:
    """Count pixels by truth and answer over all scenes.

    Args:
        segmenter: what is measured.
        scenes: each is asked with `WORDS` words of its own, see `toybox.choices`.
        seconds: takes the time of each scene.

    Returns:
        (57, 57) int64; rows are the truth and columns the answer: 0 = none of the words,
        i = NAMES[i - 1].
    """
    counts = np.zeros((len(NAMES) + 1, len(NAMES) + 1), np.int64)
    for index, scene in enumerate(scenes):
        words = toybox.choices(scene, WORDS, seed=index)
        start = time.perf_counter()
        labels = segmenter(scene.image, words, Background.none()).labels
        seconds.append(time.perf_counter() - start)
        ids = np.array([0, *(NAMES.index(word) + 1 for word in words)])
        counts += count(ids[toybox.label_map(scene, words)], ids[labels], len(NAMES))
    return counts


def count(truth: np.ndarray, answer: np.ndarray, classes: int) -> np.ndarray:
    """Count pixels by truth (rows) and answer (columns), labels 0 to classes: a square matrix."""
    size = classes + 1
    pairs = truth.astype(np.int64) * size + answer
    return np.bincount(pairs.ravel(), minlength=size * size).reshape(size, size)


def judge(counts: np.ndarray) -> Quality:
    """Sum up a confusion matrix whose first classes are the grounds, after 0 for none of the words.

    A pixel that got none of the words is wrong.
    """
    hit, true, said = counts.diagonal()[1:], counts.sum(1)[1:], counts.sum(0)[1:]
    union = true + said - hit
    iou = hit[union > 0] / union[union > 0]
    things = slice(len(toybox.GROUNDS), None)
    return Quality(
        mean_iou=float(iou.mean()),
        pixels=float(hit.sum() / true.sum()),
        things=float(hit[things].sum() / max(true[things].sum(), 1)),
    )
