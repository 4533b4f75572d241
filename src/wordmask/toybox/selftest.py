"""Selftest: the quality of every registered method on toybox scenes with the built-in tiny CLIP.

The scenes are rendered, so their labels are exact and no file is needed. The numbers show whether
everything works together on this machine, and how the methods differ on this network. They say
nothing about photographs: the network was trained on the toybox alone.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from wordmask.methods import METHODS
from wordmask.metrics import Boundary, Confusion
from wordmask.options import Options, is_installed
from wordmask.progress import steps
from wordmask.refiners import REFINERS, WordStep
from wordmask.segmenter import Segmenter
from wordmask.towers.built_in import CLIP as MODEL
from wordmask.towers.built_in import NETWORKS, OPTIONS
from wordmask.toybox import scenes as toybox
from wordmask.vocabulary import Background

REFINED = "cliper"  # the method with which refiners of maps are measured
REWORDED = "clearclip"  # the same of steps on words
WORDS = 20  # to choose from in each scene: all 8 grounds and 12 looks, the scene's among them

# The same for all methods and variants, over their own options, whatever model is measured.
TOYBOX_OPTIONS = OPTIONS


@dataclass(frozen=True)
class Quality:
    """The metrics of one confusion matrix, each from 0 to 1.

    Attributes:
        mean_iou: intersection over union, averaged over the classes with union > 0.
        boundary_iou: the same for the outlines of masks, see `wordmask.metrics.Boundary`.
        pixels: share of all pixels that are labelled right.
        things: share of the pixels of things that are labelled right, without grounds.
    """

    mean_iou: float
    boundary_iou: float
    pixels: float
    things: float


@dataclass(frozen=True)
class Measurement:
    """One row of the selftest.

    Attributes:
        method, variant: what was measured.
        refine: the refiner of its maps, or "".
        trained: quality on new scenes of pairs of colour and surface that the network was
            trained on.
        held_out: quality on scenes of things with pairs left out of training.
        milliseconds: median time for one scene, from pixels to labels.
    """

    method: str
    variant: str
    refine: str
    trained: Quality
    held_out: Quality
    milliseconds: float

    @property
    def label(self) -> str:
        """`cliper`, or `cliper + vfm`."""
        return Candidate(self.method, self.variant, self.refine).label


class Candidate(NamedTuple):
    """What to measure: a method, its variant, and a refiner of its maps or ""."""

    method: str
    variant: str
    refine: str = ""

    @property
    def label(self) -> str:
        """`cliper` or `cliper + vfm`."""
        return f"{self.method} + {self.refine}" if self.refine else self.method


def candidates(
    methods: Sequence[str] | None = None,
    variants: bool = False,
    refiners: Sequence[str] | None = None,
    networks: Iterable[str] = (),
) -> list[Candidate]:
    """List what to measure.

    Args:
        methods: names or FILE.py:NAME; None for every registered method.
        variants: all variants and not only each method's first.
        refiners: each is measured on the maps of `REFINED`, steps on words on those of
            `REWORDED`; None for every registered one if `methods` is None too, else for none.
        networks: kinds of auxiliary models that are available besides the built-in ones.

    Returns:
        Those with a built-in or available network and all optional parts installed.

    Raises:
        WordmaskError: an unknown method or refiner.
    """
    if refiners is None:
        refiners = sorted(REFINERS) if methods is None else ()
    methods = sorted(METHODS) if methods is None else [METHODS.resolve(x).name for x in methods]
    refiners = [REFINERS.resolve(x).name for x in refiners]
    known = {"none", *NETWORKS, *networks}

    def pick(one: type[Options]) -> list[str]:
        if not is_installed(one) or one.network not in known:
            return []
        return list(one.variants)[: None if variants else 1]

    chosen = [
        Candidate(name, variant)
        for name in dict.fromkeys(methods)
        for variant in pick(METHODS[name])
    ]

    def host(name: str) -> str:
        return REWORDED if issubclass(REFINERS[name], WordStep) else REFINED

    return chosen + [
        Candidate(
            host(name),
            next(iter(METHODS[host(name)].variants)),
            name if number == 0 else f"{name}:{variant}",
        )
        for name in dict.fromkeys(refiners)
        for number, variant in enumerate(pick(REFINERS[name]))
    ]


def measure(
    chosen: Iterable[Candidate],
    scenes: int = 100,
    seed: int = 0,
    model: str = MODEL,
    report: Callable[[Measurement], object] = lambda _: None,
    networks: Mapping[str, Any] = MappingProxyType({}),
) -> list[Measurement]:
    """Measure methods on the same scenes, the best mean IoU first.

    Args:
        chosen: see `candidates`.
        scenes: number of scenes of each kind, 1 to 100,000.
        seed: of the scenes, from 0 on; the same seed gives the same quality.
        model: a CLIP trained on the toybox's words.
        report: called with each row when it is measured.
        networks: sources of auxiliary models by kind, which override the built-in ones.
    """
    trained, held_out = toybox.fresh_scenes(scenes, seed), toybox.fresh_scenes(scenes, seed, "only")
    segmenter: Segmenter | None = None
    rows = []
    for method, variant, refine in chosen:
        if segmenter is None:
            segmenter = Segmenter.from_pretrained(
                model, device="cpu", local_files_only=True, networks={**NETWORKS, **networks}
            )
            segmenter.note = ""  # scenes are what the network knows
        segmenter = segmenter.with_method(method, variant, TOYBOX_OPTIONS, refine)
        # texts are encoded once, untimed
        segmenter(trained[0].image, toybox.NAMES, Background.none())
        seconds: list[float] = []
        on_trained, on_held_out = (
            judge(*count(segmenter, s, seconds)) for s in (trained, held_out)
        )
        milliseconds = 1000 * float(np.median(seconds))
        rows.append(Measurement(method, variant, refine, on_trained, on_held_out, milliseconds))
        report(rows[-1])
    return sorted(rows, key=lambda row: -row.trained.mean_iou)


def count(
    segmenter: Segmenter, scenes: Sequence[toybox.Scene], seconds: list[float]
) -> tuple[Confusion, Boundary]:
    """Count pixels by target and prediction over all scenes, and those of outlines.

    Args:
        segmenter: what is measured.
        scenes: each is labelled with its own `WORDS` words, see `toybox.choices`.
        seconds: the time of each scene is appended to it.

    Returns:
        Counts without background: 0 = none of the words, i = toybox.NAMES[i - 1].
    """
    pixels = Confusion(len(toybox.NAMES), background=False)
    outlines = Boundary(len(toybox.NAMES), background=False)
    for index, scene in enumerate(steps("scenes", scenes)):
        words = toybox.choices(scene, WORDS, seed=index)
        start = time.perf_counter()
        labels = segmenter(scene.image, words, Background.none()).labels
        seconds.append(time.perf_counter() - start)
        ids = np.array([0, *(toybox.NAMES.index(word) + 1 for word in words)], np.uint16)
        target, prediction = ids[toybox.label_map(scene, words)], ids[labels]
        pixels.update(target, prediction)
        outlines.update(target, prediction)
    return pixels, outlines


def judge(pixels: Confusion, outlines: Boundary) -> Quality:
    """The metrics of counts without background, in which grounds are the first classes.

    A pixel with none of the words is wrong.
    """
    things = slice(len(toybox.GROUNDS), None)
    right, total = pixels.intersect[things].sum(), pixels.target_area[things].sum()
    return Quality(
        mean_iou=pixels.mean_iou("union"),
        boundary_iou=outlines.mean_iou("union"),
        pixels=pixels.pixel_accuracy(),
        things=float(right / max(total, 1)),
    )
