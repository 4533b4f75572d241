"""The demo: one toybox scene segmented by every method with the built-in networks."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image

from wordmask import drawing
from wordmask.metrics import Boundary, Confusion
from wordmask.progress import steps
from wordmask.segmentation import Segmentation
from wordmask.segmenter import Segmenter
from wordmask.toybox import scenes as toybox
from wordmask.toybox.selftest import (
    MODEL,
    NETWORKS,
    TOYBOX_OPTIONS,
    WORDS,
    Quality,
    candidates,
    judge,
)
from wordmask.vocabulary import Background

METHOD = "cliper"
COMPLETE = "cliper + diffusion"  # the whole system, if diffusers is installed
SEED = 4 * 10**9 + 81  # a scene that METHOD gets right; `wordmask selftest` measures many others
SIZE = 144  # pixels; the networks were trained on scenes of 96
REFINER_OPTIONS = {"diffusion": {"side": SIZE}}  # scenes are not resized
ENLARGED = 2  # factor of the size of drawn labels


@dataclass(frozen=True)
class Demo:
    """The results of the demo.

    Attributes:
        image: (H, W, 3) uint8, the scene.
        target: (H, W) uint8, the target labels; i = words[i - 1].
        words: the words to choose from: all grounds, the looks of the scene and others.
        results: the segmentation by every method, and by METHOD with every refiner.
        quality: the metrics of each on this scene alone.
    """

    image: np.ndarray
    target: np.ndarray
    words: tuple[str, ...]
    results: dict[str, Segmentation]
    quality: dict[str, Quality]

    @property
    def chosen(self) -> Segmentation:
        """The result of the demo's own method."""
        return self.results[self.name]

    @property
    def name(self) -> str:
        """The name of the demo's own method: CLIPer, with diffusion if installed."""
        return COMPLETE if COMPLETE in self.results else METHOD

    def found(self) -> list[tuple[str, float, float, float]]:
        """List the words in the prediction of the demo's method or in the target, by pixels.

        Each is (word, share predicted, share in the target, intersection over union), 0 to 1.
        """
        rows = []
        for label, word in enumerate(self.words, 1):
            predicted, target = self.chosen.labels == label, self.target == label
            if (predicted | target).any():
                iou = (predicted & target).sum() / (predicted | target).sum()
                rows.append((word, float(predicted.mean()), float(target.mean()), float(iou)))
        return sorted(rows, key=lambda row: -row[1])

    def ranking(self) -> list[str]:
        """The methods by mean IoU on this scene, the highest first."""
        return sorted(self.quality, key=lambda method: -self.quality[method].mean_iou)

    def overlay(self) -> Image.Image:
        """The labels of the demo's own method over the scene, with a legend."""
        return drawing.overlay(_enlarge(self.image), _enlarge(self.chosen.labels), self.words)

    def strip(self) -> Image.Image:
        """The scene, the target and every method's labels side by side, the best method first.

        One legend below names the colours of all.
        """
        every = {"target": self.target}
        for method in self.ranking():
            title = f"{method} mIoU {drawing.percent(self.quality[method].mean_iou)}"
            every[title] = self.results[method].labels
        image, shown = _enlarge(self.image), {title: _enlarge(one) for title, one in every.items()}
        found = np.unique(np.stack(list(every.values()))).tolist()
        numbers = drawing.need_numbers(found)
        painted = [
            drawing.overlay(image, labels, self.words, 0.8, legend=False, numbers=numbers)
            for labels in shown.values()
        ]
        strip = drawing.strip([image, *painted], ["scene", *shown], columns=5)
        colours = drawing.palette(len(self.words)).tolist()
        entries = [(self.words[i - 1], tuple(colours[i])) for i in found if i]
        legend = drawing.legend(entries, strip.width, 20, [i for i in found if i and numbers])
        return drawing.stack([strip, legend])


def _enlarge(pixels: np.ndarray) -> np.ndarray:
    return pixels.repeat(ENLARGED, axis=0).repeat(ENLARGED, axis=1)


def run_demo(model: str = MODEL) -> Demo:
    """Render the scene and segment it by every registered method, and with every refiner.

    Args:
        model: a CLIP trained on the words of the toybox.
    """
    scene = toybox.render(SEED, SIZE, things=(4, 5))
    words = toybox.choices(scene, WORDS)
    target = toybox.label_map(scene, words)
    segmenter = Segmenter.from_pretrained(
        model, device="cpu", local_files_only=True, networks=NETWORKS
    )
    segmenter.note = ""  # the command says it in its own words
    results, quality = {}, {}
    for one in steps("methods", candidates()):
        refine = [(one.refine, REFINER_OPTIONS.get(one.refine))] if one.refine else None
        segmenter = segmenter.with_method(one.method, one.variant, TOYBOX_OPTIONS, refine)
        result = segmenter(scene.image, words, Background.none())
        pixels = Confusion(len(words), background=False)
        outlines = Boundary(len(words), background=False)
        pixels.update(target, result.labels)
        outlines.update(target, result.labels)
        results[one.label], quality[one.label] = result, judge(pixels, outlines)
    return Demo(scene.image, target, tuple(words), results, quality)
